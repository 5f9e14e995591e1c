"""JSON documents and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from components.contract import DataError, SpecError
from components.ingest.examples import Examples, fail
from components.ingest.readers.lines import (
    UTF8_BOM,
    check_encoding,
    decode,
    open_bytes,
    read_lines,
)
from components.ingest.readers.rows import RowMapper

# A JSON document has to be in memory as a whole, at about eight times its size.
DOCUMENT_LIMIT_BYTES = 64 << 20
SPLIT_KEYS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
    "unlabelled": ("unlabelled", "unlabeled", "unsupervised"),
}
ROW_KEYS = ("data", "rows", "examples", "items")


def read_json_lines(path: Path, task: str, columns: dict[str, Any]) -> Examples:
    """Yield the objects (or lists) of a file that has one a line; blank lines are skipped."""
    mapper = RowMapper(path, task, columns)
    for line, text in read_lines(path):
        if text.strip():
            yield mapper.example(parse(text, path, line), line)


def read_json(path: Path, task: str, columns: dict[str, Any], split: str) -> Examples:
    """Yield the rows of one JSON document; their line is their number in the list.

    The rows are the document itself when it is a list; else the list that ``columns.rows`` names
    (dots go deeper, ``+`` joins several); else the lists named like the split, as in CLINC150
    (``train`` and ``oos_train``); else the one list called data, rows, examples or items.
    """
    document = parse(_load(path), path, 1)
    fields = {name: value for name, value in columns.items() if name != "rows"}
    mapper = RowMapper(path, task, fields)
    for number, row in enumerate(_rows(document, path, columns.get("rows"), split), 1):
        yield mapper.example(row, number)


def parse(text: str, path: Path, line: int) -> Any:
    """Parse strict JSON: no NaN or Infinity, no endless nesting.

    Raises:
        DataError: names file and line.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise fail(path, at, f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise fail(path, line, "JSON is nested too deeply") from None
    except ValueError as error:  # a constant, or an integer of thousands of digits
        raise fail(path, line, f"not JSON that can be read: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _load(path: Path) -> str:
    with open_bytes(path) as stream:
        body = stream.read(DOCUMENT_LIMIT_BYTES + 1)
    if len(body) > DOCUMENT_LIMIT_BYTES:
        raise DataError(
            f"{path}: JSON document of more than {DOCUMENT_LIMIT_BYTES >> 20} MiB",
            remedy="convert it to JSON lines (one object a line), which are streamed",
        )
    check_encoding(body, path)
    body = body.removeprefix(UTF8_BOM)
    bad = body.find(b"\0")
    if bad >= 0:
        raise fail(path, body.count(b"\n", 0, bad) + 1, "NUL byte in text")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        start = body.rfind(b"\n", 0, error.start) + 1
        end = body.find(b"\n", error.start)
        return decode(body[start : end if end >= 0 else None], path, line)  # raises, naming it


def _rows(document: Any, path: Path, wanted: Any, split: str) -> Iterator[Any]:
    if wanted is not None:
        for name in str(wanted).split("+"):
            yield from _listed(_dig(document, name, path), path, name)
    elif isinstance(document, list):
        yield from document
    elif isinstance(document, dict):
        names = [name for name in SPLIT_KEYS[split] if name in document]
        if names:
            names += [f"oos_{name}" for name in names if f"oos_{name}" in document]
        else:
            names = [name for name in ROW_KEYS if isinstance(document.get(name), list)][:1]
        if not names:
            raise SpecError(
                f"data.columns.rows: {path} is an object with {', '.join(list(document)[:12])}",
                remedy="name the list of rows, such as rows: data.items",
            )
        for name in names:
            yield from _listed(document[name], path, name)
    else:
        raise DataError(f"{path}:1: the document is neither a list nor an object")


def _dig(document: Any, name: str, path: Path) -> Any:
    for part in name.split("."):
        if not isinstance(document, dict) or part not in document:
            raise SpecError(f"data.columns.rows: {path} has no {name!r}")
        document = document[part]
    return document


def _listed(value: Any, path: Path, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {name!r} is not a list of rows")
    return value
