"""Parquet and Arrow files, a batch at a time.

A dictionary lets a small file name one long string in every row. So strings stay encoded until a
few rows at a time are taken out, as many as their longest string leaves room for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import DataError
from components.ingest.examples import Examples
from components.ingest.readers.lines import BOMB_ALLOWANCE_BYTES, BOMB_RATIO
from components.ingest.readers.rows import CELL_LIMIT_CHARACTERS, RowMapper

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
TAKEN_BYTES = 64 << 20
CELL_LIMIT_BYTES = 4 * CELL_LIMIT_CHARACTERS  # UTF-8


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
            for row in _rows(path, batch):
                number += 1
                yield mapper.example(row, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: not a readable {kind} file: {first}") from error


def _parquet(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import pyarrow.parquet as pq

    plain = pq.ParquetFile(path, memory_map=True)
    groups = range(plain.metadata.num_row_groups)
    expanded = sum(plain.metadata.row_group(g).total_byte_size for g in groups)
    if expanded > BOMB_RATIO * path.stat().st_size + BOMB_ALLOWANCE_BYTES:
        raise DataError(f"{path}: expands to {expanded:,} bytes: a decompression bomb")
    leaves = (plain.schema.column(n) for n in range(len(plain.schema)))
    # Not those in lists: Arrow does not read them encoded.
    strings = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and leaf.max_repetition_level == 0
    ]
    file = pq.ParquetFile(path, memory_map=True, read_dictionary=strings)
    return plain.schema_arrow, file.iter_batches(BATCH_ROWS)


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


def _rows(path: Path, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch without ever holding more than `TAKEN_BYTES` of their strings.

    Raises:
        DataError: a string longer than any cell may be.
    """
    import pyarrow as pa

    longest = max((_longest(column) for column in batch.columns), default=0)
    if longest > CELL_LIMIT_BYTES:
        raise DataError(f"{path}: a cell of {longest:,} bytes")
    taken = max(1, min(BATCH_ROWS, TAKEN_BYTES // max(longest, 1)))
    for start in range(0, batch.num_rows, taken):
        part = batch.slice(start, taken)
        columns = [
            c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in part.columns
        ]
        yield from pa.RecordBatch.from_arrays(columns, part.schema.names).to_pylist()


def _longest(column: pa.Array) -> int:
    """Return the bytes of the longest string in an array, at any depth."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _longest(column.dictionary)
    if pa.types.is_struct(kind):
        return max((_longest(column.field(n)) for n in range(kind.num_fields)), default=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _longest(column.values) if len(column) else 0
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return int(pc.max(pc.binary_length(column)).as_py() or 0)
    return 0


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
