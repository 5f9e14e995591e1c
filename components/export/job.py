"""One model on its way to a graph, and the real batches it is checked and calibrated on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import DataError
from components.export import parity, torchscript
from components.lib import calibrate
from components.lib.dataset import Split, load_split
from components.lib.sequences import Sequences
from components.runtime import StepContext

CALIBRATION_BATCH = 16
TOKEN_TASKS = ("token-classification", "causal-lm")


@dataclass(slots=True, kw_only=True)
class Job:
    """One model on its way to a graph."""

    context: StepContext
    model: Any
    task: str
    precision: str
    target: str
    max_length: int
    pad_token_id: int
    dataset: Path
    work: Path
    feeds: list[dict[str, np.ndarray]]
    reference: list[np.ndarray]
    table_bits: int = 8
    fallbacks: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def per_token(self) -> bool:
        return self.task in TOKEN_TASKS


def real_feeds(dataset: Path, pad: int, task: str, model: Any) -> list[dict[str, np.ndarray]]:
    """Return padded batches of validation rows that span all lengths.

    Raises:
        DataError: the split is empty.
    """
    split = load_split(dataset, "validation")
    if not split.rows:
        raise DataError("validation split is empty", remedy="parity needs real sequences")
    return feeds_of(split, parity.sample_rows(split.lengths), pad, task, model)


def training_feeds(job: Job, *, needed: bool) -> list[dict[str, np.ndarray]]:
    """Return padded batches of training rows, never of rows that anything is scored on.

    Raises:
        DataError: there are none and they are `needed`.
    """
    split = load_split(job.dataset, "train")
    if not split.rows and not needed:
        return []
    rows = calibrate.calibration_rows(split.lengths)
    rows = rows[np.argsort(split.lengths[rows], kind="stable")]
    batches = np.array_split(rows, -(-len(rows) // CALIBRATION_BATCH))
    return feeds_of(split, batches, job.pad_token_id, job.task, job.model)


def feeds_of(
    split: Split, batches: list[np.ndarray], pad: int, task: str, model: Any
) -> list[dict[str, np.ndarray]]:
    """Lay batches of rows out as the model's inputs."""
    if task == "image-classification":
        from components.lib.images import pixels

        return [{"pixel_values": pixels(split, rows, model.config.image_size)} for rows in batches]
    flat, names = Sequences.of(split), torchscript.input_names(model, task)
    feeds = []
    for rows in batches:
        arrays = flat.padded(rows, pad)
        feeds.append({name: arrays[name].astype(np.int64) for name in names})
    return feeds
