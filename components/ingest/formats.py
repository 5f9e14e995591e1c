"""Choose the reader of a file: by the spec's format, else by name, else by task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.ingest.examples import Example, Examples
from components.ingest.readers.columnar import read_columnar
from components.ingest.readers.conll import read_conll
from components.ingest.readers.images import read_image_folder
from components.ingest.readers.json_rows import read_json, read_json_lines
from components.ingest.readers.lines import COMPRESSED
from components.ingest.readers.tabular import read_table
from components.ingest.sources import Source

SUFFIX_FORMATS = {
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bioes": "conll",
    ".annotated": "conll",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


def format_of(path: Path, task: str, wanted: str) -> str:
    """Return the format to read `path` with.

    Raises:
        DataError: `wanted` is auto and neither name nor task tells.
    """
    if wanted != "auto":
        return wanted
    if task == "image-classification" and path.is_dir():
        return "imagefolder"
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    if name.suffix.lower() in SUFFIX_FORMATS:
        return SUFFIX_FORMATS[name.suffix.lower()]
    if task == "token-classification":
        return "conll"
    raise DataError(
        f"{path}: format cannot be told from the name",
        remedy="set data.format: csv, tsv, json, jsonl, parquet, arrow, conll or imagefolder",
    )


def read_source(
    source: Source, *, task: str, wanted: str, columns: dict[str, Any]
) -> Iterator[tuple[Path, Example]]:
    """Yield each example of each file of a source, with the file it stands in.

    Raises:
        DataError: from the readers; or the source changed while it was read.
    """
    if task == "image-classification":
        if wanted not in ("auto", "imagefolder") or not source.path.is_dir():
            raise DataError(f"{source.path}: images are read from a folder of class folders")
        for example in read_image_folder(source.path, source.files):
            yield Path(example.text), example
    else:
        for path in source.files:
            for example in _read(path, source.split, task, wanted, columns):
                yield path, example
    source.check_unchanged()


def _read(path: Path, split: str, task: str, wanted: str, columns: dict[str, Any]) -> Examples:
    kind = format_of(path, task, wanted)
    if kind == "conll":
        if task != "token-classification":
            raise DataError(f"{path}: CoNLL files hold token-classification data, not {task}")
        return read_conll(path, columns)
    if kind in ("csv", "tsv"):
        if task == "token-classification":
            raise DataError(
                f"{path}: a table has one row a text; words with labels need CoNLL or JSON lines",
                remedy="set data.format: conll when the columns are word and tag",
            )
        return read_table(path, task, columns, tabs=kind == "tsv")
    if kind == "jsonl":
        return read_json_lines(path, task, columns)
    if kind == "json":
        return read_json(path, task, columns, split)
    if kind in ("parquet", "arrow"):
        return read_columnar(path, task, columns, kind)
    raise DataError(f"{path}: format {kind} does not hold {task} data")
