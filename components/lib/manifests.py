"""Manifests: what an artifact consists of, written last so that nobody sees half of one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract import MANIFEST_VERSION, DataError, StepError
from components.lib.buckets import Bucket, blob_key, look, manifest_key

READ_ATTEMPTS = 6
PUBLISH_ATTEMPTS = 20
PARALLEL_BLOBS = 8  # requests to an object store are mostly waiting


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``artifact://<kind>/<sha256>`` into kind and digest.

    Raises:
        DataError: the URI has another form.
    """
    scheme, _, rest = uri.partition("://")
    kind, _, digest = rest.partition("/")
    if scheme != "artifact" or not kind or not is_digest(digest):
        raise DataError(f"{uri!r} is not an artifact URI of the form artifact://<kind>/<sha256>")
    return kind, digest


def is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


def read_manifest(bucket: Bucket, digest: str) -> bytes | None:
    """Return the manifest's verified bytes, read again if they arrived damaged; None if absent.

    Raises:
        DataError: they do not match their name.
    """
    key = manifest_key(digest)
    for _ in range(READ_ATTEMPTS):
        body = look(bucket, key, lambda: bucket.read(key))
        if body is None or hashlib.sha256(body).hexdigest() == digest:
            return body
        if bucket.root is not None:
            break  # a local file reads the same again
    raise DataError(f"{key} does not match its name")


def check_manifest(document: Any, uri: str) -> dict[str, Any]:
    """Return `document` if it is a manifest that may be laid out.

    Raises:
        DataError: wrong shape, or a path that is absolute, climbs, or names one file twice.
    """
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or document.get("schema_version") != MANIFEST_VERSION:
        raise DataError(f"{uri}: manifest has another schema", remedy="use the suanli of its maker")
    seen = set()
    for entry in files:
        name, digest = entry.get("path"), entry.get("sha256")
        path = PurePosixPath(str(name))
        if not name or path.is_absolute() or ".." in path.parts or "\0" in str(name):
            raise DataError(f"{uri}: path {name!r} leaves the artifact's folder")
        if not is_digest(digest) or not isinstance(entry.get("bytes"), int):
            raise DataError(f"{uri}: entry {name!r} has no valid sha256 and size")
        if path in seen:
            raise DataError(f"{uri}: path {name!r} occurs twice")
        seen.add(path)
    result: dict[str, Any] = document
    return result


def publish(
    bucket: Bucket,
    body: bytes,
    files: list[dict[str, Any]],
    store_again: Callable[[dict[str, Any]], None],
    *,
    counted_since: float | None = None,
) -> str:
    """Write the manifest `body` when every blob it names is there, and return its SHA-256.

    A removal spares blobs that were counted on a moment ago. So the manifest must follow them
    sooner than that: where storing took longer, all are renewed once more and what went is stored
    again, until one pass was quick.

    Args:
        counted_since: the monotonic time since when the blobs are known to be there.

    Raises:
        StepError: no pass was quick enough.
    """
    digest = hashlib.sha256(body).hexdigest()
    longest = bucket.counted_on_seconds / 2
    for _ in range(PUBLISH_ATTEMPTS):
        if counted_since is None:
            counted_since = time.monotonic()
            keys = [blob_key(entry["sha256"]) for entry in files]
            with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
                there = list(pool.map(partial(count_on, bucket), keys))
            for entry in (entry for entry, found in zip(files, there, strict=True) if not found):
                store_again(entry)
        if (
            time.monotonic() - counted_since < longest
            and _write_manifest(bucket, digest, body)
            and time.monotonic() - counted_since < longest
        ):
            return digest
        counted_since = None
    raise StepError(
        f"{manifest_key(digest)}: {len(files)} files cannot be renewed in {longest:g} s",
        remedy="try again when the store answers more quickly",
    )


def _write_manifest(bucket: Bucket, digest: str, body: bytes) -> bool:
    """Write the manifest, create-only; when it was there, renew it, or replace it if it was
    damaged. Returns False when it was there and was removed at this moment."""
    key = manifest_key(digest)
    if bucket.write(key, body, create_only=True):
        return True
    if bucket.read(key) not in (body, None):
        return bucket.write(key, body)
    return count_on(bucket, key)


def count_on(bucket: Bucket, key: str) -> bool:
    """Return whether the object is there, and keep it from being removed for a while."""
    return bucket.freshen(key, older_than_seconds=bucket.fresh_seconds)


def restores(bucket: Bucket, places: dict[str, Path]) -> Callable[[dict[str, Any]], None]:
    """Return what stores a blob of a folder once more: `places` maps SHA-256 to file."""

    def store(entry: dict[str, Any]) -> None:
        path = places[entry["sha256"]]
        if bucket.adopt(path)[0] != entry["sha256"]:
            raise StepError(f"{path}: changed while it was stored", remedy="run the step again")

    return store
