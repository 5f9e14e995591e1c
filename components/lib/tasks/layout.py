"""How token sequences become tensors: padded to the longest, or end to end."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from components.contract import IGNORED_LABEL
from components.lib.batching import Rows
from components.lib.dataset import Split
from components.lib.tasks.base import Array, Batch


def flat_index(split: Split, rows: Rows) -> Array:
    """Positions of the rows' tokens in the split's flat arrays, row after row."""
    lengths = split.lengths[rows].astype(np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(split.offsets[rows] - (ends - lengths), lengths)


def lay_out(
    split: Split,
    rows: Rows,
    columns: dict[str, int],
    *,
    packed: bool,
    position_offset: int = 0,
    multiple: int = 1,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Arrange token-level columns of `rows`, padded or packed.

    Args:
        split: the data.
        rows: which rows.
        columns: token-level column to its padding value; ``input_ids`` among them.
        packed: end to end in one row of (1, tokens) instead of (rows, longest).
        position_offset: position id of a packed sequence's first token (RoBERTa: padding id + 1).
        multiple: a packed row is filled up to a multiple of this many tokens with a sequence of
            padding, so that few shapes occur.

    Returns:
        Tensors by column (int64) and the further inputs the model needs to tell sequences apart:
        ``attention_mask`` when padded; ``position_ids`` (restarting in each sequence) and the
        boundaries ``cu_seq_lens_q/k``, ``max_length_q/k`` when packed.
    """
    index = flat_index(split, rows)
    lengths = split.lengths[rows].astype(np.int64)
    values = {
        name: (split.input_ids if name == "input_ids" else split.columns[name])[index]
        for name in columns
    }
    if packed:
        if rest := -len(index) % multiple:
            lengths = np.append(lengths, rest)
            values = {n: np.append(v, np.full(rest, columns[n])) for n, v in values.items()}
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        boundaries = torch.from_numpy(bounds.astype(np.int32))
        extra = {
            "position_ids": torch.from_numpy(positions + position_offset)[None],
            "cu_seq_lens_q": boundaries,
            "cu_seq_lens_k": boundaries,
            "max_length_q": int(lengths.max()),
            "max_length_k": int(lengths.max()),
        }
        return {n: torch.from_numpy(v.astype(np.int64))[None] for n, v in values.items()}, extra
    mask = np.arange(lengths.max()) < lengths[:, None]
    tensors = {}
    for name, padding in columns.items():
        padded = np.full(mask.shape, padding, dtype=np.int64)
        padded[mask] = values[name]
        tensors[name] = torch.from_numpy(padded)
    if mask.all():  # nothing to hide: attention may take its fast path
        return tensors, {}
    return tensors, {"attention_mask": torch.from_numpy(mask.astype(np.int64))}


class TextTask(abc.ABC):
    """Layout shared by the text tasks."""

    def __init__(self, name: str, labels: Sequence[str], pad_token_id: int) -> None:
        self.name = name
        self.labels = labels
        self.pad_token_id = pad_token_id
        self.position_offset = 0
        self.multiple = 1

    @abc.abstractmethod
    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        """Lay `rows` out as tensors, with the task's targets."""

    def training_batch(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        return self.collate(split, rows, packed=packed)

    def _batch(self, split: Split, rows: Rows, packed: bool, targets: Any) -> Batch:
        columns = {"input_ids": self.pad_token_id}
        if "token_type_ids" in split.columns:
            columns["token_type_ids"] = 0
        if targets == "labels":
            columns["labels"] = IGNORED_LABEL
        tensors, extra = lay_out(
            split,
            rows,
            columns,
            packed=packed,
            position_offset=self.position_offset,
            multiple=self.multiple,
        )
        if targets == "labels":
            targets = tensors.pop("labels")
        return Batch(
            inputs={**tensors, **extra},
            targets=targets,
            rows=rows,
            tokens=int(split.lengths[rows].sum()),
            padded_tokens=tensors["input_ids"].numel(),
        )
