"""What compression learns from: the splits, laid out as batches for one task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import DataError
from components.lib import batching
from components.lib.dataset import Split, load_split, read_manifest
from components.lib.references import pad_token_id
from components.lib.tasks import Batch, Task, make_task

# Rows in a forward without gradients: no activations are kept, so more fit.
EVALUATION_ROWS = 64
CALIBRATION_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Training and validation rows of one dataset."""

    task: Task
    train: Split
    validation: Split
    global_batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.task.units(self.train)) // self.global_batch)

    def calibration_rows(self, most: int) -> NDArray[np.int64]:
        """Training rows, drawn by the seed."""
        random = np.random.default_rng(self.seed)
        return random.permutation(self.train.rows)[:most]

    def batches(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """Yield `rows` of the training split, longest first."""
        lengths = self._lengths(self.train)
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        for start in range(0, len(rows), CALIBRATION_BATCH):
            part = rows[start : start + CALIBRATION_BATCH]
            yield self.task.collate(self.train, part, packed=False)

    def epochs(self) -> Iterator[Batch]:
        """Yield training batches without end, in length buckets, shuffled anew each epoch."""
        units, epoch = self.task.units(self.train), 0
        while True:
            for chosen in batching.epoch_batches(
                units.lengths, self.global_batch, seed=self.seed, epoch=epoch
            ):
                yield self.task.collate(self.train, units.of(chosen), packed=False)
            epoch += 1

    def validation_batches(self, most: int | None = None) -> Iterator[Batch]:
        """Yield the validation split, or `most` rows of it drawn by the seed, longest first."""
        rows = np.arange(self.validation.rows)
        if most is not None and most < len(rows):
            rows = np.random.default_rng(self.seed).permutation(rows)[:most]
        rows = rows[np.argsort(-self._lengths(self.validation)[rows], kind="stable")]
        for start in range(0, len(rows), EVALUATION_ROWS):
            part = rows[start : start + EVALUATION_ROWS]
            yield self.task.collate(self.validation, part, packed=False)

    @staticmethod
    def _lengths(split: Split) -> NDArray[Any]:
        return split.lengths if split.images is None else np.ones(split.rows)

    @torch.inference_mode()
    def score(self, model: torch.nn.Module) -> dict[str, float]:
        """Return the metrics of `model` on the whole validation split, the main one first."""
        outputs = self.task.outputs(self.validation)
        dtype = next(model.parameters()).dtype
        model.eval()
        for batch in self.validation_batches():
            inputs = dict(batch.inputs)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            self.task.record(outputs, self.validation, model(**inputs).logits, batch)
        return self.task.score(outputs, self.validation)


def load_material(
    dataset: Path, task: str, model: Path, *, image_size: int, global_batch: int, seed: int
) -> Material:
    """Read the dataset for compressing the model in folder `model`.

    Raises:
        DataError: the dataset is of another task, or a split is empty.
    """
    manifest = read_manifest(dataset)
    if manifest["task"] != task:
        raise DataError(
            f"{dataset}: dataset was ingested for {manifest['task']}, not {task}",
            remedy="compress with the dataset the model was tuned on",
        )
    train, validation = load_split(dataset, "train"), load_split(dataset, "validation")
    for split in (train, validation):
        if not split.rows:
            raise DataError(
                f"the {split.name} split has no rows", remedy="pruning and distillation need both"
            )
    pad = pad_token_id(model) if (model / "tokenizer.json").is_file() else 0
    made = make_task(task, manifest["labels"], pad_token_id=pad, image_size=image_size or 64)
    return Material(
        task=made, train=train, validation=validation, global_batch=global_batch, seed=seed
    )
