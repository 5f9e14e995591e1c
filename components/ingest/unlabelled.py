"""Texts without labels: one a line, or a column of the usual files, whatever labels are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from components.contract import DataError, SpecError
from components.ingest.examples import Example, Examples, fail
from components.ingest.formats import SUFFIX_FORMATS
from components.ingest.readers.columnar import read_columnar
from components.ingest.readers.conll import read_conll
from components.ingest.readers.json_rows import read_json, read_json_lines
from components.ingest.readers.lines import COMPRESSED, read_lines
from components.ingest.readers.rows import UNLABELLED_TASK
from components.ingest.readers.tabular import read_table
from components.ingest.sources import Source

FORMATS = ("text", "conll", "csv", "tsv", "jsonl", "json", "parquet", "arrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to read of a source (``data.unlabelled`` of the spec).

    Attributes:
        format: one of `FORMATS`, or ``auto``: by the file's name.
        column: name or position of the texts; None for the usual names.
        limit: rows to read from the beginning; None for all.
    """

    format: str = "auto"
    column: str | int | None = None
    limit: int | None = None

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Wanted:
        """Read the section of the spec."""
        return cls(
            format=str(entry.get("format") or "auto"),
            column=entry.get("column"),
            limit=entry.get("limit"),
        )


def read_unlabelled(source: Source, *, task: str, wanted: Wanted) -> Iterator[tuple[Path, Example]]:
    """Yield each text of each file of a source, with the file it stands in; empty ones are left
    out. A tagger's text is parted into words at blanks where the file does not part it.

    Raises:
        DataError: from the readers; or the source changed while it was read.
        SpecError: a column that the file does not have.
    """
    rows = 0
    for example in islice(_texts(source, task, wanted), wanted.limit):
        rows += 1
        yield example
    if not rows:
        raise DataError(
            f"{source.path}: no texts", remedy="check data.unlabelled.uri, format and column"
        )
    source.check_unchanged()


def _texts(source: Source, task: str, wanted: Wanted) -> Iterator[tuple[Path, Example]]:
    in_words = task == "token-classification"
    for path in source.files:
        for example in _read(path, task, wanted):
            text = example.text
            if in_words and isinstance(text, str):
                text = text.split()
            elif not in_words and isinstance(text, list):
                raise fail(
                    path, example.line, "the text is a list", remedy="name a column of texts"
                )
            if text if in_words else text.strip():
                group = example.group or 0 if in_words else None
                yield path, Example(example.line, text, None, None, group)


def _read(path: Path, task: str, wanted: Wanted) -> Examples:
    kind = _format_of(path, wanted.format)
    columns = {} if wanted.column is None else {"text": wanted.column}
    match kind:
        case "text":
            return (Example(number, line) for number, line in read_lines(path))
        case "conll":
            if task != "token-classification":
                raise DataError(
                    f"{path}: CoNLL files hold words for token-classification, not texts for {task}"
                )
            return read_conll(path, {"tokens": _position(wanted.column)}, labelled=False)
        case "csv" | "tsv":
            return read_table(path, UNLABELLED_TASK, columns, tabs=kind == "tsv")
        case "jsonl":
            return read_json_lines(path, UNLABELLED_TASK, columns)
        case "json":
            return read_json(path, UNLABELLED_TASK, columns, "unlabelled")
    return read_columnar(path, UNLABELLED_TASK, columns, kind)


def _position(column: str | int | None) -> int:
    if isinstance(column, str):
        raise SpecError(
            f"data.unlabelled.column: {column!r} is not a position",
            remedy="CoNLL columns are numbered from 0; -1 is the last",
        )
    return column or 0


def _format_of(path: Path, wanted: str) -> str:
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    found = {**SUFFIX_FORMATS, ".txt": "text"}.get(name.suffix.lower())
    found = found if wanted == "auto" else wanted
    if found not in FORMATS:
        raise DataError(
            f"{path}: format cannot be told from the name",
            remedy=f"set data.unlabelled.format: {', '.join(FORMATS)}",
        )
    return found
