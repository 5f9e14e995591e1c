"""Read an artifact while it still arrives.

`stream_split` hands out a split shard by shard, so that a first pass over the data begins with the
first shard, not after the last; a second pass finds everything on the hot tier and maps it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from components.lib.dataset import Split, load_shard, read_manifest
from components.storage import Store

AHEAD_SHARDS = 4


def stream_files(
    store: Store, uri: str, names: Sequence[str], destination: Path, *, ahead: int = AHEAD_SHARDS
) -> Iterator[Path]:
    """Lay out files of an artifact one after the other, each verified, and yield their paths; the
    next `ahead` are on their way meanwhile. When all were read the hot tier holds them.

    Raises:
        DataError: a file is missing everywhere or corrupted.
        KeyError: the artifact has no file of that name.
    """
    entries = {entry["path"]: entry for entry in store.manifest(uri)["files"]}
    coming: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            waiting = deque(names)
            while waiting or coming:
                while waiting and len(coming) <= ahead:
                    entry = entries[waiting.popleft()]
                    coming.append(pool.submit(store.lay_out, entry, destination))
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def stream_split(
    store: Store, uri: str, split: str, destination: Path, *, seed: int | None = None
) -> Iterator[Split]:
    """Yield a split shard by shard as it arrives from whatever tier holds it.

    Args:
        seed: shuffles the order of the shards; None keeps that of the source.

    Raises:
        DataError: the dataset has no such split, or a shard is missing or corrupted.
    """
    next(stream_files(store, uri, ["manifest.json"], destination))
    shards = read_manifest(destination)["splits"].get(split, {"shards": []})["shards"]
    names = [entry["file"] for entry in shards]
    if seed is not None:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    for path in stream_files(store, uri, names, destination):
        yield load_shard(split, path)
