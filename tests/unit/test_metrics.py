"""Metrics against the field's standard implementations."""

import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from sklearn import metrics as sk

from components.lib import metrics

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def random_tagging(seed: int):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, size=60)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    true = random.integers(0, 5, size=lengths.sum())
    predicted = np.where(random.random(len(true)) < 0.6, true, random.integers(0, 5, len(true)))
    return true, predicted, starts


def as_sentences(tags, starts):
    return [[LABELS[t] for t in part] for part in np.split(tags, starts[1:])]


@pytest.mark.parametrize("seed", range(5))
def test_entity_f1_equals_seqeval(seed):
    true, predicted, starts = random_tagging(seed)
    y_true, y_pred = as_sentences(true, starts), as_sentences(predicted, starts)
    loose = metrics.entity_score(true, predicted, starts, LABELS)
    strict = metrics.entity_score(true, predicted, starts, LABELS, strict=True)
    assert loose.f1 == pytest.approx(f1_score(y_true, y_pred), abs=1e-12)
    assert strict.f1 == pytest.approx(
        f1_score(y_true, y_pred, mode="strict", scheme=IOB2), abs=1e-12
    )
    assert loose.f1 != strict.f1


def test_entity_counts_add_up_and_identity_scores_one():
    true, predicted, starts = random_tagging(7)
    score = metrics.entity_score(true, predicted, starts, LABELS)
    assert metrics.f1_from_counts(score.counts.sum(axis=0)) == pytest.approx(score.f1)
    assert score.counts.shape == (60, 3)
    assert metrics.entity_score(true, true, starts, LABELS).f1 == 1.0
    assert score.by_type["micro avg"]["f1"] == pytest.approx(score.f1)


def test_entity_does_not_cross_a_sentence():
    tags = np.array([1, 2, 2])
    spans = metrics.entity_spans(tags, np.array([0, 2]), LABELS, strict=False)
    assert list(zip(spans.start, spans.end, strict=True)) == [(0, 1), (2, 2)]


def test_classification_report_equals_scikit_learn():
    true, predicted, _ = random_tagging(3)
    ours = metrics.classification_report(true, predicted, LABELS)
    theirs = sk.classification_report(
        true, predicted, target_names=LABELS, output_dict=True, zero_division=0
    )
    for name in [*LABELS, "macro avg", "weighted avg"]:
        assert ours[name]["f1"] == pytest.approx(theirs[name]["f1-score"])
        assert ours[name]["precision"] == pytest.approx(theirs[name]["precision"])
        assert ours[name]["support"] == theirs[name]["support"]
    assert ours["micro avg"]["f1"] == pytest.approx(theirs["accuracy"])


def test_ndcg_and_mrr():
    group = np.array([5, 5, 5, 9, 9])
    relevance = np.array([0.0, 1.0, 2.0, 0.0, 1.0])
    scores = np.array([0.1, 0.9, 0.5, 0.2, 0.8])
    ours = metrics.ndcg_by_group(scores, relevance, group)
    gains = (np.exp2(relevance) - 1)[None, :3]
    assert ours[0] == pytest.approx(sk.ndcg_score(gains, scores[None, :3], k=10))
    assert ours[1] == pytest.approx(1.0)
    assert metrics.mrr_by_group(scores, relevance, group) == pytest.approx([1.0, 1.0])
    assert metrics.mrr_by_group(-scores, relevance, group) == pytest.approx([0.5, 0.5])


def test_ties_count_against_the_model():
    flat = metrics.mrr_by_group(np.zeros(4), np.array([1.0, 0, 0, 0]), np.zeros(4, int))
    assert flat == pytest.approx([0.25])


def test_calibration_top_k_perplexity():
    true = np.array([0, 1, 1, 0])
    sure = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.1]])
    assert metrics.expected_calibration_error(true, sure) == pytest.approx(0.15)
    assert metrics.top_k_accuracy(true, sure, 1) == 0.75
    assert metrics.top_k_accuracy(true, sure, 5) == 1.0
    assert metrics.perplexity(0.0) == 1.0
    assert metrics.perplexity(1e9) == float("inf")


def test_bootstrap_covers_the_estimate_and_pairs():
    true, predicted, starts = random_tagging(1)
    counts = metrics.entity_score(true, predicted, starts, LABELS).counts
    values = metrics.bootstrap(counts, metrics.f1_from_counts, resamples=500)
    low, high = metrics.interval95(values)
    assert low < metrics.f1_from_counts(counts.sum(axis=0)) < high
    assert np.all(metrics.paired_drop(counts, counts, metrics.f1_from_counts) == 0)
    perfect = metrics.entity_score(true, true, starts, LABELS).counts
    assert np.all(metrics.paired_drop(perfect, counts, metrics.f1_from_counts) > 0)
