"""CSV and TSV files (RFC 4180): quoted cells may hold line ends, so lines are not rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.ingest.examples import LINE_LIMIT_BYTES, Examples, fail
from components.ingest.readers.lines import UTF8_BOM, check_encoding, decode, open_bytes
from components.ingest.readers.rows import CELL_LIMIT_CHARACTERS, RowMapper


def read_table(path: Path, task: str, columns: dict[str, Any], *, tabs: bool) -> Examples:
    """Yield the rows of a delimited file with a header.

    Raises:
        DataError: no header, a repeated name, a row of another width, broken quoting.
    """
    # A quote that is never closed would otherwise read the rest of the file into one cell.
    csv.field_size_limit(CELL_LIMIT_CHARACTERS)
    mapper = RowMapper(path, task, columns)
    header: list[str] | None = None
    for line, cells in read_cells(path, tabs=tabs):
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(path, header)
        elif not cells or (cells == [""] and len(header) > 1):
            continue  # a blank line
        elif len(cells) != len(header):
            raise fail(
                path,
                line,
                f"{len(cells)} cells where the header has {len(header)}",
                remedy="quote cells that hold the separator or line ends",
            )
        else:
            yield mapper.example(dict(zip(header, cells, strict=True)), line)
    if header is None:
        raise DataError(f"{path}: no header row", remedy="name the columns in the first line")


def read_cells(path: Path, *, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its cells."""
    lines = _text_lines(path)
    first = next(lines, None)
    if first is None:
        return
    delimiter = "\t" if tabs else _delimiter(first)

    def chained() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(chained(), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise fail(
                path,
                start,
                f"not valid CSV: {error}",
                remedy='double the quotes inside quoted cells: "a ""b"" c"',
            ) from error
        yield start, cells
        start = reader.line_num + 1


def _text_lines(path: Path) -> Iterator[str]:
    with open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(LINE_LIMIT_BYTES):
            number += 1
            if number == 1:
                check_encoding(raw, path)
                raw = raw.removeprefix(UTF8_BOM)
            if len(raw) == LINE_LIMIT_BYTES:
                raise fail(path, number, f"line is longer than {LINE_LIMIT_BYTES >> 20} MiB")
            yield decode(raw, path, number)


def _delimiter(first: str) -> str:
    """A header without a comma may be separated by semicolons (spreadsheets) or tabs."""
    for candidate in (",", ";", "\t"):
        if candidate in first:
            return candidate
    return ","


def _check_header(path: Path, header: list[str]) -> None:
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise fail(path, 1, f"column {sorted(repeated)[0]!r} occurs twice in the header")
