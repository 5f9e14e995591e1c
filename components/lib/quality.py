"""Score an exported model on a whole split: numpy and ONNX Runtime only.

`Quality.counts` keeps what a bootstrap needs, one row an independent example (sentence, text,
query group, image), so that two models can be compared on the same examples later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL, MAIN_METRIC, DataError
from components.lib import interval, metrics, scope
from components.lib.dataset import Split
from components.lib.runner import Runner

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a model is on one split.

    Attributes:
        metric: name of the task's main metric.
        value: the main metric, larger is better.
        ci95: its bootstrap interval.
        metrics: all figures, the main one first.
        counts: (examples, columns), additive; `interval.STATISTICS[metric]` turns their sum into
            `value`.
        report: per-class table (token level over words for tagging, O included), or None.
        entities: default and strict entity scores, for tagging only.
        confusion: ``{labels, matrix}`` or None.
        scope: how out-of-scope inputs were told, or None.
    """

    metric: str
    value: float
    ci95: tuple[float, float]
    metrics: dict[str, float]
    counts: Array
    report: dict[str, Any] | None = None
    entities: dict[str, Any] | None = None
    confusion: dict[str, Any] | None = None
    scope: scope.Scope | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "value": self.value,
            "ci95": list(self.ci95),
            "metrics": self.metrics,
            "classification_report": self.report,
            "entities": self.entities,
            **({"scope": self.scope.to_json()} if self.scope else {}),
        }

    def save_counts(self, path: Path) -> None:
        """Write what the paired comparison needs."""
        np.savez_compressed(path, counts=self.counts, metric=np.array(self.metric))


def load_counts(path: Path) -> Array:
    """Read what `Quality.save_counts` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["counts"]


def assess(
    runner: Runner,
    split: Split,
    task: str,
    labels: Sequence[str],
    seed: int = 0,
    *,
    outside: scope.Scope | str | None = None,
) -> Quality:
    """Run the whole split through the model and score it.

    Args:
        outside: the out-of-scope label, whose threshold is then chosen on this split, or label
            and threshold.

    Raises:
        DataError: the split is empty, or the model was made for another task or label set.
    """
    if not split.rows:
        raise DataError(f"{split.name} split is empty", remedy="give it rows")
    if runner.info["task"] != task:
        raise DataError(f"the model is for {runner.info['task']}, the data for {task}")
    if task == "causal-lm":
        return _language(runner, split, seed)
    logits = runner.run(split)
    classes = 1 if task == "text-pair-ranking" else len(labels)
    if logits.shape[1] != classes:
        raise DataError(
            f"the model gives {logits.shape[1]} scores, the data has {classes} labels",
            remedy="evaluate on the data set it was trained on",
        )
    if task == "token-classification":
        return _tagging(logits, split, labels, seed)
    if task == "text-pair-ranking":
        return _ranking(logits[:, 0], split, seed)
    return _classes(logits, split, labels, task, seed, outside)


def _finish(
    task: str, counts: Array, figures: dict[str, float], seed: int, **extra: Any
) -> Quality:
    metric = MAIN_METRIC[task]
    counts = np.asarray(counts, dtype=np.float64)
    return Quality(
        metric=metric,
        value=figures[metric],
        ci95=interval.interval_of(metric, counts, seed=seed),
        metrics=figures,
        counts=counts,
        **extra,
    )


def _confusion(true: Array, predicted: Array, labels: Sequence[str]) -> dict[str, Any]:
    matrix = metrics.confusion_matrix(true, predicted, len(labels))
    return {"labels": list(labels), "matrix": matrix.tolist()}


def tagged_words(split: Split) -> tuple[Array, Array]:
    """Return which tokens are scored (the first of each word) and the index, among the scored
    ones, of the first word of each sentence."""
    scored = split.columns["labels"] != IGNORED_LABEL
    sentence = np.repeat(split.columns["sentence"], split.lengths)[scored]
    first = np.append(True, sentence[1:] != sentence[:-1])[: len(sentence)]
    return scored, np.flatnonzero(first)


def _tagging(logits: Array, split: Split, labels: Sequence[str], seed: int) -> Quality:
    scored, starts = tagged_words(split)
    true, predicted = split.columns["labels"][scored], logits[scored].argmax(axis=1)
    scores = {
        "default": metrics.entity_score(true, predicted, starts, labels),
        "strict": metrics.entity_score(true, predicted, starts, labels, strict=True),
    }
    default = scores["default"]
    figures = {
        "entity_f1": default.f1,
        "precision": default.precision,
        "recall": default.recall,
        "entity_f1_strict": scores["strict"].f1,
        "accuracy": metrics.accuracy(true, predicted),
        "calibration_error": metrics.expected_calibration_error(
            true, metrics.softmax(logits[scored])
        ),
    }
    return _finish(
        "token-classification",
        default.counts,
        figures,
        seed,
        report=metrics.classification_report(true, predicted, labels),
        entities={
            mode: {
                "precision": score.precision,
                "recall": score.recall,
                "f1": score.f1,
                "by_type": score.by_type,
            }
            for mode, score in scores.items()
        },
        confusion=_confusion(true, predicted, labels),
    )


def _classes(
    logits: Array,
    split: Split,
    labels: Sequence[str],
    task: str,
    seed: int,
    outside: scope.Scope | str | None,
) -> Quality:
    true, predicted = split.columns["label"], logits.argmax(axis=1)
    if isinstance(outside, str):
        outside = scope.choose(logits, true, labels, outside)
    if outside:
        predicted = outside.predict(logits, labels)
    figures = {
        "accuracy": metrics.accuracy(true, predicted),
        "macro_f1": metrics.macro_f1(true, predicted, labels),
        "calibration_error": metrics.expected_calibration_error(true, metrics.softmax(logits)),
    }
    if len(labels) > 5:
        figures["top5_accuracy"] = metrics.top_k_accuracy(true, logits, 5)
    if outside:
        figures |= scope.figures(true, predicted, labels, outside.label)
    return _finish(
        task,
        np.stack([true == predicted, np.ones(len(true))], axis=1),
        figures,
        seed,
        report=metrics.classification_report(true, predicted, labels),
        confusion=_confusion(true, predicted, labels),
        scope=outside,
    )


def _ranking(scores: Array, split: Split, seed: int) -> Quality:
    relevance, group = split.columns["label"], split.columns["group"]
    gains = metrics.ndcg_by_group(scores, relevance, group)
    figures = {
        "ndcg@10": float(gains.mean()),
        "mrr": float(metrics.mrr_by_group(scores, relevance, group).mean()),
    }
    counts = np.stack([gains, np.ones(len(gains))], axis=1)
    return _finish("text-pair-ranking", counts, figures, seed)


def _language(runner: Runner, split: Split, seed: int) -> Quality:
    """Mean loss of the scored tokens, batch by batch: the logits of a split would fill memory."""
    counts = np.zeros((split.rows, 2))
    for rows, logits in runner.iterate(split):
        for position, row in enumerate(rows):
            targets = split.values("labels", row)[1:]
            wanted = np.flatnonzero(targets != IGNORED_LABEL)
            scores = logits[position, wanted].astype(np.float64)
            top = scores.max(axis=1, initial=0.0) if len(wanted) else np.zeros(0)
            norm = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
            counts[row] = (
                (scores[np.arange(len(wanted)), targets[wanted]] - norm).sum(),
                len(wanted),
            )
    value = float(metrics.mean_from_counts(counts.sum(axis=0)))
    figures = {"negative_loss": value, "perplexity": metrics.perplexity(-value)}
    return _finish("causal-lm", counts, figures, seed)
