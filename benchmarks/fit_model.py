"""Fit the shipped coefficients and residuals of the cost model.

Usage: python -m benchmarks.fit_model ../shared/measured/workloads.csv
Writes pipelines/cost/data/coefficients.json and residuals.json; about a minute on two cores.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.fitting import (
    Z80,
    Problem,
    fit,
    held_spread,
    learn_residuals,
    leave_out,
    memory_problem,
    time_problem,
)
from benchmarks.measured import Measured, load
from pipelines.cost.calibration import Calibration

DATA = Path(__file__).parents[1] / "pipelines/cost/data"
# Share of held-back rows that the 80 % interval is scaled to hold.
TARGET = 0.82
FOLDS, SEED = 4, 0
# Level, what is held out to set it, and whether by the largest group (one GPU holds a software
# stack of its own) or by all others.
UNSEEN = {
    "time": (("width", "model", False), ("gpu", "gpu", False), ("work", "gpu", True)),
    "memory": (("model", "model", False), ("method", "gpu", False)),
}


def random_folds(rows: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, FOLDS, rows)


def widen(
    problem: Problem, measured: Measured, full: np.ndarray, fitted: Calibration
) -> Calibration:
    """Scale variances, and add what the unseen costs, so that held-back rows are covered.

    Rows held back at random set the scale of all variances. Models and GPUs held back entirely
    set what an unseen size adds (`UNSEEN` levels, in this order, each on top of the former).
    """
    known = problem.weight > 0
    random = leave_out(problem, full, random_folds(len(measured.rows)), fitted, fresh=False)
    scale = _quantile(problem, random.mean, random.spread, known)
    scaled = dataclasses.replace(
        fitted,
        noise=fitted.noise * scale,
        effects={k: (m, v * scale**2) for k, (m, v) in fitted.effects.items()},
        spreads={k: round(v * scale, 4) for k, v in fitted.spreads.items()},
        evidence={
            **fitted.evidence,
            "source": "measured/workloads.csv",
            "interval_scale": round(scale, 3),
        },
    )
    groups = {"model": measured.model, "gpu": measured.gpu}
    held = {k: leave_out(problem, full, column, scaled) for k, column in groups.items()}
    for level, by, largest in UNSEEN[problem.quantity]:
        column = groups[by]
        sizes = {g: np.sum(problem.weight[column == g]) for g in set(column.tolist())}
        top = max(sizes, key=lambda g: sizes[g])
        rows = known & ((column == top) if largest else (column != top))
        scaled = _cover(problem, held[by].mean, column, rows, scaled, level)
    return scaled


def _cover(
    problem: Problem, mean: np.ndarray, groups: np.ndarray, rows: np.ndarray,
    calibration: Calibration, level: str,
) -> Calibration:  # fmt: skip
    """Set `level`'s unseen spread to the least that covers the target share of `rows`."""
    error, weight = np.abs(mean - problem.target)[rows], problem.weight[rows]
    # Variance is linear in the unseen variance: two evaluations give every candidate.
    variance = []
    for extra in (0.0, 1.0):
        trial = dataclasses.replace(calibration, unseen={**calibration.unseen, level: extra})
        spread = np.empty(len(groups))
        for group in set(groups[rows].tolist()):
            inside = groups == group
            spread[inside] = held_spread(problem, inside, trial)
        variance.append(spread[rows] ** 2)
    low, high = 0.0, 1.0
    for _ in range(20):
        extra = (low + high) / 2
        width = np.sqrt(variance[0] + extra**2 * (variance[1] - variance[0]))
        share = np.average(error <= Z80 * width, weights=weight)
        low, high = (extra, high) if share < TARGET else (low, extra)
    return dataclasses.replace(calibration, unseen={**calibration.unseen, level: round(high, 4)})


def _quantile(p: Problem, mean: np.ndarray, spread: np.ndarray, known: np.ndarray) -> float:
    z = np.abs(mean - p.target)[known] / spread[known]
    return float(np.quantile(z, TARGET) / Z80)


def main() -> None:
    path = Path(sys.argv[1])
    values: dict[str, float] = {}
    residuals = {}
    for quantity, make in (("time", time_problem), ("memory", memory_problem)):
        measured = load(path, quantity)
        problem = make(measured)
        full = fit(problem)
        values |= {n: float(f"{v:.5g}") for n, v in zip(problem.names, np.exp(full), strict=True)}
        everything = np.ones(len(measured.rows), dtype=bool)
        fitted = learn_residuals(problem, problem.target - problem.log_model(full), everything)
        residuals[quantity] = widen(problem, measured, full, fitted).to_json()
        print(quantity, residuals[quantity]["evidence"], residuals[quantity]["spreads"])
    document = {"evidence": "benchmarks/fit_model.py on measured/workloads.csv", "values": values}
    (DATA / "coefficients.json").write_text(json.dumps(document, indent=1) + "\n")
    (DATA / "residuals.json").write_text(json.dumps(residuals, indent=1) + "\n")


if __name__ == "__main__":
    main()
