"""Where lines come from: files of a folder by offset, or standard input by way of a spool file.

Standard input cannot be read twice, so its bytes are appended to ``spool.jsonl`` in the state
folder before anything is made of them; the spool is then read by offset like any other file. What
was read and not yet committed when the process died is there at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.contract import DataError

SUFFIXES = (".jsonl", ".ndjson", ".txt")
CHUNK_BYTES = 1 << 20
MOST_LINE_BYTES = 1 << 20
SPOOL_FILE = "spool.jsonl"
# The spool starts anew when all of it is done and it is larger than this.
SPOOL_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, where it ends in its file, and the subject that a plain text file gives it.

    `body` is None for a line of more than `MOST_LINE_BYTES`.
    """

    file: str
    end: int
    body: bytes | None
    plain_subject: str | None = None


def files_in(folder: Path) -> list[Path]:
    """Return the input files of a folder, in order of their names.

    Raises:
        DataError: the folder is not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", remedy="give a folder of .jsonl or .txt files")
    return sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())


def lines_of(path: Path, start: int, *, whole: bool) -> Iterator[Line]:
    """Yield the lines from byte `start`; a file that has shrunk is read from its beginning.

    Args:
        whole: the file is complete: a last line without a newline counts.
    """
    subject = path.stem if path.suffix == ".txt" else None
    with path.open("rb") as stream:
        if start > os.fstat(stream.fileno()).st_size:
            start = 0
        stream.seek(start)
        at, held, long = start, b"", False
        while chunk := stream.read(CHUNK_BYTES):
            *done, rest = (held + chunk).split(b"\n")
            for body in done:
                at += len(body) + 1
                yield Line(file=path.name, end=at, body=None if long else _bounded(body),
                           plain_subject=subject)  # fmt: skip
                long = False
            if len(rest) > MOST_LINE_BYTES:  # keep the place, not the bytes
                at, rest, long = at + len(rest), b"", True
            held = rest
        if whole and (held or long):
            yield Line(file=path.name, end=at + len(held), body=None if long else _bounded(held),
                       plain_subject=subject)  # fmt: skip


def _bounded(body: bytes) -> bytes | None:
    return body.removesuffix(b"\r") if len(body) <= MOST_LINE_BYTES else None


class Spool:
    """Standard input, kept until it is committed."""

    def __init__(self, folder: Path, descriptor: int = 0) -> None:
        self.path = folder / SPOOL_FILE
        self._descriptor = descriptor
        size = self.path.stat().st_size if self.path.exists() else 0
        self._stream = self.path.open("ab", buffering=0)
        if size and not self._ends_with_newline(size):
            # A line torn by the crash: its rest is gone, so it must not swallow the next one.
            self._stream.write(b"\n")

    def receive(self) -> bool:
        """Wait for bytes and keep them; False at the end of the input."""
        chunk = os.read(self._descriptor, CHUNK_BYTES)
        if chunk:
            self._stream.write(chunk)
        return bool(chunk)

    def restart(self, done: int) -> bool:
        """Empty the spool when all of it is done and it is large; True when it was emptied."""
        if done < SPOOL_BYTES or done != self.path.stat().st_size:
            return False
        self._stream.truncate(0)
        return True

    def _ends_with_newline(self, size: int) -> bool:
        with self.path.open("rb") as stream:
            stream.seek(size - 1)
            return stream.read(1) == b"\n"
