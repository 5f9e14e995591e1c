"""Bodies to and from an object store: in one request or in parts, as one stream or in ranges."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# One request is quicker than parts until it takes about a second: a part costs the server a request
# of its own, and beginning and ending an upload one each. (AWS advises parts from 100 MB on.)
SINGLE_BYTES = 64 << 20
# Of bodies larger than this only so many are in memory at a time.
LARGE_BODY_BYTES, LARGE_BODIES = 8 << 20, 4
# A part costs the server about as much as 10 MiB of body: four of 32 MiB at a time are 7 % quicker
# than eight of 16 MiB, and take the same memory.
PART_BYTES, PARTS_AT_A_TIME = 32 << 20, 4
MULTIPART_PARTS = 9_000  # S3 allows 10,000
# Small enough that the first are hashed while later ones arrive: 1.2 times as quick as 64 MiB on
# two busy cores. All that are on their way must fit into a request's time-out on a slow line.
RANGE_BYTES = 16 << 20
# One stream is quicker than several ranges until it takes about a second (at 100 MB/s).
STREAM_BYTES = 96 << 20
READ_BYTES = 4 << 20
RANGE_READ_BYTES = 1 << 20
RANGES_AT_A_TIME = 8


def in_parts(size: int) -> bool:
    """Whether a body of that size is sent in parts, and never whole in memory."""
    return size > SINGLE_BYTES


class Transfers:
    """Moves bodies, each attempt once; whoever calls repeats what failed.

    Args:
        store: of obstore.
        uri: for messages.
        storage_class: of what is uploaded, None for the bucket's own.
    """

    def __init__(self, store: Any, uri: str, storage_class: str | None) -> None:
        self._store = store
        self._uri = uri
        self._large_bodies = threading.BoundedSemaphore(LARGE_BODIES)
        self._attributes = {"Storage-Class": storage_class} if storage_class else None

    def room_for(self, size: int) -> contextlib.AbstractContextManager[object]:
        """Return what to hold while a body of that size is in memory."""
        return self._large_bodies if size > LARGE_BODY_BYTES else contextlib.nullcontext()

    def upload(self, key: str, source: Path) -> None:
        """Write a file, in parts when it is large."""
        size = source.stat().st_size
        if in_parts(size):
            self.put(key, source, part_bytes=max(PART_BYTES, -(-size // MULTIPART_PARTS)))
        else:
            self.put(key, source.read_bytes())

    def put(self, key: str, content: bytes | Path, *, part_bytes: int | None = None) -> None:
        """Write bytes in one request, or a file in parts.

        Not looked up afterwards: the server has compared every part with its signed SHA-256.
        """
        import obstore

        obstore.put(
            self._store,
            key,
            content,
            attributes=self._attributes,
            use_multipart=part_bytes is not None,
            chunk_size=part_bytes or SINGLE_BYTES,
            max_concurrency=PARTS_AT_A_TIME,
        )

    def download(self, key: str, target: Path) -> str:
        """Write an object to the new file `target` and return the SHA-256 of what arrived: as one
        stream, or large objects in parallel ranges.

        Raises:
            FileNotFoundError: no such object.
            ConnectionError: less arrived than there is.
        """
        import obstore

        answer = obstore.get(self._store, key)
        size = answer.meta["size"]
        if size > STREAM_BYTES:
            return self._ranges(key, size, target)
        digest, arrived = hashlib.sha256(), 0
        with target.open("wb") as stream:
            for body in answer.stream(min_chunk_size=READ_BYTES):
                digest.update(body)
                stream.write(body)
                arrived += len(body)
        if arrived != size:
            raise ConnectionError(f"{self._uri}/{key}: {arrived} of {size} bytes arrived")
        return digest.hexdigest()

    def _ranges(self, key: str, size: int, target: Path) -> str:
        """Write ranges to their places as they arrive, several at once; hash each when it and all
        before it are there, while others arrive."""
        with target.open("w+b") as stream, ThreadPoolExecutor(RANGES_AT_A_TIME) as pool:
            handle = stream.fileno()
            starts = range(0, size, RANGE_BYTES)
            ends = [min(start + RANGE_BYTES, size) for start in starts]
            coming = [
                pool.submit(self._range, key, handle, start, end)
                for start, end in zip(starts, ends, strict=True)
            ]
            digest, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
            try:
                for start, end, future in zip(starts, ends, coming, strict=True):
                    future.result()
                    while start < end:
                        count = os.preadv(handle, [buffer[: end - start]], start)
                        digest.update(buffer[:count])
                        start += count
            finally:
                for future in coming:
                    future.cancel()
        return digest.hexdigest()

    def _range(self, key: str, handle: int, start: int, end: int) -> None:
        """Write a range to its place; what breaks off, as every request does that a slow line keeps
        longer than its time-out, goes on where it broke as long as something arrives."""
        import obstore
        from obstore.exceptions import BaseError

        at = start
        while at < end:
            before = at
            try:
                answer = obstore.get(self._store, key, options={"range": (at, end)})
                for body in answer.stream(min_chunk_size=RANGE_READ_BYTES):
                    at += os.pwrite(handle, body, at)
            except (BaseError, OSError):
                if at == before:
                    raise
            if at == before:
                raise ConnectionError(
                    f"{self._uri}/{key}: {at - start} of {end - start} bytes arrived"
                )
