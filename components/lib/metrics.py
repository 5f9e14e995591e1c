"""Quality figures, all from numpy arrays, all vectorised (a bootstrap calls them often).

Scores of a classifier are arrays of class ids; scores of a tagger are the tags of all words of all
sentences in a row, with `starts` giving the index of each sentence's first word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

BOOTSTRAP_RESAMPLES = 2000
# Rows of resampling weights drawn at a time: bounds the memory of n examples to 64 n doubles.
BOOTSTRAP_BLOCK = 64


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Divide, with 0 where the denominator is 0 (seqeval's and scikit-learn's convention)."""
    denominator = np.asarray(denominator, dtype=float)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)


def f1_from_counts(counts: NDArray[Any]) -> Any:
    """F1 of (..., 3) counts: true positives, predicted, actual."""
    return _ratio(2.0 * counts[..., 0], counts[..., 1] + counts[..., 2])


# -- entities ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Entities of one tagging; arrays of equal length. `end` is the index of the last word."""

    start: Ints
    end: Ints
    type: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityScore:
    """Entity-level quality. `counts` is (sentences, 3): true positives, predicted, actual, which is
    what a bootstrap over sentences needs; `by_type` is a classification report."""

    precision: float
    recall: float
    f1: float
    counts: Ints
    by_type: dict[str, dict[str, float]]


def entity_spans(tags: Ints, starts: Ints, labels: Sequence[str], *, strict: bool) -> Spans:
    """Read the entities off a BIO2 tagging.

    Args:
        tags: label id of every word, sentences in a row.
        starts: index of the first word of each sentence.
        labels: label names in id order: ``O``, ``B-<type>``, ``I-<type>``.
        strict: False as conlleval and seqeval's default: an I without its B starts an entity.
            True as seqeval's strict IOB2: only B starts one.
    """
    types = sorted({label[2:] for label in labels if label != "O"})
    type_of = np.array([types.index(label[2:]) if label != "O" else -1 for label in labels])
    inside = np.array([label.startswith("I-") for label in labels])[tags]
    kind = type_of[tags]
    first = np.zeros(len(tags), dtype=bool)
    first[starts[starts < len(tags)]] = True
    continues = inside & ~first & (kind == np.concatenate(([-1], kind[:-1])))
    begins = (kind >= 0) & ~continues
    if strict:
        begins &= ~inside
    start = np.flatnonzero(begins)
    breaks = np.append(np.flatnonzero(~continues), len(tags))
    end = breaks[np.searchsorted(breaks, start, side="right")] - 1
    return Spans(start=start, end=end, type=kind[start])


def entity_score(
    true: Ints, predicted: Ints, starts: Ints, labels: Sequence[str], *, strict: bool = False
) -> EntityScore:
    """Score a tagging by exact entity matches (type and both boundaries), micro-averaged.

    Args:
        true: label id of every word, sentences in a row.
        predicted: the same for the tagging to be scored.
        starts: index of the first word of each sentence.
        labels: label names in id order.
        strict: see `entity_spans`; equal to seqeval's ``mode="strict", scheme=IOB2`` when True.
    """
    types = sorted({label[2:] for label in labels if label != "O"})
    wanted = entity_spans(true, starts, labels, strict=strict)
    found = entity_spans(predicted, starts, labels, strict=strict)
    keys = [(s.start * (len(true) + 1) + s.end) * max(len(types), 1) + s.type
            for s in (wanted, found)]  # fmt: skip
    hit = np.isin(keys[1], keys[0])
    sentences = len(starts)

    def per_sentence(words: Ints) -> Ints:
        owner = np.searchsorted(starts, words, side="right") - 1
        return np.bincount(owner, minlength=sentences)

    by_sentence = (found.start[hit], found.start, wanted.start)
    counts = np.stack([per_sentence(words) for words in by_sentence], axis=1)
    by_kind = (found.type[hit], found.type, wanted.type)
    per_type = np.stack([np.bincount(kinds, minlength=len(types)) for kinds in by_kind], axis=1)
    tp, n_predicted, n_true = counts.sum(axis=0)
    return EntityScore(
        precision=float(_ratio(tp, n_predicted)),
        recall=float(_ratio(tp, n_true)),
        f1=float(f1_from_counts(counts.sum(axis=0))),
        counts=counts,
        by_type=report_from_counts(types, per_type),
    )


# -- classes -----------------------------------------------------------------------------------


