"""Bring artifacts into a local hot tier ahead of their use, and make room for them there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from components.contract import SuanliError
from components.lib.collect import evict
from components.storage import Store

# What is left free on the hot tier's disk for everything else: a share of it, but no more than so.
RESERVED_SHARE, RESERVED_BYTES = 0.05, 4 << 30


def artifacts_in(inputs: Any) -> list[str]:
    """Return the artifact URIs of a step's inputs, each once."""
    values = inputs.values() if isinstance(inputs, dict) else inputs
    found: dict[str, None] = {}
    for value in values:
        for uri in value if isinstance(value, list) else [value]:
            if isinstance(uri, str) and uri.startswith("artifact://"):
                found[uri] = None
    return list(found)


def make_room(store: Store, needed_bytes: int) -> list[str]:
    """Drop from a local hot tier what was used longest ago and another tier holds too, until so
    much fits and a reserve stays free; return what went. What fits already drops nothing."""
    root = store.local_root("hot")
    if root is None or not root.exists():
        return []
    disk = shutil.disk_usage(root)
    reserve = min(int(disk.total * RESERVED_SHARE), RESERVED_BYTES)
    missing = needed_bytes + reserve - disk.free
    if missing <= 0:
        return []
    held = sum(entry.bytes for entry in store.buckets["hot"].list("blobs"))
    return evict(store, limit_bytes=max(0, held - missing))


class Prefetch:
    """Copies artifacts to a local hot tier in the background, in order; a context manager.

    Best effort: whoever needs an artifact fetches it and meets the error, if there is one. Leaving
    ends it after the file it is at; files that arrived stay and are not copied again.
    """

    def __init__(self, store: Store, uris: Iterable[str]) -> None:
        self._store = store
        self._stopped = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        wanted = list(uris) if store.local_root("hot") is not None else []
        self._coming = {uri: self._pool.submit(self._bring, uri) for uri in wanted}

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def wait(self, uri: str) -> None:
        """Return when the artifact is on the hot tier, or cannot be brought there."""
        coming = self._coming.get(uri)
        if coming is not None:
            coming.result()

    def _bring(self, uri: str) -> None:
        with suppress(SuanliError, OSError):
            if "hot" not in self._store.tiers_of(uri):
                make_room(self._store, self._store.size_bytes(uri))
                self._store.copy_to_tier(uri, "hot", stop=lambda: self._stopped)
