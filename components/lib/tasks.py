"""The five tasks: how rows become tensors, what the loss is, how predictions are scored.

A task object is a handful of functions over a `Split`; training, distillation and pruning share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL, MAIN_METRIC, DataError
from components.lib import images, losses, metrics
from components.lib.batching import Rows, Units, grouped_rows, single_rows
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

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the *sum* of the loss over the batch's units, in units of their weights."""

    def outputs(self, split: Split) -> Array:
        """Return zeros for the predictions of a whole split, see `record`."""

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        """Write the batch's predictions into `outputs`."""

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        """Return the metrics of the recorded predictions, the main metric first."""


def make_task(
    name: str,
    labels: Sequence[str],
    *,
    pad_token_id: int = 0,
    class_weights: Array | None = None,
    listwise: bool = False,
    image_size: int = 64,
) -> Task:
    """Return the task called `name` (one of contract.TASKS)."""
    match name:
        case "token-classification":
            return TokenClassification(labels, pad_token_id, class_weights)
        case "text-classification":
            return TextClassification(labels, pad_token_id, class_weights)
        case "text-pair-ranking":
            return Ranking(labels, pad_token_id, listwise)
        case "causal-lm":
            return CausalLanguageModel(labels, pad_token_id)
        case "image-classification":
            return ImageClassification(labels, class_weights, image_size)
    raise DataError(f"unknown task {name!r}", remedy=f"one of {', '.join(MAIN_METRIC)}")


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


# -- layout --------------------------------------------------------------------------------------


def _flat_index(split: Split, rows: Rows) -> Array:
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
    index = _flat_index(split, rows)
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


class _Text:
    """Layout shared by the text tasks."""

    def __init__(self, name: str, labels: Sequence[str], pad_token_id: int) -> None:
        self.name = name
        self.labels = labels
        self.pad_token_id = pad_token_id
        self.position_offset = 0
        self.multiple = 1

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


# -- the tasks -----------------------------------------------------------------------------------


class TokenClassification(_Text):
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
        outputs[_flat_index(split, batch.rows)] = flat[: batch.tokens].cpu().numpy()

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


class TextClassification(_Classification, _Text):
    """One label a text."""

    def __init__(self, labels: Sequence[str], pad_token_id: int, weights: Array | None) -> None:
        _Text.__init__(self, "text-classification", labels, pad_token_id)
        self.class_weights = weights

    def units(self, split: Split) -> Units:
        return single_rows(split.lengths.astype(np.int64), self._weights(split))

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        targets = torch.from_numpy(split.columns["label"][rows].astype(np.int64))
        return self._batch(split, rows, packed, targets)


class ImageClassification(_Classification):
    """One label an image; images are scaled to the model's size and to -1..1."""

    def __init__(self, labels: Sequence[str], weights: Array | None, size: int) -> None:
        self.name = "image-classification"
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


class Ranking(_Text):
    """A score for each pair of texts: pointwise (binary cross-entropy on relevance scaled to 0..1)
    or listwise (ListNet's cross-entropy between the softmax of relevances and of scores)."""

    def __init__(self, labels: Sequence[str], pad_token_id: int, listwise: bool) -> None:
        super().__init__("text-pair-ranking", labels, pad_token_id)
        self.listwise = listwise

    def units(self, split: Split) -> Units:
        lengths = split.lengths.astype(np.int64)
        if self.listwise:
            return grouped_rows(split.columns["group"], lengths)
        return single_rows(lengths, np.ones(split.rows))

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        relevance = split.columns["label"][rows].astype(np.float32)
        group = split.columns["group"][rows].astype(np.float32)
        top = max(float(split.columns["label"].max()), 1.0)
        _, group = np.unique(group, return_inverse=True)
        targets = torch.from_numpy(np.stack([relevance / top, group.astype(np.float32)], axis=1))
        return self._batch(split, rows, packed, targets)

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        relevance, group = batch.targets.unbind(1)
        scores = logits.float().squeeze(-1)
        if self.listwise:
            return losses.listwise_sum(scores, relevance, group.long())
        return losses.pointwise_sum(scores, relevance)

    def outputs(self, split: Split) -> Array:
        return np.zeros(split.rows, dtype=np.float64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        outputs[batch.rows] = logits.float().squeeze(-1).cpu().numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        relevance, group = split.columns["label"], split.columns["group"]
        return {
            "ndcg@10": float(metrics.ndcg_by_group(outputs, relevance, group).mean()),
            "mrr": float(metrics.mrr_by_group(outputs, relevance, group).mean()),
        }


class CausalLanguageModel(_Text):
    """The next token, scored where `labels` is not ignored (the completion)."""

    def __init__(self, labels: Sequence[str], pad_token_id: int) -> None:
        super().__init__("causal-lm", labels, pad_token_id)

    def units(self, split: Split) -> Units:
        # The first token of a sequence is never predicted.
        scored = (split.columns["labels"] != IGNORED_LABEL).astype(float)
        scored[split.offsets[:-1]] = 0.0
        per_row = np.add.reduceat(np.append(scored, 0.0), split.offsets[:-1])
        return single_rows(split.lengths.astype(np.int64), per_row)

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        batch = self._batch(split, rows, packed, "labels")
        # Align targets with logits: position t predicts label t + 1 of the same sequence.
        targets = torch.full_like(batch.targets, IGNORED_LABEL)
        targets[:, :-1] = batch.targets[:, 1:]
        if packed:
            targets[0, batch.inputs["cu_seq_lens_q"][1:].long() - 1] = IGNORED_LABEL
        return Batch(
            inputs=batch.inputs,
            targets=targets,
            rows=rows,
            tokens=batch.tokens,
            padded_tokens=batch.padded_tokens,
        )

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.cross_entropy_sum(logits, batch.targets, None)

    def outputs(self, split: Split) -> Array:
        return np.zeros((split.rows, 2), dtype=np.float64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        flat = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
        )
        counted = (batch.targets.flatten() != IGNORED_LABEL).double()
        if "cu_seq_lens_q" in batch.inputs:
            lengths = batch.inputs["cu_seq_lens_q"].diff().long()[: len(batch.rows)]
            owner = torch.repeat_interleave(torch.arange(len(batch.rows)), lengths)
            flat, counted = flat[: batch.tokens], counted[: batch.tokens]
        else:
            width = batch.targets.shape[1]
            owner = torch.arange(len(batch.rows)).repeat_interleave(width)
        for column, values in enumerate((flat.double(), counted)):
            sums = torch.zeros(len(batch.rows), dtype=torch.float64)
            outputs[batch.rows, column] = sums.index_add_(0, owner, values.cpu()).numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        total, count = outputs.sum(axis=0)
        loss = float(total / max(count, 1.0))
        return {"negative_loss": -loss, "perplexity": metrics.perplexity(loss)}
