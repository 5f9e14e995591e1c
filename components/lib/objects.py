"""Object stores (S3 and what speaks it, Google Cloud Storage, Azure Blob) through obstore."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from components.contract import DataError, StepError
from components.lib.buckets import Entry, blob_key, file_sha256
from components.lib.object_uri import first_line, open_store
from components.lib.retry import retrying

T = TypeVar("T")

# The client repeats a request itself; this also repeats a transfer that arrived damaged.
TRANSFER_ATTEMPTS = 4
# One request is quicker than parts until it takes about a second: a part costs the server a request
# of its own, and beginning and ending an upload one each. (AWS advises parts from 100 MB on.)
SINGLE_BYTES = 64 << 20
# Of bodies larger than this only so many are in memory at a time.
LARGE_BODY_BYTES, LARGE_BODIES = 8 << 20, 4
PART_BYTES = 16 << 20
MULTIPART_PARTS = 9_000  # S3 allows 10,000
RANGE_BYTES = 64 << 20
# One stream is quicker than several ranges until it takes about a second (at 100 MB/s).
STREAM_BYTES = 96 << 20
READ_BYTES = 4 << 20
RANGE_READ_BYTES = 1 << 20
CONCURRENCY = 8
# Longer than a request with all its repetitions: then the process that was removing is dead.
REMOVAL_SECONDS = 600.0
WAIT_SECONDS = 0.5


class ObjectBucket:
    """A prefix of a bucket or container."""

    root: Path | None = None
    resolution_seconds = 0.5  # stores tell times in whole seconds
    # Renewing takes requests: only what is older than this, well below any collection's grace.
    fresh_seconds = 3600.0
    counted_on_seconds = 2 * fresh_seconds

    def __init__(self, uri: str) -> None:
        self.uri = uri.partition("?")[0]
        self._store, self.storage_class = open_store(uri)
        self._large_bodies = threading.BoundedSemaphore(LARGE_BODIES)
        self._attributes = {"Storage-Class": self.storage_class} if self.storage_class else None

    def read(self, key: str) -> bytes | None:
        import obstore

        try:
            return self._call(lambda: bytes(obstore.get(self._store, key).bytes()), f"read {key}")
        except FileNotFoundError:
            return None

    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if create_only else "overwrite"
        try:
            # Small documents stay in the standard class: archives bill a minimum size.
            self._call(
                lambda: obstore.put(self._store, key, body, mode=mode, use_multipart=False),
                f"write {key}",
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def upload(self, key: str, source: Path) -> None:
        size = source.stat().st_size
        if size <= SINGLE_BYTES:
            with self._room_for(size):
                self._put(key, source.read_bytes(), part_bytes=None)
        else:
            self._put(key, source, part_bytes=max(PART_BYTES, -(-size // MULTIPART_PARTS)))

    def adopt(self, source: Path) -> tuple[str, int]:
        """See `Bucket.adopt`. What is there already, of the same name and size, is not sent."""
        size = source.stat().st_size
        if size <= SINGLE_BYTES:
            with self._room_for(size):
                body = source.read_bytes()
                digest, size = hashlib.sha256(body).hexdigest(), len(body)
                if not self._holds(digest, size):
                    self._put(blob_key(digest), body, part_bytes=None)
            return digest, size
        digest = file_sha256(source)
        if not self._holds(digest, size):
            self.upload(blob_key(digest), source)
            if file_sha256(source) != digest:
                self.delete(blob_key(digest))  # what arrived may have another name
                raise StepError(f"{source}: changed while it was stored", remedy="run again")
        return digest, size

    def _room_for(self, size: int) -> contextlib.AbstractContextManager[object]:
        return self._large_bodies if size > LARGE_BODY_BYTES else contextlib.nullcontext()

    def _holds(self, digest: str, size: int) -> bool:
        found = self.entry(blob_key(digest))
        return (
            found is not None
            and found.bytes == size
            and self.freshen(blob_key(digest), older_than_seconds=self.fresh_seconds)
        )

    def _put(self, key: str, content: bytes | Path, *, part_bytes: int | None) -> None:
        import obstore

        def attempt() -> None:
            obstore.put(
                self._store,
                key,
                content,
                attributes=self._attributes,
                use_multipart=part_bytes is not None,
                chunk_size=part_bytes or SINGLE_BYTES,
                max_concurrency=CONCURRENCY,
            )

        # Not looked up afterwards: the server has compared every part with its signed SHA-256.
        self._call(attempt, f"upload {key}")

    def download(self, key: str, target: Path) -> str:
        """Read as one stream, or large objects in parallel ranges; see `Bucket.download`."""
        import obstore

        def attempt() -> str:
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
                raise ConnectionError(f"{self.uri}/{key}: {arrived} of {size} bytes arrived")
            return digest.hexdigest()

        return self._call(attempt, f"download {key}")

    def _ranges(self, key: str, size: int, target: Path) -> str:
        """Write ranges to their places as they arrive, several at once; hash each when it and all
        before it are there, while others arrive."""
        with target.open("w+b") as stream, ThreadPoolExecutor(CONCURRENCY) as pool:
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
        import obstore

        answer = obstore.get(self._store, key, options={"range": (start, end)})
        at = start
        for body in answer.stream(min_chunk_size=RANGE_READ_BYTES):
            at += os.pwrite(handle, body, at)
        if at != end:
            raise ConnectionError(f"{self.uri}/{key}: {at - start} of {end - start} bytes arrived")

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        """See `Bucket.freshen`. The object itself stays as it is, in its storage class; an empty
        object beside it bears the new time.

        Stores have no removal that depends on another object, so both sides say what they are
        about to do before they look: this writes the mark, then looks for a removal under way; a
        removal announces itself, then looks for the mark. At least one sees the other, for stores
        show every finished write to every later read.
        """
        found = self.entry(key)
        if found is None:
            return False
        if older_than_seconds > 0 and found.modified > time.time() - older_than_seconds:
            return True
        end = time.monotonic() + 2 * REMOVAL_SECONDS
        while time.monotonic() < end:
            self.write(_mark(key), b"")
            removal = self.entry(_announcement(key))
            if removal is None:
                return self.entry(key) is not None
            if removal.modified < self.now() - REMOVAL_SECONDS:
                self.delete(_announcement(key))  # its process was killed
            else:
                time.sleep(WAIT_SECONDS)
        raise StepError(f"{self.uri}/{key}: being removed for too long", remedy="run again")

    def entry(self, key: str) -> Entry | None:
        import obstore

        try:
            meta = self._call(lambda: obstore.head(self._store, key), f"look up {key}")
        except FileNotFoundError:
            return None
        return Entry(key=key, bytes=meta["size"], modified=meta["last_modified"].timestamp())

    def list(self, prefix: str) -> Iterator[Entry]:
        marks = {e.key: e.modified for e in self._pages(_mark(prefix))} if prefix else {}
        for entry in self._pages(prefix):
            renewed = marks.get(_mark(entry.key), entry.modified)
            yield replace(entry, modified=max(entry.modified, renewed))

    def _pages(self, prefix: str) -> list[Entry]:
        import obstore

        def pages() -> list[Any]:
            return [meta for page in obstore.list(self._store, prefix=prefix) for meta in page]

        return [
            Entry(key=meta["path"], bytes=meta["size"], modified=meta["last_modified"].timestamp())
            for meta in self._call(pages, f"list {prefix}")
        ]

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        import obstore

        if unless_newer_than is not None:
            return self._delete_unless(key, unless_newer_than)
        try:
            self._call(lambda: obstore.delete(self._store, key), f"delete {key}")
        except FileNotFoundError:
            return False
        return True

    def _delete_unless(self, key: str, newer_than: float) -> bool:
        """Remove the object if it was not renewed since; see `freshen`."""
        announcement, token = _announcement(key), secrets.token_hex(8).encode()
        begun = time.monotonic()
        if not self._announce(announcement, token):
            return False  # another process is about to remove it
        found, mark = self.entry(key), self.entry(_mark(key))
        removed = False
        if found and max(found.modified, mark.modified if mark else 0.0) <= newer_than:
            # Still ours, and long before anybody may take this process for dead? If the removal
            # fails, it may yet happen, and the announcement stays.
            in_time = time.monotonic() - begun < REMOVAL_SECONDS / 10
            if in_time and self.read(announcement) == token:
                removed = self.delete(key)
                self.delete(_mark(key))
        if self.read(announcement) == token:
            self.delete(announcement)
        return removed

    def _announce(self, announcement: str, token: bytes) -> bool:
        for _ in range(2):
            if self.write(announcement, token, create_only=True):
                return True
            if self.read(announcement) == token:
                return True  # written, but the answer was lost
            other = self.entry(announcement)
            if other is not None and other.modified >= self.now() - REMOVAL_SECONDS:
                return False
            self.delete(announcement)  # its process was killed
        return False

    def now(self) -> float:
        """Return the server's time, by writing a probe: clocks differ by more than a second."""
        self.write("clock", b"")
        found = self.entry("clock")
        assert found is not None
        return found.modified

    def identity(self, key: str) -> tuple[str | None, int] | None:
        """Return what tells whether the object has changed: etag and size; None if absent."""
        import obstore

        try:
            meta = self._call(lambda: obstore.head(self._store, key), f"look up {key}")
        except FileNotFoundError:
            return None
        return meta.get("e_tag"), meta["size"]

    def recover(self, folder: str) -> bool:
        return False

    def _call(self, work: Callable[[], T], what: str) -> T:
        """Run one operation with bounded retries, and translate what finally fails."""
        from obstore import exceptions as failures

        final = (
            FileNotFoundError,
            failures.AlreadyExistsError,
            failures.PreconditionError,
            failures.PermissionDeniedError,
            failures.UnauthenticatedError,
        )
        try:
            return retrying(
                work,
                what=what,
                attempts=TRANSFER_ATTEMPTS,
                retriable=lambda error: not isinstance(error, final),
            )
        except (FileNotFoundError, failures.AlreadyExistsError, failures.PreconditionError):
            raise
        except (failures.PermissionDeniedError, failures.UnauthenticatedError) as error:
            if "InvalidObjectState" in str(error):
                raise DataError(
                    f"{self.uri}: cannot {what}: it is archived",
                    remedy="suanli tier restore brings an artifact back",
                ) from error
            raise DataError(
                f"{self.uri}: the store refuses to {what}: {first_line(error)}",
                remedy="check the credentials in the environment and their rights on this bucket",
            ) from error
        except (failures.BaseError, OSError) as error:
            raise StepError(
                f"{self.uri}: cannot {what}: {first_line(error)}",
                remedy="the store was asked several times; run again when it answers",
            ) from error


def _mark(key: str) -> str:
    return f"renewed/{key}"


def _announcement(key: str) -> str:
    return f"removing/{key}"
