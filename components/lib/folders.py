"""A folder as a bucket: atomic writes, and removals that nobody who counts on a file can miss.

Several processes, pods or hosts may share the folder. Nothing here relies on locks, which network
volumes do not all have, but on renames and hard links.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from components.contract import StepError
from components.lib.buckets import Entry, blob_key, look

CHUNK_BYTES = 1 << 20
PARTIAL_PREFIX = ".partial-"
DOOMED_PREFIX = f"{PARTIAL_PREFIX}doomed-"
# A removal takes microseconds; one that has not ended by now was killed, wherever it ran.
DOOMED_SECONDS = 60.0


class LocalBucket:
    """A folder. Objects are read-only files, put in place by rename."""

    resolution_seconds = 0.002
    fresh_seconds = 0.0  # renewing costs nothing here
    counted_on_seconds = 60.0

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

    def take(self, key: str, source: Path) -> None:
        """Move the file `source`, which lies on this filesystem and is nobody else's, to `key`."""
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as stream:
                os.fchmod(stream.fileno(), 0o444)
                os.fsync(stream.fileno())
            os.replace(source, path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _cannot_write(path, error) from error

    def adopt(self, source: Path) -> tuple[str, int]:
        """See `Bucket.adopt`: the file is read once, copied and hashed at the same time."""
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
            oldest = time.time() - older_than_seconds
            if older_than_seconds <= 0 or path.stat().st_mtime < oldest:
                # Also the test of presence: it fails when a removal has just moved the file.
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
            for name in sorted(_visible(names)):
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                found = look(self, key, functools.partial(self.entry, key))
                if found is not None:
                    yield found

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        path = self.path(key)
        if unless_newer_than is None:
            path.unlink(missing_ok=True)
            return True
        doomed = path.with_name(_doomed_name(path.name))
        try:
            if path.stat().st_mtime > unless_newer_than:
                return False
            # Taken away first and judged after: a writer that freshens the file either did so
            # before (then its time shows here and it goes back) or finds it gone and writes it
            # again.
            os.rename(path, doomed)
            if doomed.stat().st_mtime > unless_newer_than:
                _put_back(doomed, path)
                return False
            doomed.unlink()
        except FileNotFoundError:
            return False  # gone, or put back by somebody who took this process for dead
        return True

    def now(self) -> float:
        """Return the time of the filesystem, which on a network volume is its server's."""
        try:
            handle, name = tempfile.mkstemp(dir=self._root, prefix=PARTIAL_PREFIX)
        except OSError:
            return time.time()  # nothing is stored yet, or it is read-only
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
            Path(name).unlink(missing_ok=True)

    def recover(self, folder: str) -> bool:
        """Put back what a killed removal had taken away; return whether any removal was seen,
        also one that goes on: what it took may come back in a moment."""
        seen = False
        for doomed in _found(self._root / folder, DOOMED_PREFIX):
            seen = True
            parts = doomed.name.removeprefix(DOOMED_PREFIX).split("-", 3)
            if len(parts) < 4:
                continue  # not of this program's making
            table, process, _, name = parts
            with contextlib.suppress(FileNotFoundError):
                gone = table == _process_table() and not Path(f"/proc/{process}").exists()
                # The change time is that of the rename, whatever the age of the content.
                if gone or doomed.stat().st_ctime < self.now() - DOOMED_SECONDS:
                    # Claimed by rename, so that either this or the removal has it, never both.
                    claimed = doomed.with_name(_doomed_name(name))
                    os.rename(doomed, claimed)
                    _put_back(claimed, doomed.with_name(name))
        return seen

    def remove_partials(self, *, older_than: float) -> int:
        """Remove what broken-off writes left before that time; return the bytes freed."""
        freed = 0
        for path in _found(self._root, PARTIAL_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if not path.name.startswith(DOOMED_PREFIX) and status.st_mtime < older_than:
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


def _visible(names: list[str]) -> set[str]:
    """Return the names of objects among those of a folder's files: also of what a removal has taken
    away and may put back, but not of unfinished writes."""
    doomed = (n.removeprefix(DOOMED_PREFIX) for n in names if n.startswith(DOOMED_PREFIX))
    judged = {name.split("-", 3)[-1] for name in doomed}
    return judged | {name for name in names if not name.startswith(PARTIAL_PREFIX)}


def _found(folder: Path, prefix: str) -> Iterator[Path]:
    """Yield the files below `folder` whose name starts so; folders may vanish meanwhile."""
    for base, folders, names in os.walk(folder):
        if base == str(folder):
            folders[:] = [name for name in folders if name != "scratch"]
        yield from (Path(base) / name for name in names if name.startswith(prefix))


def _doomed_name(name: str) -> str:
    process = f"{_process_table()}-{os.getpid()}-{secrets.token_hex(4)}"
    return f"{DOOMED_PREFIX}{process}-{name}"


def _put_back(doomed: Path, path: Path) -> None:
    """Give the file its name again, unless a newer one has taken it."""
    with contextlib.suppress(FileExistsError):
        os.link(doomed, path)
    doomed.unlink()


@functools.cache
def _process_table() -> str:
    """Name the table in which this process's number means something: another pod or host that
    shares the volume has its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _cannot_write(path: Path, error: OSError) -> StepError:
    return StepError(f"cannot write {path}: {error}", remedy="check space and rights")
