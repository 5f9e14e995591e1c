"""Where a tier's bytes live: a local folder or an object store, behind one small interface.

Keys are relative POSIX paths. Every write is atomic: a reader sees all of an object or none of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from components.contract import DataError, StepError

CHUNK_BYTES = 1 << 20
PARTIAL_PREFIX = ".partial-"
DOOMED_PREFIX = f"{PARTIAL_PREFIX}doomed-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object in a listing; `modified` is in seconds since 1970 by the bucket's own clock."""

    key: str
    bytes: int
    modified: float


class Bucket(Protocol):
    """What a tier must be able to do."""

    root: Path | None  # the folder of a local bucket

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None when there is none."""

    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool:
        """Write a small object; with `create_only` return False when it was there already."""

    def upload(self, key: str, source: Path) -> None:
        """Write the file `source` under `key`."""

    def download(self, key: str, target: Path) -> str:
        """Write the object to the new file `target` and return the SHA-256 of its bytes.

        Raises:
            FileNotFoundError: no such object.
        """

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        """Return whether the object is there; if so, and it is older than that, make it look new,
        so that a garbage collection that judged it before does not remove it."""

    def entry(self, key: str) -> Entry | None:
        """Return size and age of the object, or None."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects whose key starts with the folder `prefix`."""

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        """Remove the object; return False when it is gone or was renewed since that time."""

    def now(self) -> float:
        """Return the time by the clock that stamps the objects."""


class LocalBucket:
    """A folder. Objects are read-only files, put in place by rename."""

    def __init__(self, root: Path) -> None:
        self.root: Path | None = root
        self._root = root

    def path(self, key: str) -> Path:
        return self._root / key

    def read(self, key: str) -> bytes | None:
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool:
        with self._partial(key) as (stream, name):
            stream.write(body)
            return self._place(stream, name, key, create_only=create_only)

    def upload(self, key: str, source: Path) -> None:
        with source.open("rb") as content, self._partial(key) as (stream, name):
            shutil.copyfileobj(content, stream, CHUNK_BYTES)
            os.fchmod(stream.fileno(), 0o444)
            self._place(stream, name, key, create_only=False)

    def adopt(self, source: Path) -> tuple[str, int]:
        """Copy `source` into ``blobs/`` under the SHA-256 of the bytes that were copied; return
        digest and size. Reading once means that what is named is what is stored, even when the
        file changes meanwhile."""
        key = f"blobs/{PARTIAL_PREFIX}adopted"
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as content, self._partial(key) as (stream, name):
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
                size += len(chunk)
            os.fchmod(stream.fileno(), 0o444)
            found = digest.hexdigest()
            # Put in place even when the name is taken: the copy is made already, its time is new
            # for a running collection, and a damaged blob of that name heals.
            self._place(stream, name, blob_key(found), create_only=False)
        return found, size

    def download(self, key: str, target: Path) -> str:
        digest = hashlib.sha256()
        with self.path(key).open("rb") as content, target.open("wb") as stream:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
        return digest.hexdigest()

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        path = self.path(key)
        try:
            if path.stat().st_mtime < time.time() - older_than_seconds:
                # Also the test of presence: it fails when a collection has just moved the file.
                os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def entry(self, key: str) -> Entry | None:
        try:
            status = self.path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key=key, bytes=status.st_size, modified=status.st_mtime)

    def list(self, prefix: str) -> Iterator[Entry]:
        base = self._root / prefix
        for folder, folders, names in os.walk(base):
            folders.sort()
            for name in sorted(names):
                if name.startswith(PARTIAL_PREFIX):
                    continue
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                found = self.entry(key)
                if found is not None:
                    yield found

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        path = self.path(key)
        if unless_newer_than is None:
            path.unlink(missing_ok=True)
            return True
        # Taken away first and judged after: a writer that freshens the file either does so before
        # (then its time shows here and it goes back) or finds it gone and writes it again.
        doomed = path.with_name(f"{DOOMED_PREFIX}{os.getpid()}-{path.name}")
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return False
        if doomed.stat().st_mtime > unless_newer_than:
            os.rename(doomed, path)
            return False
        doomed.unlink()
        return True

    def now(self) -> float:
        return time.time()

    def recover(self, folder: str = "") -> None:
        """Put back what a removal that was killed had taken away but not yet judged."""
        for doomed in (self._root / folder).rglob(f"{DOOMED_PREFIX}*"):
            process, _, name = doomed.name.removeprefix(DOOMED_PREFIX).partition("-")
            if not Path(f"/proc/{process}").exists():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(doomed, doomed.with_name(name))

    def remove_partials(self, *, older_than: float) -> int:
        """Remove what broken-off writes left before that time; return the bytes freed."""
        freed = 0
        for path in self._root.rglob(f"{PARTIAL_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.is_file() and status.st_mtime < older_than:
                    path.unlink()
                    freed += status.st_size
        return freed

    @contextlib.contextmanager
    def _partial(self, key: str) -> Iterator[tuple[IO[bytes], Path]]:
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL_PREFIX)
        except OSError as error:
            raise _cannot_write(path, error) from error
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream, partial
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename != name:
                raise  # the source, not the target
            raise _cannot_write(path, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _place(self, stream: IO[bytes], partial: Path, key: str, *, create_only: bool) -> bool:
        """Make the finished file visible; its bytes reach the disk before its name does."""
        stream.flush()
        os.fsync(stream.fileno())
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not create_only:
            os.replace(partial, path)
            return True
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        return True


def blob_key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def manifest_key(digest: str) -> str:
    return f"manifests/{digest}.json"


def _cannot_write(path: Path, error: OSError) -> StepError:
    return StepError(f"cannot write {path}: {error}", remedy="check space and rights")


def open_bucket(uri: str) -> Bucket:
    """Open a tier by its URI: a folder, ``file://``, or ``s3://``, ``gs://``, ``az://``.

    Raises:
        DataError: another scheme.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalBucket(Path(uri))
    if scheme == "file":
        return LocalBucket(Path(rest))
    if scheme in ("s3", "gs", "az", "abfs"):
        from components.lib.objects import ObjectBucket

        return ObjectBucket(uri)
    raise DataError(f"storage: scheme {scheme!r} of {uri!r} is not one of file, s3, gs, az")
