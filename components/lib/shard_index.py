"""The index of a dataset: what training must know of all rows before it has any of them.

One Parquet file beside the shards, named by its SHA-256 in the manifest (``index``), with one row a
shard in the manifest's order:

=============== ========= ========================================================================
split           string    train, validation or test
file            string    the shard
columns         string    JSON object: column to numpy type, in the shard's order
lengths         [uint32]  tokens of each sequence; bytes of each encoded image
label_values    [int64]   the classes that occur where a label is scored (classification)
label_counts    [int64]   how often each does
label_max       double    the highest relevance (ranking), else null
tokens          [int32]   ids that occur and occurred in no shard of the split before it, sorted
=============== ========= ========================================================================

Lengths give the plan of an epoch, the number of steps and with it the learning rate's schedule;
labels the checks and the balance of classes; tokens the rows of the embedding table that are kept.
It takes about a fiftieth of the shards' bytes. Workers write one row a shard while they have it in
memory (`write_row`); `join_rows` puts them together, a few shards in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL, DataError

ROW_GROUP_SHARDS = 64
IMAGE = "image"
CLASSES = ("token-classification", "text-classification", "image-classification")
FIELDS = ("split", "file", "columns", "lengths", "label_values", "label_counts", "label_max",
          "tokens")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitIndex:
    """What is known of a split.

    Attributes:
        name: train, validation or test.
        files: its shards in the order of the source.
        columns: name to numpy type; ``object`` for what has no fixed size.
        shard_rows: int64 (shards).
        lengths: int64 (rows), tokens of each sequence or bytes of each image.
        label_counts: class to occurrences among scored labels.
        label_max: the highest relevance, None where labels are classes.
        tokens: sorted ids that occur.
    """

    name: str
    files: Sequence[str]
    columns: dict[str, str]
    shard_rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    label_counts: dict[int, int]
    label_max: float | None
    tokens: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def shard_of_row(self) -> NDArray[np.int64]:
        """int64 (rows): number of the shard that holds each row."""
        return np.repeat(np.arange(len(self.files)), self.shard_rows)


def write_row(path: Path, table: Any, *, task: str, split: str, file: str) -> None:
    """Write the index row of one shard.

    Args:
        path: where to.
        table: the shard's columns (pyarrow).
        task: one of contract.TASKS.
        split: train, validation or test.
        file: name of the shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    values, counts, highest = _labels(table, task)
    row = {
        "split": [split],
        "file": [file],
        "columns": [json.dumps({field.name: _type_name(field.type) for field in table.schema})],
        "lengths": pa.array([_lengths(table)], pa.list_(pa.uint32())),
        "label_values": pa.array([values], pa.list_(pa.int64())),
        "label_counts": pa.array([counts], pa.list_(pa.int64())),
        "label_max": pa.array([highest], pa.float64()),
        "tokens": pa.array([_tokens(table)], pa.list_(pa.int32())),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.table(row), partial, compression="none", use_dictionary=False)
    partial.replace(path)


def _type_name(arrow: Any) -> str:
    import pyarrow as pa

    if pa.types.is_binary(arrow):
        return "uint8"
    plain = arrow.value_type if pa.types.is_list(arrow) else arrow
    fixed = pa.types.is_integer(plain) or pa.types.is_floating(plain)
    return np.dtype(plain.to_pandas_dtype()).name if fixed else "object"


def _lengths(table: Any) -> NDArray[np.uint32]:
    import pyarrow.compute as pc

    if IMAGE in table.column_names:
        sizes = pc.binary_length(table.column(IMAGE))
    else:
        sizes = pc.list_value_length(table.column("input_ids"))
    return np.asarray(sizes.to_numpy(), np.uint32)


def _labels(table: Any, task: str) -> tuple[list[int], list[int], float | None]:
    if task == "text-pair-ranking":
        label = table.column("label").to_numpy()
        return [], [], float(label.max()) if len(label) else None
    if task not in CLASSES:
        return [], [], None
    if "labels" in table.column_names:
        labels = table.column("labels").combine_chunks().flatten().to_numpy()
    else:
        labels = table.column("label").to_numpy()
    values, counts = np.unique(labels[labels != IGNORED_LABEL], return_counts=True)
    return values.tolist(), counts.tolist(), None


