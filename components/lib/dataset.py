"""Read a dataset artifact: its manifest, and a split as flat numpy arrays with offsets."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import MANIFEST_VERSION, DataError
from components.lib.documents import with_context

SPLITS = ("train", "validation", "test")
# Texts without labels (`IGNORED_LABEL` everywhere): compression alone reads them.
UNLABELLED = "unlabelled"
# A split larger than this is kept in files that processes map and share instead of in memory.
MAPPED_BYTES = 64 << 20
REQUIRED = ("task", "name", "labels", "max_length", "splits", "sources", "warnings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split, in the order of its source.

    Attributes:
        name: train, validation, test or unlabelled.
        rows: number of sequences (or images).
        offsets: int64 (rows + 1); sequence i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        input_ids: int32, flat, with special tokens; empty for images.
        lengths: int32 (rows), tokens of each sequence.
        columns: every other column by name. Token-level ones (``labels``, ``token_type_ids``) are
            flat and share `offsets`; row-level ones (``label``, ``sentence``, ``document``,
            ``example``, ``group``) have one value a row.
        images: encoded PNG or JPEG bytes of each row, for image-classification.

    Arrays may be mapped from files, and `input_ids` a `Remapped`: index them, copy nothing whole.
    """

    name: str
    rows: int
    offsets: np.ndarray
    input_ids: Any
    lengths: np.ndarray
    columns: dict[str, np.ndarray]
    images: Sequence[bytes] | None = None

    @property
    def tokens(self) -> int:
        """Real tokens, special ones included."""
        return int(self.offsets[-1])

    def sequence(self, row: int) -> np.ndarray:
        """Return the token ids of one row."""
        return self.input_ids[self.offsets[row] : self.offsets[row + 1]]

    def values(self, column: str, row: int) -> np.ndarray:
        """Return a token-level column of one row."""
        return self.columns[column][self.offsets[row] : self.offsets[row + 1]]


TOKEN_LEVEL = ("labels", "token_type_ids")


class Remapped:
    """A flat array of ids read through a map of ids, without a copy of either."""

    def __init__(self, values: np.ndarray, mapping: np.ndarray) -> None:
        self._values = values
        self._mapping = mapping

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._mapping[self._values[index]]


class ImageBytes(Sequence[bytes]):
    """Encoded images that lie end to end in one flat array of bytes."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray) -> None:
        self._flat = flat
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        return self._flat[self._offsets[row] : self._offsets[row + 1]].tobytes()


def remapped(values: np.ndarray, mapping: np.ndarray) -> Any:
    """Return ``mapping[values]``: at once in memory, and of mapped files as they are read."""
    return Remapped(values, mapping) if isinstance(values, np.memmap) else mapping[values]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the dataset's manifest.

    Raises:
        DataError: missing, not JSON, another schema version, or a required field is missing.
    """
    path = folder / "manifest.json"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no dataset manifest", remedy="run ingest again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}", remedy="run ingest again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != MANIFEST_VERSION:
        raise DataError(f"{path}: schema_version is {version!r}, not {MANIFEST_VERSION}")
    missing = [name for name in REQUIRED if name not in document]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}", remedy="run ingest again")
    manifest: dict[str, Any] = document
    return manifest


def load_split(folder: Path, split: str, *, cache: Path | None = None) -> Split:
    """Load one split of the dataset in `folder`.

    A split of more than `MAPPED_BYTES` is laid out once as flat arrays under `cache` (default: a
    hidden folder beside the shards) and memory-mapped, so ranks on one node share its pages.

    Raises:
        DataError: the split is not in the manifest, or a shard is missing or has other columns.
    """
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise DataError(
            f"dataset {manifest['name']} has no {split} split",
            remedy=f"give data.{split} a uri or a fraction",
        )
    shards = manifest["splits"][split]["shards"]
    names = [entry["file"] for entry in shards]
    for name in names:
        if Path(name).name != name:
            raise DataError(f"{folder}: shard name {name!r} leaves the dataset's folder")
    if manifest["task"] == "image-classification":
        return _load_images(folder, split, names)
    if sum(int(entry["bytes"]) for entry in shards) <= MAPPED_BYTES:
        loaded = _assemble(split, [read_shard(folder / name) for name in names])
    else:
        loaded = _load_mapped(split, folder, names, cache or folder / ".arrays")
    context = manifest.get("document_context") and "document" in loaded.columns
    if split == UNLABELLED and context:  # texts of no known document stay as they are
        context = len(np.unique(loaded.columns["document"])) > 1
    if context:  # laid out here, so that every step sees the same rows
        return with_context(loaded, int(manifest["max_length"]))
    return loaded


