"""Decoded lines of a text file, plain or compressed, in bounded memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from components.contract import DataError
from components.ingest.examples import LINE_LIMIT_BYTES, fail

COMPRESSED = (".gz", ".zst")
# Text compresses 3 to 20 times; what exceeds this is a decompression bomb, not data.
BOMB_RATIO = 100
BOMB_ALLOWANCE_BYTES = 64 << 20
UTF8_BOM = b"\xef\xbb\xbf"


class BoundedStream(io.RawIOBase):
    """Raw stream that stops with DataError when it grows out of proportion to its file."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._left = BOMB_RATIO * path.stat().st_size + BOMB_ALLOWANCE_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise _broken(self._path, error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise _broken(self._path, error) from error
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"{self._path}: expands to more than {BOMB_RATIO} times its size: "
                "a decompression bomb",
                remedy="decompress it yourself if it is what you mean",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bytes(path: Path) -> IO[bytes]:
    """Open `path`, decompressing ``.gz`` and ``.zst``, guarded against bombs.

    Raises:
        DataError: the file cannot be read; later also when it is damaged or expands too far.
    """
    try:
        if path.suffix == ".gz":
            return io.BufferedReader(BoundedStream(_gzip(path), path), 1 << 18)
        if path.suffix == ".zst":
            return io.BufferedReader(BoundedStream(_zstd(path), path), 1 << 18)
        return path.open("rb", buffering=1 << 18)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _gzip(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _zstd(path: Path) -> IO[bytes]:
    import zstandard

    # 128 MiB window at most: the header of a hostile file may ask for gigabytes.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return decompressor.stream_reader(path.open("rb"), closefd=True, read_across_frames=True)


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged or not {path.suffix[1:]} data: {error}")


def decode(raw: bytes, path: Path, line: int) -> str:
    """Decode one line of UTF-8.

    Raises:
        DataError: not UTF-8, or a NUL byte; names file, line and byte.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise fail(
            path,
            line,
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8",
            remedy="convert the file: iconv -f <its encoding> -t utf-8",
        ) from None
    if "\0" in text:
        raise fail(path, line, "NUL byte in text", remedy="remove it: tr -d '\\000'")
    return text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text, without BOM and line ends.

    Raises:
        DataError: not UTF-8, a NUL byte, or a line longer than `LINE_LIMIT_BYTES`.
    """
    with open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(LINE_LIMIT_BYTES):
            number += 1
            if number == 1:
                check_encoding(raw, path)
                raw = raw.removeprefix(UTF8_BOM)
            if len(raw) == LINE_LIMIT_BYTES:
                raise fail(path, number, f"line is longer than {LINE_LIMIT_BYTES >> 20} MiB")
            yield number, decode(raw, path, number).rstrip("\r\n")


def check_encoding(head: bytes, path: Path) -> None:
    """Name UTF-16 by its byte order mark: 'byte 1 is not UTF-8' would send people astray."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise fail(
            path, 1, "file is UTF-16, not UTF-8", remedy="convert it: iconv -f utf-16 -t utf-8"
        )