def _tokens(table: Any) -> NDArray[np.int32]:
    if "input_ids" not in table.column_names:
        return np.empty(0, np.int32)
    ids = table.column("input_ids").combine_chunks().flatten().to_numpy()
    return np.flatnonzero(np.bincount(ids)).astype(np.int32)  # 50 times as fast as np.unique


def join_rows(rows: Iterable[Path], folder: Path) -> dict[str, Any]:
    """Write the index of the shards whose rows `write_row` left in `rows`, in that order.

    Returns:
        The manifest's ``index`` entry: file, sha256, bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen: dict[str, NDArray[np.int32]] = {}
    partial, waiting, writer = folder / f".index.{os.getpid()}", [], None
    for path in [*rows, None]:
        if path is not None:
            table = pq.read_table(path)
            split = table.column("split")[0].as_py()
            tokens = table.column("tokens").combine_chunks().flatten().to_numpy()
            before = seen.get(split, tokens[:0])
            new = np.setdiff1d(tokens, before, assume_unique=True)
            seen[split] = np.concatenate([before, new])
            column = pa.array([new], pa.list_(pa.int32()))
            waiting.append(table.set_column(FIELDS.index("tokens"), "tokens", column))
        if waiting and (path is None or len(waiting) == ROW_GROUP_SHARDS):
            joined = pa.concat_tables(waiting)
            writer = writer or pq.ParquetWriter(
                partial, joined.schema, compression="zstd", write_statistics=False
            )
            writer.write_table(joined)
            waiting = []
    if writer is None:
        return {}
    writer.close()
    body = partial.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    name = f"index-{digest[:16]}.parquet"
    partial.replace(folder / name)
    return {"file": name, "sha256": digest, "bytes": len(body)}


def read_index(folder: Path, manifest: dict[str, Any]) -> dict[str, SplitIndex] | None:
    """Return the index of each split, or None for a dataset that was ingested before there was one.

    Raises:
        DataError: the index is missing, damaged, or of other shards than the manifest's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    entry = manifest.get("index")
    if not entry:
        return None
    path = folder / str(entry["file"])
    if Path(path.name) != Path(entry["file"]):
        raise DataError(f"{folder}: index name {entry['file']!r} leaves the dataset's folder")
    remedy = "run ingest again"
    try:
        body = path.read_bytes()
        if hashlib.sha256(body).hexdigest() != entry["sha256"]:
            raise DataError(f"{path}: the index does not match its SHA-256", remedy=remedy)
        table = pq.read_table(pa.BufferReader(body))
    except FileNotFoundError:
        raise DataError(f"{path}: the index is missing", remedy=remedy) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: no index: {error}", remedy=remedy) from error
    if tuple(table.column_names) != FIELDS:
        raise DataError(f"{path}: the index has columns {table.column_names}", remedy=remedy)
    splits = np.array(table.column("split").to_pylist())
    found = {
        name: _split(name, table.filter(pa.array(splits == name))) for name in manifest["splits"]
    }
    for name, part in found.items():
        shards = manifest["splits"][name]["shards"]
        theirs = [(s["file"], int(s["rows"])) for s in shards]
        if theirs != list(zip(part.files, part.shard_rows.tolist(), strict=True)):
            raise DataError(f"{path}: the index is of other {name} shards", remedy=remedy)
    return found


def _split(name: str, table: Any) -> SplitIndex:
    lengths = table.column("lengths").combine_chunks()
    counts: dict[int, int] = {}
    for values, numbers in zip(
        table.column("label_values").to_pylist(),
        table.column("label_counts").to_pylist(),
        strict=True,
    ):
        for value, number in zip(values, numbers, strict=True):
            counts[value] = counts.get(value, 0) + number
    highest = [v for v in table.column("label_max").to_pylist() if v is not None]
    columns = [json.loads(text) for text in dict.fromkeys(table.column("columns").to_pylist())]
    if len(columns) > 1:
        raise DataError(f"{name}: shards have different columns", remedy="run ingest again")
    tokens = table.column("tokens").combine_chunks().flatten().to_numpy()
    return SplitIndex(
        name=name,
        files=table.column("file").to_pylist(),
        columns=columns[0] if columns else {},
        shard_rows=np.diff(lengths.offsets.to_numpy()).astype(np.int64),
        lengths=lengths.flatten().to_numpy().astype(np.int64),
        label_counts=dict(sorted(counts.items())),
        label_max=max(highest, default=None),
        tokens=np.unique(tokens).astype(np.int64),
    )
