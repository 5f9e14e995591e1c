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
from benchmarks.widths import widen
from pipelines.cost.calibration import Calibration

DATA = Path(__file__).parents[1] / "pipelines/cost/data"
# Share of held-back rows that the 80 % interval is scaled to hold.
TARGET = 0.82
# Standard deviation of a counted row of memory whose every part is certain.
MEMORY_NOISE = 0.02


def scale_doubt(problem: Problem, measured: Measured, full: np.ndarray) -> Calibration:
    """Scale the doubt about memory so that GPUs and models held out are covered."""
    known = problem.weight > 0
    start = Calibration(effects={}, spreads={"doubt": 1.0}, noise=MEMORY_NOISE)
    errors = np.concatenate([
        (leave_out(problem, full, groups, start).mean - problem.target)[known]
        for groups in (measured.gpu, measured.model)
    ])  # fmt: skip
    assert problem.doubt is not None
    doubt = np.tile(problem.doubt[known], 2)
    sources = np.char.add(measured.table.astype(str), measured.gpu.astype(str))
    weight = np.tile(balanced(sources, known)[known], 2)
    low, high = 0.1, 5.0
    for _ in range(30):
        scale = (low + high) / 2
        wide = np.hypot(MEMORY_NOISE, scale * doubt)
        share = np.average(np.abs(errors) <= Z80 * wide, weights=weight)
        low, high = (scale, high) if share < TARGET else (low, scale)
    evidence = {"rows": int(known.sum()), "source": "measured/workloads.csv"}
    return dataclasses.replace(start, spreads={"doubt": round(high, 4)}, evidence=evidence)


def balanced(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weights under which a group counts with the square root of its `rows`: a large one
    must not decide alone how wide the intervals of small ones are, nor one row."""
    weight = np.zeros(len(groups))
    for group in set(groups[rows].tolist()):
        mine = rows & (groups == group)
        weight[mine] = 1.0 / np.sqrt(mine.sum())
    return weight


def main() -> None:
    path = Path(sys.argv[1])
    values: dict[str, float] = {}
    residuals = {}
    for quantity, make in (("time", time_problem), ("memory", memory_problem)):
        measured = load(path, quantity)
        problem = make(measured)
        full = fit(problem)
        values |= {n: float(f"{v:.5g}") for n, v in zip(problem.names, np.exp(full), strict=True)}
        if quantity == "memory":
            calibration = scale_doubt(problem, measured, full)
        else:
            everything = np.ones(len(measured.rows), dtype=bool)
            fitted = learn_residuals(problem, problem.target - problem.log_model(full), everything)
            calibration = widen(problem, measured, full, fitted)
        residuals[quantity] = calibration.to_json()
        print(quantity, calibration.evidence, calibration.spreads, calibration.unseen)
    document = {"evidence": "benchmarks/fit_model.py on measured/workloads.csv", "values": values}
    (DATA / "coefficients.json").write_text(json.dumps(document, indent=1) + "\n")
    (DATA / "residuals.json").write_text(json.dumps(residuals, indent=1) + "\n")


if __name__ == "__main__":
    main()
