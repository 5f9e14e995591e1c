"""How sure are we: bootstrap intervals of a metric, and of what one model loses against another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.lib import metrics

Array = NDArray[Any]

# Main metric to the function of additive counts that gives it.
STATISTICS: dict[str, metrics.Statistic] = {
    "entity_f1": metrics.f1_from_counts,
    "accuracy": metrics.mean_from_counts,
    "ndcg@10": metrics.mean_from_counts,
    "negative_loss": metrics.mean_from_counts,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What a candidate loses against the reference on the same examples (positive: worse).

    Attributes:
        value: the point estimate.
        ci95: two-sided interval.
        upper95: one-sided 95 % bound: the loss is smaller with 95 % confidence.
        p_exceeds: probability, over resamples, that the loss exceeds the budget.
        budget: the largest allowed loss.
    """

    value: float
    ci95: tuple[float, float]
    upper95: float
    p_exceeds: float
    budget: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}


def interval_of(metric: str, counts: Array, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `metric`."""
    return metrics.interval95(metrics.bootstrap(counts, STATISTICS[metric], seed=seed))


def drop_of(
    metric: str, reference: Array, candidate: Array, *, budget: float, seed: int = 0
) -> Drop:
    """Compare two models on the same examples by a paired bootstrap.

    Args:
        metric: a key of `STATISTICS`.
        reference: (examples, columns) counts of the reference.
        candidate: the same examples' counts of the candidate.
        budget: the largest allowed loss.
        seed: of the resampling.
    """
    statistic = STATISTICS[metric]
    value = float(statistic(reference.sum(axis=0)) - statistic(candidate.sum(axis=0)))
    if np.array_equal(reference, candidate):
        return Drop(value=0.0, ci95=(0.0, 0.0), upper95=0.0, p_exceeds=0.0, budget=budget)
    lost = metrics.paired_drop(reference, candidate, statistic, seed=seed)
    return Drop(
        value=value,
        ci95=metrics.interval95(lost),
        upper95=float(np.percentile(lost, 95)),
        p_exceeds=float(np.mean(lost > budget)),
        budget=budget,
    )
