"""A split in flat files, one a column, that are filled shard by shard as the shards arrive.

The index gives every row its place before any shard is there, so whoever maps the files sees a row
once its shard was laid in, and the whole split once all were.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError
from components.lib.dataset import TOKEN_LEVEL, ImageBytes, Split, read_shard
from components.lib.shard_index import IMAGE, SplitIndex


class FlatSplit:
    """The flat files of one split: every column as it will be, filled shard by shard.

    Args:
        folder: where they are, this split's own.
        index: of the split.
    """

    def __init__(self, folder: Path, index: SplitIndex) -> None:
        self.folder = folder
        self.index = index
        ends = np.concatenate([[0], np.cumsum(index.lengths)]).astype(np.int64)
        self.offsets = ends
        # Where each shard begins, in rows and in tokens (or bytes of images).
        self._first_row = np.concatenate([[0], np.cumsum(index.shard_rows)]).astype(np.int64)
        self._first_item = ends[self._first_row]
        self._known = np.zeros(int(index.tokens.max(initial=-1)) + 1, bool)
        self._known[index.tokens] = True

    def allocate(self) -> None:
        """Make the files, of holes."""
        self.folder.mkdir(parents=True)
        for name, kind in self.index.columns.items():
            sizes = (int(self._ends(name)[-1]),)
            np.lib.format.open_memmap(self._path(name), "w+", np.dtype(kind), sizes).flush()

    def fill(self, number: int, shard: Path) -> None:
        """Write the columns of shard `number` to their places, then say that it is there.

        Raises:
            DataError: it is not the shard that the index describes.
            OSError: the disk is full.
        """
        columns = read_shard(shard)
        lengths = np.diff(columns.pop("offsets"))
        first, last = self._first_row[number : number + 2]
        kinds = {name: array.dtype.name for name, array in columns.items()}
        same = kinds == self.index.columns and np.array_equal(
            lengths, self.index.lengths[first:last]
        )
        if not same or not self._all_known(columns.get("input_ids")):
            raise DataError(
                f"{shard}: is not the shard that the index describes", remedy="run ingest again"
            )
        for name, array in columns.items():
            mapped = np.load(self._path(name), mmap_mode="r")
            at = mapped.offset + int(self._ends(name)[number]) * mapped.itemsize
            _write_at(self._path(name), np.ascontiguousarray(array).view(np.uint8), at)
        self._mark(number).touch()

    def _all_known(self, ids: NDArray[np.int32] | None) -> bool:
        if ids is None or not len(ids):
            return True
        inside = ids.min() >= 0 and ids.max() < len(self._known)
        return bool(inside and self._known[ids].all())

    def is_ready(self, number: int) -> bool:
        """Whether the rows of shard `number` are in the files."""
        return self._mark(number).exists()

    def split(self) -> Split:
        """Return the split, mapped; rows of shards that are not there yet are zeros."""
        columns = {name: np.load(self._path(name), mmap_mode="r") for name in self.index.columns}
        image = columns.pop(IMAGE, None)
        if image is not None:
            none = np.zeros(self.index.rows + 1, np.int64)
            ids, offsets, images = np.empty(0, np.int32), none, ImageBytes(image, self.offsets)
            lengths = none[1:].astype(np.int32)
        else:
            ids, offsets, images = columns.pop("input_ids"), self.offsets, None
            lengths = self.index.lengths.astype(np.int32)
        return Split(
            name=self.index.name,
            rows=self.index.rows,
            offsets=offsets,
            input_ids=ids,
            lengths=lengths,
            columns=columns,
            images=images,
        )

    def _ends(self, name: str) -> NDArray[np.int64]:
        items = name in ("input_ids", IMAGE, *TOKEN_LEVEL)
        return self._first_item if items else self._first_row

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _mark(self, number: int) -> Path:
        return self.folder / f"ready-{number}"


def _write_at(path: Path, body: NDArray[np.uint8], at: int) -> None:
    """Write by system calls: a full disk is an error then, and not the signal that it is in a
    mapped file."""
    view, handle = memoryview(body), os.open(path, os.O_WRONLY)
    try:
        while view:
            count = os.pwrite(handle, view, at)
            view, at = view[count:], at + count
    finally:
        os.close(handle)