def confusion_matrix(true: Ints, predicted: Ints, classes: int) -> Ints:
    """Return (classes, classes) counts, rows true, columns predicted."""
    flat = np.bincount(true.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def classification_report(
    true: Ints, predicted: Ints, labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Per-class precision, recall, F1 and support, with micro, macro and weighted averages.

    Every class counts, ``O`` included; classes that occur neither in `true` nor in `predicted` are
    left out (as scikit-learn does).
    """
    matrix = confusion_matrix(true, predicted, len(labels))
    counts = np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=1)
    seen = np.flatnonzero(counts[:, 1] + counts[:, 2])
    return report_from_counts([labels[i] for i in seen], counts[seen])


def report_from_counts(names: Sequence[str], counts: Ints) -> dict[str, dict[str, float]]:
    """Build a report from (classes, 3) counts: true positives, predicted, actual."""
    precision = _ratio(counts[:, 0], counts[:, 1])
    recall = _ratio(counts[:, 0], counts[:, 2])
    f1 = f1_from_counts(counts)
    support = counts[:, 2]
    total = counts.sum(axis=0)
    report = {
        name: _row(precision[i], recall[i], f1[i], support[i]) for i, name in enumerate(names)
    }
    report["micro avg"] = _row(
        _ratio(total[0], total[1]), _ratio(total[0], total[2]), f1_from_counts(total), total[2]
    )
    if len(names):
        report["macro avg"] = _row(precision.mean(), recall.mean(), f1.mean(), total[2])
    if total[2]:
        columns = [np.average(x, weights=support) for x in (precision, recall, f1)]
        report["weighted avg"] = _row(*columns, total[2])
    return report


def _row(precision: Any, recall: Any, f1: Any, support: Any) -> dict[str, float]:
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "support": int(support),
    }


def accuracy(true: Ints, predicted: Ints) -> float:
    """Share of equal entries; 0 for no entries."""
    return float(np.mean(true == predicted)) if len(true) else 0.0


def macro_f1(true: Ints, predicted: Ints, labels: Sequence[str]) -> float:
    """Unweighted mean of the F1 of every class that occurs."""
    return classification_report(true, predicted, labels).get("macro avg", {}).get("f1", 0.0)


def top_k_accuracy(true: Ints, logits: Floats, k: int) -> float:
    """Share of rows of `logits` (rows, classes) whose true class is among the k largest."""
    k = min(k, logits.shape[1])
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    return float((best == true[:, None]).any(axis=1).mean()) if len(true) else 0.0


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def expected_calibration_error(true: Ints, probabilities: Floats, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == true
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(true), 1))


# -- rankings and language models --------------------------------------------------------------


def ndcg_by_group(scores: Floats, relevance: Floats, group: Ints, k: int = 10) -> Floats:
    """Normalised discounted cumulative gain at `k` of each group, in order of group id.

    Gain is 2^relevance - 1, discount log2(rank + 1); a group without any relevant item scores 0.
    Ties are broken against the model (the worse item first).
    """
    gains = np.exp2(relevance.astype(float)) - 1.0
    actual = _dcg(np.lexsort((gains, -scores, group)), gains, group, k)
    ideal = _dcg(np.lexsort((-gains, group)), gains, group, k)
    return _ratio(actual, ideal)


def _dcg(order: Ints, gains: Floats, group: Ints, k: int) -> Floats:
    ids, rank = _ranks(group[order])
    discounted = np.where(rank < k, gains[order] / np.log2(rank + 2.0), 0.0)
    return np.bincount(ids, weights=discounted)


def mrr_by_group(scores: Floats, relevance: Floats, group: Ints) -> Floats:
    """Reciprocal rank of the first relevant item (relevance > 0) of each group."""
    order = np.lexsort((relevance, -scores, group))
    ids, rank = _ranks(group[order])
    reciprocal = np.where(relevance[order] > 0, 1.0 / (rank + 1.0), 0.0)
    best = np.zeros(ids[-1] + 1 if len(ids) else 0)
    np.maximum.at(best, ids, reciprocal)
    return best


def _ranks(sorted_group: Ints) -> tuple[Ints, Ints]:
    """Dense group index and position within the group, for sorted group ids."""
    _, first, ids = np.unique(sorted_group, return_index=True, return_inverse=True)
    return ids, np.arange(len(ids)) - first[ids]


def perplexity(mean_loss: float) -> float:
    """exp of a mean token loss in nats; infinite beyond what a float holds."""
    return float(np.exp(mean_loss)) if mean_loss < 700 else float("inf")


# -- uncertainty -------------------------------------------------------------------------------

Statistic = Callable[[NDArray[Any]], Any]


def mean_from_counts(counts: NDArray[Any]) -> Any:
    """Mean of (..., 2) counts: sum of values, number of values."""
    return _ratio(counts[..., 0], counts[..., 1])


def bootstrap(
    counts: NDArray[Any],
    statistic: Statistic,
    *,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Floats:
    """Distribution of `statistic` under resampling of the examples with replacement.

    Args:
        counts: (examples, columns) additive counts, such as `EntityScore.counts`.
        statistic: maps (..., columns) sums to (...) values, such as `f1_from_counts`.

    Returns:
        (resamples,) values. The same seed and number of examples draw the same resamples, so two
        calls on two systems' counts of the same examples are paired.
    """
    random = np.random.default_rng(seed)
    examples = len(counts)
    share = np.full(examples, 1.0 / max(examples, 1))
    values = []
    for start in range(0, resamples, BOOTSTRAP_BLOCK):
        rows = min(BOOTSTRAP_BLOCK, resamples - start)
        weights = random.multinomial(examples, share, size=rows)
        values.append(statistic(weights @ counts))
    return np.concatenate(values)


def interval95(values: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired_drop(
    reference: NDArray[Any], candidate: NDArray[Any], statistic: Statistic, *, seed: int = 0
) -> Floats:
    """Distribution of the quality lost from `reference` to `candidate` on the same examples."""
    return bootstrap(reference, statistic, seed=seed) - bootstrap(candidate, statistic, seed=seed)