def _read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # One column chunk per shard: offsets then index it directly.
        return pq.read_table(path, memory_map=True).combine_chunks()
    except FileNotFoundError:
        raise DataError(f"{path}: shard is missing", remedy="run ingest again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not a Parquet shard: {error}", remedy="run ingest again"
        ) from error


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """Return a shard's columns as arrays, with ``offsets`` for the token-level ones.

    Raises:
        DataError: it is missing, no Parquet, or has no token ids.
    """
    table = _read(path)
    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table.column(name)
        array = column.chunk(0) if column.num_chunks else column.combine_chunks()
        if name == "image":
            bodies = array.to_pylist()
            columns[name] = np.frombuffer(b"".join(bodies), np.uint8)
            columns["offsets"] = np.cumsum([0, *map(len, bodies)])
        elif name == "input_ids" or name in TOKEN_LEVEL:
            columns[name] = array.flatten().to_numpy()
            offsets = array.offsets.to_numpy().astype(np.int64)
            offsets = offsets - offsets[0]
            if name != "input_ids" and not np.array_equal(offsets, columns["offsets"]):
                raise DataError(f"{path}: {name} and input_ids differ in length")
            columns["offsets"] = offsets
        else:
            columns[name] = array.to_numpy(zero_copy_only=False)
    if "offsets" not in columns:
        raise DataError(f"{path}: shard has no input_ids")
    return columns


def _assemble(split: str, parts: list[dict[str, np.ndarray]]) -> Split:
    if not parts:
        return _split(split, {"offsets": np.zeros(1, np.int64), "input_ids": np.empty(0, np.int32)})
    names = list(parts[0])
    if any(list(part) != names for part in parts):
        raise DataError(f"{split}: shards have different columns", remedy="run ingest again")
    joined = {
        name: np.concatenate([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]
        for name in names
        if name != "offsets"
    }
    lengths = np.concatenate([np.diff(part["offsets"]) for part in parts])
    joined["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return _split(split, joined)


def _split(split: str, columns: dict[str, np.ndarray]) -> Split:
    columns = dict(columns)
    offsets = columns.pop("offsets")
    return Split(
        name=split,
        rows=len(offsets) - 1,
        offsets=offsets,
        input_ids=columns.pop("input_ids"),
        lengths=np.diff(offsets).astype(np.int32),
        columns=columns,
    )


def _load_mapped(split: str, folder: Path, names: list[str], cache: Path) -> Split:
    target = cache / split
    if not target.exists():
        _lay_out(folder, names, target)
    columns = {path.stem: np.load(path, mmap_mode="r") for path in sorted(target.glob("*.npy"))}
    return _split(split, columns)


def _lay_out(folder: Path, names: list[str], target: Path) -> None:
    """Write the shards' columns as .npy files, one shard in memory at a time; whoever of several
    processes ends first wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        sizes: dict[str, int] = {}
        for name in names:
            for column, array in read_shard(folder / name).items():
                sizes[column] = sizes.get(column, 0) + len(array)
        sizes["offsets"] -= len(names) - 1
        written = dict.fromkeys(sizes, 0)
        maps: dict[str, np.memmap] = {}
        for name in names:
            arrays = read_shard(folder / name)
            if set(arrays) != set(sizes):
                raise DataError(f"{folder / name}: shard has other columns than the first")
            base = written["input_ids"]
            for column, array in arrays.items():
                values = array + base if column == "offsets" else array
                if column == "offsets" and written[column]:
                    values = values[1:]
                if column not in maps:
                    maps[column] = np.lib.format.open_memmap(
                        partial / f"{column}.npy", "w+", values.dtype, (sizes[column],)
                    )
                at = written[column]
                maps[column][at : at + len(values)] = values
                written[column] = at + len(values)
        for array in maps.values():
            array.flush()
        os.rename(partial, target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.exists():
            raise


def _load_images(folder: Path, split: str, names: list[str]) -> Split:
    tables = [_read(folder / name) for name in names]
    images = [value for table in tables for value in table.column("image").to_pylist()]
    labels = np.concatenate([table.column("label").to_numpy() for table in tables] or [[]])
    return Split(
        name=split,
        rows=len(images),
        offsets=np.zeros(len(images) + 1, np.int64),
        input_ids=np.empty(0, np.int32),
        lengths=np.zeros(len(images), np.int32),
        columns={"label": labels.astype(np.int32)},
        images=images,
    )
