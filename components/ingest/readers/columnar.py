"""Parquet and Arrow files, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import DataError
from components.ingest.examples import Examples
from components.ingest.readers.lines import BOMB_ALLOWANCE_BYTES, BOMB_RATIO
from components.ingest.readers.rows import RowMapper

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096


def read_columnar(path: Path, task: str, columns: dict[str, Any], kind: str) -> Examples:
    """Yield the rows of a Parquet or Arrow (IPC file or stream, Feather 2) file; their line is
    their row number.

    Raises:
        DataError: not such a file, damaged, or a decompression bomb.
    """
    import pyarrow as pa

    open_file = _parquet if kind == "parquet" else _arrow
    number = 0
    try:
        schema, batches = open_file(path)
        mapper = RowMapper(path, task, columns, label_names=_class_labels(schema))
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield mapper.example(row, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: not a readable {kind} file: {first}") from error


def _parquet(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True)
    groups = range(file.metadata.num_row_groups)
    expanded = sum(file.metadata.row_group(g).total_byte_size for g in groups)
    if expanded > BOMB_RATIO * path.stat().st_size + BOMB_ALLOWANCE_BYTES:
        raise DataError(f"{path}: expands to {expanded:,} bytes: a decompression bomb")
    return file.schema_arrow, file.iter_batches(BATCH_ROWS)


def _arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
    return reader.schema, batches


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Read ClassLabel names from the metadata that Hugging Face datasets writes."""
    try:
        document = json.loads((schema.metadata or {})[b"huggingface"])
        features = document["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    names = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            names[column] = [str(name) for name in inner["names"]]
    return names
