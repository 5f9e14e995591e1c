"""A label for each word, each text or each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from components.contract import IGNORED_LABEL
from components.lib import images, losses, metrics
from components.lib.augment import Augmentation, augmented
from components.lib.batching import Rows, Units, single_rows
from components.lib.dataset import Split
from components.lib.tasks.base import Array, Batch
from components.lib.tasks.layout import TextTask, flat_index


class TokenClassification(TextTask):
    """A label for each word, scored on the word's first token."""

    def __init__(self, labels: Sequence[str], pad_token_id: int, weights: Array | None) -> None:
        super().__init__("token-classification", labels, pad_token_id)
        self.class_weights = weights

    def units(self, split: Split) -> Units:
        weights = losses.label_weights(split.columns["labels"], self.class_weights)
        per_row = np.add.reduceat(np.append(weights, 0.0), split.offsets[:-1])
        return single_rows(split.lengths.astype(np.int64), per_row)

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        return self._batch(split, rows, packed, "labels")

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.cross_entropy_sum(logits, batch.targets, self.class_weights)

    def outputs(self, split: Split) -> Array:
        return np.zeros(split.tokens, dtype=np.int64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        best = logits.argmax(-1)
        mask = batch.inputs.get("attention_mask")
        flat = best.flatten() if mask is None else best[mask.bool()]
        outputs[flat_index(split, batch.rows)] = flat[: batch.tokens].cpu().numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        labels = split.columns["labels"]
        scored = labels != IGNORED_LABEL
        sentence = np.repeat(split.columns["sentence"], split.lengths)[scored]
        starts = np.flatnonzero(np.append(True, sentence[1:] != sentence[:-1]))[: len(sentence)]
        true, predicted = labels[scored], outputs[scored]
        result = metrics.entity_score(true, predicted, starts, self.labels)
        return {
            "entity_f1": result.f1,
            "precision": result.precision,
            "recall": result.recall,
            "accuracy": metrics.accuracy(true, predicted),
        }


class _Classification:
    """Loss and score shared by text and image classification: one label a row."""

    labels: Sequence[str]
    class_weights: Array | None

    def _weights(self, split: Split) -> Array:
        return losses.label_weights(split.columns["label"], self.class_weights)

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.cross_entropy_sum(logits, batch.targets, self.class_weights)

    def outputs(self, split: Split) -> Array:
        return np.zeros((split.rows, len(self.labels)), dtype=np.float64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        outputs[batch.rows] = logits.float().cpu().numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        true, predicted = split.columns["label"], outputs.argmax(axis=1)
        probabilities = metrics.softmax(outputs)
        return {
            "accuracy": metrics.accuracy(true, predicted),
            "macro_f1": metrics.macro_f1(true, predicted, self.labels),
            "calibration_error": metrics.expected_calibration_error(true, probabilities),
        }


class TextClassification(_Classification, TextTask):
    """One label a text."""

    def __init__(self, labels: Sequence[str], pad_token_id: int, weights: Array | None) -> None:
        TextTask.__init__(self, "text-classification", labels, pad_token_id)
        self.class_weights = weights

    def units(self, split: Split) -> Units:
        return single_rows(split.lengths.astype(np.int64), self._weights(split))

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        targets = torch.from_numpy(split.columns["label"][rows].astype(np.int64))
        return self._batch(split, rows, packed, targets)


class ImageClassification(_Classification):
    """One label an image; images are scaled to the model's size and to -1..1."""

    def __init__(
        self,
        labels: Sequence[str],
        weights: Array | None,
        size: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.name = "image-classification"
        self.augmentation = augmentation
        self.labels = labels
        self.class_weights = weights
        self.size = size

    def units(self, split: Split) -> Units:
        return single_rows(np.ones(split.rows, dtype=np.int64), self._weights(split))

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        pixels = images.pixels(split, rows, self.size)
        return Batch(
            inputs={"pixel_values": torch.from_numpy(pixels)},
            targets=torch.from_numpy(split.columns["label"][rows].astype(np.int64)),
            rows=rows,
            tokens=len(rows),
            padded_tokens=len(rows),
        )

    def training_batch(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        batch = self.collate(split, rows, packed=packed)
        pixels, targets = batch.inputs["pixel_values"], batch.targets
        lone = len(rows) == 1
        if lone:  # batch normalisation needs two: the image counts half each time
            pixels, targets = pixels.repeat(2, 1, 1, 1), targets.repeat(2)
        if self.augmentation is not None:
            pixels, targets = augmented(pixels, targets, len(self.labels), self.augmentation)
        elif lone:
            targets = functional.one_hot(targets, len(self.labels)).float()
        if lone:
            targets = targets / 2.0
        return dataclasses.replace(batch, inputs={"pixel_values": pixels}, targets=targets)
