"""Where a tier's bytes live: a local folder or an object store, behind one small interface.

Keys are relative POSIX paths. Every write is atomic: a reader sees all of an object or none of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

LOOKS = 5
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object in a listing; `modified` is in seconds since 1970 by the bucket's own clock."""

    key: str
    bytes: int
    modified: float


class Bucket(Protocol):
    """What a tier must be able to do."""

    root: Path | None  # the folder of a local bucket
    resolution_seconds: float  # times that differ by less may be those of one moment
    fresh_seconds: float  # what is younger need not be renewed by whoever counts on it
    # How long a blob that no manifest names is left alone: its writer may be about to publish.
    counted_on_seconds: float

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None when there is none."""

    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool:
        """Write a small object; with `create_only` return False when it was there already."""

    def upload(self, key: str, source: Path) -> None:
        """Write the file `source` under `key`."""

    def adopt(self, source: Path) -> tuple[str, int]:
        """Store a file as the blob named by the SHA-256 of the bytes that were stored, whatever
        happens to the file meanwhile; return digest and size."""

    def download(self, key: str, target: Path) -> str:
        """Write the object to the new file `target` and return the SHA-256 of its bytes.

        Raises:
            FileNotFoundError: no such object.
        """

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        """Return whether the object is there; if so, and it is older than that, make it look new.

        Either this comes first, and a `delete` that is told an earlier time leaves the object
        alone, or the removal does, and this returns False: nothing between the two. All that is
        safe in a store with several processes rests on that."""

    def entry(self, key: str) -> Entry | None:
        """Return size and age of the object, or None."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects whose key starts with the folder `prefix`."""

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        """Remove the object; with a time (by `now`), only if it was not renewed after it.

        Returns False when the object is gone or stays."""

    def now(self) -> float:
        """Return the time by the clock that stamps the objects."""

    def recover(self, folder: str) -> bool:
        """Put back what a killed process left half removed below `folder`; False if nothing can
        be half removed here."""


def look(bucket: Bucket, key: str, find: Callable[[], T | None]) -> T | None:
    """Return `find()`, asked again if it finds nothing while a removal that may be undone is under
    way in the folder of `key`."""
    for _ in range(LOOKS):
        found = find()
        if found is not None or bucket.root is None:
            return found
        if not bucket.recover(key.rpartition("/")[0]):
            break
        time.sleep(LOOK_SECONDS)
    return find()


def blob_key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def manifest_key(digest: str) -> str:
    return f"manifests/{digest}.json"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of the file at `path`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
