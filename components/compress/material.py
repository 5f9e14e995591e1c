"""What compression learns from: the splits, laid out as batches for one task.

Texts without labels are mixed among the labelled rows: the tuned model's answers on them are taught
like any others, and they have no part in the labels' own loss. An epoch has every labelled row once
and of the others as many as `recommend.unlabelled_rows` says, each once before any comes again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.compress.recommend import unlabelled_rows
from components.contract import DataError
from components.lib import batching
from components.lib.dataset import UNLABELLED, Split, load_split, read_manifest
from components.lib.references import pad_token_id
from components.lib.tasks import Batch, Task, make_task

# Rows in a forward without gradients: no activations are kept, so more fit.
EVALUATION_ROWS = 64
CALIBRATION_BATCH = 16
UNLABELLED_ORDER = 7  # keeps this order apart from any other by the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one dataset has to learn from.

    Attributes:
        task: how rows become batches.
        train: labelled rows.
        validation: labelled rows that nothing is trained on.
        lessons: what is trained on: `train`, then the rows without labels if there are any.
        drawn: rows without labels in an epoch.
    """

    task: Task
    train: Split
    validation: Split
    lessons: Split
    global_batch: int
    seed: int
    drawn: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-(len(self.task.units(self.train)) + self.drawn) // self.global_batch)

    @property
    def tokens_per_epoch(self) -> float:
        """Tokens of the labelled rows and, in the mean, of those drawn."""
        rest = self.lessons.rows - self.train.rows
        others = self.lessons.tokens - self.train.tokens
        return self.train.tokens + (self.drawn * others / rest if rest else 0.0)

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
        units, epoch = self.task.units(self.lessons), 0
        while True:
            present = np.append(self._labelled_units(len(units)), self.unlabelled_in(epoch))
            for chosen in batching.epoch_batches(
                units.lengths[present], self.global_batch, seed=self.seed, epoch=epoch
            ):
                yield self.task.collate(self.lessons, units.of(present[chosen]), packed=False)
            epoch += 1

    def _labelled_units(self, units: int) -> NDArray[np.int64]:
        return np.arange(units - (self.lessons.rows - self.train.rows))

    def unlabelled_in(self, epoch: int) -> NDArray[np.int64]:
        """Rows of `lessons` without labels that an epoch has: the next ones of a shuffled round
        through all of them."""
        rest = self.lessons.rows - self.train.rows
        places = np.arange(epoch * self.drawn, (epoch + 1) * self.drawn)
        rows = np.empty(len(places), np.int64)
        for turn in np.unique(places // max(rest, 1)):
            order = np.random.default_rng([self.seed, UNLABELLED_ORDER, turn]).permutation(rest)
            here = places // rest == turn
            rows[here] = order[places[here] % rest]
        return self.train.rows + rows

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
    lessons, drawn = train, 0
    if UNLABELLED in manifest["splits"]:
        others = load_split(dataset, UNLABELLED)
        drawn = unlabelled_rows(train.tokens, others.rows, others.tokens)
        lessons = joined(train, others) if drawn else train
    pad = pad_token_id(model) if (model / "tokenizer.json").is_file() else 0
    made = make_task(task, manifest["labels"], pad_token_id=pad, image_size=image_size or 64)
    return Material(
        task=made, train=train, validation=validation, lessons=lessons, drawn=drawn,
        global_batch=global_batch, seed=seed,
    )  # fmt: skip


def joined(first: Split, second: Split) -> Split:
    """The rows of `first`, then those of `second`; both of one task."""
    return replace(
        first,
        rows=first.rows + second.rows,
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        input_ids=np.concatenate([first.input_ids, second.input_ids]),
        lengths=np.concatenate([first.lengths, second.lengths]),
        columns={
            name: np.concatenate([values, second.columns[name]])
            for name, values in first.columns.items()
        },
    )
