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
from pipelines.cost.residuals import noise_classes
from pipelines.cost.time import StepModel

DATA = Path(__file__).parents[1] / "pipelines/cost/data"
# Share of held-back rows that the 80 % interval is scaled to hold.
TARGET = 0.82
FOLDS, SEED = 4, 0
# Level, what is held out to set it, and whether by the largest group (one GPU holds a software
# stack of its own) or by all others.
UNSEEN = (("width", "model", False), ("gpu_stack", "gpu", False), ("work", "gpu", True))
# A GPU without measurements adds this much at least (errors of GPUs held out, 8 to 13 % at the
# median), also where the scatter of a stack's rows alone would cover them.
UNSEEN_GPU = 0.1
# Rows that a software stack needs to say half of its own unseen spread; fewer lean on all.
OWN_ROWS = 5
# Standard deviation of a counted row of memory whose every part is certain.
MEMORY_NOISE = 0.02


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
    stack = np.array(StepModel(measured.columns).stack)
    for level, by, largest in UNSEEN:
        column = groups[by]
        sizes = {g: np.sum(problem.weight[column == g]) for g in set(column.tolist())}
        top = max(sizes, key=lambda g: sizes[g])
        rows = known & ((column == top) if largest else (column != top))
        rows &= _unseen_rows(problem, column, level)
        every = _cover(problem, held[by].mean, column, rows, scaled, level)
        scaled = _with_unseen(scaled, level, every)
        if largest:
            continue
        for name in sorted(set(stack[rows].tolist())):
            mine = rows & (stack == name)
            own = _cover(problem, held[by].mean, column, mine, scaled, level)
            count = mine.sum()
            variance = (count * own**2 + OWN_ROWS * every**2) / (count + OWN_ROWS)
            wide = max(float(np.sqrt(variance)), UNSEEN_GPU if level == "gpu_stack" else 0.0)
            scaled = _with_unseen(scaled, f"{level}:{name}", wide)
        for name in set(stack.tolist()) - set(stack[rows].tolist()):
            wide = max(every, UNSEEN_GPU if level == "gpu_stack" else 0.0)
            scaled = _with_unseen(scaled, f"{level}:{name}", wide)
        if level == "width":
            scaled = _scatter(problem, measured, held["model"].mean, measured.model, scaled)
    scaled = _scatter(problem, measured, held["gpu"].mean, measured.gpu, scaled)
    return _new_stack(problem, measured, full, stack, scaled)


def _new_stack(
    problem: Problem, measured: Measured, full: np.ndarray, stack: np.ndarray, scaled: Calibration
) -> Calibration:
    """Set what a software stack that was never measured adds: known ones have their own figure.

    Tables that have a stack for themselves are left out; their rows of that stack tell.
    """
    alone = np.array([len(set(measured.table[stack == name].tolist())) == 1 for name in stack])
    tables = tuple(sorted(set(measured.table[alone].tolist())))
    held = leave_out(problem, full, measured.table, scaled, only=tables)
    rows = alone & (problem.weight > 0)
    bare = dataclasses.replace(
        scaled, unseen={k: v for k, v in scaled.unseen.items() if ":" not in k}
    )
    wide = _cover(problem, held.mean, measured.table, rows, bare, "gpu_stack")
    return _with_unseen(scaled, "gpu_stack", wide)


def _scatter(
    problem: Problem, measured: Measured, mean: np.ndarray, groups: np.ndarray, scaled: Calibration
) -> Calibration:
    """Add what rows of `groups` held out scatter more than all levels say, class by class.

    A class needs a handful of rows to say so (`OWN_ROWS`), and never becomes narrower.
    """
    kind = np.array(noise_classes(measured.columns, StepModel(measured.columns).stack))
    for name in sorted(set(kind.tolist())):
        mine = (problem.weight > 0) & (kind == name)
        wide = _cover(problem, mean, groups, mine, scaled, f"noise:{name}")
        wide *= float(np.sqrt(mine.sum() / (mine.sum() + OWN_ROWS)))
        before = scaled.unseen.get(f"noise:{name}", 0.0)
        scaled = _with_unseen(scaled, f"noise:{name}", max(wide, before))
    # A class that nothing was measured of scatters as the others do.
    others = [v for k, v in scaled.unseen.items() if k.startswith("noise:")]
    return _with_unseen(scaled, "noise", float(np.sqrt(np.mean(np.square(others)))))


def _unseen_rows(problem: Problem, groups: np.ndarray, level: str) -> np.ndarray:
    """Rows whose effect of `level` occurs within their own group only."""
    found: dict[str, set[str]] = {}
    names = [next(n for n in e if n.startswith(f"{level}:")) for e in problem.effects]
    for name, group in zip(names, groups.tolist(), strict=True):
        found.setdefault(name, set()).add(group)
    return np.array([len(found[name]) == 1 for name in names])


def _with_unseen(calibration: Calibration, level: str, spread: float) -> Calibration:
    unseen = {**calibration.unseen, level: round(spread, 4)}
    return dataclasses.replace(calibration, unseen=unseen)


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


def _cover(
    problem: Problem, mean: np.ndarray, groups: np.ndarray, rows: np.ndarray,
    calibration: Calibration, level: str,
) -> float:  # fmt: skip
    """Return `level`'s least unseen spread that covers the target share of `rows`."""
    if not rows.any():
        return 0.0
    error, weight = np.abs(mean - problem.target)[rows], balanced(groups, rows)[rows]
    # Variance is linear in the unseen variance: two evaluations give every candidate.
    variance = []
    for extra in (0.0, 1.0):
        trial = _with_unseen(calibration, level, extra)
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
    return high


def balanced(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weights under which a group counts with the square root of its `rows`: a large one
    must not decide alone how wide the intervals of small ones are, nor one row."""
    weight = np.zeros(len(groups))
    for group in set(groups[rows].tolist()):
        mine = rows & (groups == group)
        weight[mine] = 1.0 / np.sqrt(mine.sum())
    return weight


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
