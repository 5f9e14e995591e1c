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


def random_folds(rows: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, FOLDS, rows)


def widen(
    problem: Problem, measured: Measured, full: np.ndarray, fitted: Calibration
) -> Calibration:
    """Scale noise and variances so that held-back rows fall inside their interval.

    Rows held back at random set the scale of all variances; GPUs held back entirely set what an
    unseen GPU adds (the spread of level ``gpu``, or ``model`` for memory).
    """
    known = problem.weight > 0
    folds = random_folds(len(measured.rows))
    held = leave_out(problem, full, folds, fitted, fresh=False)
    scale = _quantile(problem, held.mean, held.spread, known)
    unseen = "gpu" if problem.quantity == "time" else "model"
    groups = measured.gpu if problem.quantity == "time" else measured.model
    out = leave_out(problem, full, groups, fitted)
    error = np.abs(out.mean - problem.target)[known]
    base = scale * out.spread[known]
    low, high = 0.0, 1.0
    for _ in range(30):
        extra = (low + high) / 2
        inside = np.mean(error <= Z80 * np.sqrt(base**2 + extra**2))
        low, high = (extra, high) if inside < TARGET else (low, extra)
    spreads = {k: v * scale for k, v in fitted.spreads.items()}
    spreads[unseen] = float(np.hypot(spreads[unseen], high))
    return dataclasses.replace(
        fitted,
        noise=fitted.noise * scale,
        effects={k: (m, v * scale**2) for k, (m, v) in fitted.effects.items()},
        spreads={k: round(v, 4) for k, v in spreads.items()},
        evidence={
            **fitted.evidence,
            "source": "measured/workloads.csv",
            "interval_scale": round(scale, 3),
            "unseen_group_spread": round(high, 3),
        },
    )


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
