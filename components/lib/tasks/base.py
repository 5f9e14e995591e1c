"""What every task is: a batch of it, and what the training loop asks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL
from components.lib.batching import Rows, Units
from components.lib.dataset import Split

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One forward's worth of rows.

    Attributes:
        inputs: keyword arguments of the model.
        targets: what the loss compares the logits with, aligned with them.
        rows: the split's row numbers, in the order of the batch.
        tokens: real tokens (patches' images count as one).
        padded_tokens: tokens the model processes.
    """

    inputs: dict[str, Any]
    targets: torch.Tensor
    rows: Rows
    tokens: int
    padded_tokens: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its targets on `device`; inputs go there with the forward."""
        if self.targets.device == device:
            return self
        return dataclasses.replace(self, targets=self.targets.to(device, non_blocking=True))


class Task(Protocol):
    """What the training loop needs to know of a task."""

    name: str
    labels: Sequence[str]

    def units(self, split: Split) -> Units:
        """Return what batches are made of, with the weight of each in the loss."""

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        """Lay `rows` out as tensors: padded to the longest, or end to end when packed."""

    def training_batch(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        """Lay `rows` out as training sees them: as `collate` does, or views of them."""

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the *sum* of the loss over the batch's units, in units of their weights."""

    def outputs(self, split: Split) -> Array:
        """Return zeros for the predictions of a whole split, see `record`."""

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        """Write the batch's predictions into `outputs`."""

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        """Return the metrics of the recorded predictions, the main metric first."""


def balanced_weights(counts: Array) -> Array:
    """Weight of each class, inverse to its frequency, 1 on average over the examples; classes that
    never occur weigh 1 (scikit-learn's ``balanced``)."""
    seen = counts > 0
    weights = np.ones(len(counts))
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights


def class_counts(split: Split, classes: int) -> Array:
    """Occurrences of each class among the scored labels of a split."""
    values = split.columns["labels" if "labels" in split.columns else "label"]
    return np.bincount(values[values != IGNORED_LABEL], minlength=classes)
