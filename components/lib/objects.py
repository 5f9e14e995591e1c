"""Object stores (S3 and what speaks it, Google Cloud Storage, Azure Blob) through obstore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from components.contract import DataError, StepError
from components.lib.buckets import Entry, blob_key, file_sha256
from components.lib.object_removal import delete_unless, mark_of, renew
from components.lib.object_transfers import Transfers, in_parts
from components.lib.object_uri import first_line, open_store
from components.lib.retry import retrying

T = TypeVar("T")

# The client repeats a request itself; this also repeats a transfer that arrived damaged.
TRANSFER_ATTEMPTS = 4


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
        self._transfers = Transfers(self._store, self.uri, self.storage_class)

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
        with self._transfers.room_for(source.stat().st_size):
            self._call(lambda: self._transfers.upload(key, source), f"upload {key}")

    def adopt(self, source: Path) -> tuple[str, int]:
        """See `Bucket.adopt`. What is there already, of the same name and size, is not sent."""
        size = source.stat().st_size
        if not in_parts(size):
            with self._transfers.room_for(size):
                body = source.read_bytes()
                digest, size = hashlib.sha256(body).hexdigest(), len(body)
                if not self._holds(digest, size):
                    key = blob_key(digest)
                    self._call(lambda: self._transfers.put(key, body), f"upload {key}")
            return digest, size
        digest = file_sha256(source)
        if not self._holds(digest, size):
            self.upload(blob_key(digest), source)
            if file_sha256(source) != digest:
                self.delete(blob_key(digest))  # what arrived may have another name
                raise StepError(f"{source}: changed while it was stored", remedy="run again")
        return digest, size

    def _holds(self, digest: str, size: int) -> bool:
        found = self.entry(blob_key(digest))
        return (
            found is not None
            and found.bytes == size
            and self.freshen(blob_key(digest), older_than_seconds=self.fresh_seconds)
        )

    def download(self, key: str, target: Path) -> str:
        """See `Bucket.download`."""
        return self._call(lambda: self._transfers.download(key, target), f"download {key}")

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        """See `Bucket.freshen`. The object itself stays as it is, in its storage class; an empty
        object beside it bears the new time."""
        return renew(self, key, older_than_seconds=older_than_seconds)

    def entry(self, key: str) -> Entry | None:
        import obstore

        try:
            meta = self._call(lambda: obstore.head(self._store, key), f"look up {key}")
        except FileNotFoundError:
            return None
        return Entry(key=key, bytes=meta["size"], modified=meta["last_modified"].timestamp())

    def list(self, prefix: str) -> Iterator[Entry]:
        marks = {e.key: e.modified for e in self._pages(mark_of(prefix))} if prefix else {}
        for entry in self._pages(prefix):
            renewed = marks.get(mark_of(entry.key), entry.modified)
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
            return delete_unless(self, key, newer_than=unless_newer_than)
        try:
            self._call(lambda: obstore.delete(self._store, key), f"delete {key}")
        except FileNotFoundError:
            return False
        return True

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
