"""Fit of the cost model: coefficients first, then hierarchical residuals.

Coefficients minimise a robust, table-weighted squared log error plus their priors by damped
Gauss-Newton on a numeric Jacobian. Held-out folds start from the full solution, drop their rows
and iterate again, so a fold's coefficients and residuals never see its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.measured import Measured
from pipelines.cost.calibration import Z80, Calibration, posterior
from pipelines.cost.coefficients import priors
from pipelines.cost.columns import Columns
from pipelines.cost.memory import PRIORS as MEMORY_PRIORS
from pipelines.cost.memory import memory_doubt, memory_parts
from pipelines.cost.residuals import (
    TIME_LEVELS,
    apply_names,
    memory_spread,
    time_effect_names,
)
from pipelines.cost.time import StepModel

Vector = np.ndarray
# Log error beyond which a row counts linearly.
ROBUST = {"time": 0.12, "memory": 0.08}
# A fold that drops more than this share of the weight gets a fresh Jacobian.
LARGE_FOLD, HUGE_FOLD = 0.08, 0.2


@dataclass(slots=True, kw_only=True)
class Problem:
    """One quantity to fit: log model as a function of log coefficients, and log targets."""

    quantity: str
    names: list[str]
    start: Vector
    spread: Vector
    log_model: Callable[[Vector], Vector]
    target: Vector
    weight: Vector
    effects: list[list[str]]
    levels: Mapping[str, float]
    # Spread that a row has by its make-up, for memory (`pipelines.cost.memory.memory_doubt`).
    doubt: Vector | None = None
    jacobian: Vector | None = field(default=None)

    def cost(self, error: Vector, x: Vector, weight: Vector) -> float:
        z = error / ROBUST[self.quantity]
        data = np.sum(weight * 2.0 * (np.sqrt(1.0 + z * z) - 1.0))
        return float(data + np.sum(((x - self.start) / self.spread) ** 2))

    def differentiate(self, x: Vector, at: Vector) -> Vector:
        out = np.empty((len(at), len(x)))
        for k in range(len(x)):
            y = x.copy()
            y[k] += 1e-3
            out[:, k] = (self.log_model(y) - at) / 1e-3
        return out


def time_problem(measured: Measured) -> Problem:
    model = StepModel(measured.columns)
    table = priors()
    names = list(table)

    def log_model(x: Vector) -> Vector:
        return np.log(model.seconds(dict(zip(names, np.exp(x), strict=True))))

    return Problem(
        quantity="time", names=names, log_model=log_model,
        start=np.log([table[n][0] for n in names]), spread=np.array([table[n][1] for n in names]),
        target=np.log(measured.value), weight=measured.weight,
        effects=time_effect_names(measured.columns, model.stack), levels=TIME_LEVELS,
    )  # fmt: skip


def memory_problem(measured: Measured) -> Problem:
    """Rows that ran out of memory stay in, with weight 0."""
    columns: Columns = measured.columns
    names = list(MEMORY_PRIORS)

    def log_model(x: Vector) -> Vector:
        parts = memory_parts(columns, dict(zip(names, np.exp(x), strict=True)))
        return np.log(np.sum(list(parts.values()), axis=0))

    counted = memory_parts(columns, {n: MEMORY_PRIORS[n][0] for n in names})
    return Problem(
        quantity="memory", names=names, log_model=log_model,
        start=np.log([MEMORY_PRIORS[n][0] for n in names]),
        spread=np.array([MEMORY_PRIORS[n][1] for n in names]),
        target=np.log(np.where(measured.oom, 1.0, measured.value)),
        weight=np.where(measured.oom, 0.0, measured.weight),
        effects=[[]] * columns.size, levels={}, doubt=memory_doubt(columns, counted),
    )  # fmt: skip


def fit(
    problem: Problem, *, x: Vector | None = None, keep: Vector | None = None, steps: int = 20,
    reuse: bool = False,
) -> Vector:  # fmt: skip
    """Minimise; `reuse` keeps the problem's Jacobian (chord iterations)."""
    weight = problem.weight if keep is None else problem.weight * keep
    x = problem.start.copy() if x is None else x.copy()
    model = problem.log_model(x)
    error = model - problem.target
    cost = problem.cost(error, x, weight)
    for _ in range(steps):
        if reuse and problem.jacobian is not None:
            jacobian = problem.jacobian
        else:
            jacobian = problem.differentiate(x, model)
        scale = ROBUST[problem.quantity]
        row = weight / np.sqrt(1.0 + (error / scale) ** 2) / scale**2
        normal = jacobian.T @ (jacobian * row[:, None]) + np.diag(problem.spread**-2.0)
        normal = normal + 1e-3 * np.diag(np.diag(normal))
        gradient = jacobian.T @ (row * error) + (x - problem.start) / problem.spread**2
        step = -np.linalg.solve(normal, gradient)
        length, before = 1.0, cost
        while length > 0.05:
            trial = x + length * step
            model = problem.log_model(trial)
            cost_trial = problem.cost(model - problem.target, trial, weight)
            if cost_trial < cost:
                x, error, cost = trial, model - problem.target, cost_trial
                break
            length /= 2.0
        if before - cost < max(0.2, 1e-4 * before):
            break
    if keep is None:
        problem.jacobian = problem.differentiate(x, problem.log_model(x))
    return x


def learn_residuals(
    problem: Problem, residual: Vector, keep: Vector, *, rounds: int = 12,
    spreads: Mapping[str, float] | None = None, noise: float = 0.08,
) -> Calibration:  # fmt: skip
    """Fit the effects; without `spreads` estimate each level's by expectation maximisation."""
    used = keep & (problem.weight > 0)
    learnt = [[n for n in e if n.split(":", 1)[0] in problem.levels] for e in problem.effects]
    names = sorted({n for i in np.flatnonzero(used) for n in learnt[i]})
    index = {n: i for i, n in enumerate(names)}
    level = np.array([n.split(":", 1)[0] for n in names])
    matrix = np.zeros((int(used.sum()), len(names)))
    for row, i in enumerate(np.flatnonzero(used)):
        matrix[row, [index[n] for n in learnt[i]]] = 1.0
    target, weight = residual[used], np.minimum(problem.weight[used], 3.0)
    # Outliers are pulled in: a row off by a factor tells little about its class.
    target = np.clip(target, -0.5, 0.5)
    learned = dict(spreads or problem.levels)
    for _ in range(rounds if spreads is None else 1):
        prior = np.array([learned[name] for name in level])
        mean, covariance = posterior(matrix, target, weight / noise**2, prior)
        if spreads is not None:
            break
        variance = np.diag(covariance)
        left = target - matrix @ mean
        fitted = np.einsum("ij,jk,ik->i", matrix, covariance, matrix)
        noise = float(np.sqrt(np.sum(weight * (left**2 + fitted)) / np.sum(weight)))
        for name in learned:
            mine = level == name
            if mine.any():
                learned[name] = float(np.sqrt(np.mean(mean[mine] ** 2 + variance[mine]) + 1e-6))
    variance = np.diag(covariance)
    # What has been seen is not new: such levels have no effect, only a width where they are.
    seen = {n for i in np.flatnonzero(used) for n in problem.effects[i] if n.startswith("new_")}
    return Calibration(
        effects={n: (float(mean[i]), float(variance[i])) for n, i in index.items()}
        | dict.fromkeys(sorted(seen), (0.0, 0.0)),
        spreads={k: round(v, 4) for k, v in learned.items()}, noise=noise,
        evidence={"rows": int(used.sum())},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Log predictions and their log standard deviations."""

    mean: Vector
    spread: Vector


def predict_with(problem: Problem, x: Vector, calibration: Calibration) -> Held:
    everything = np.ones(len(problem.target), dtype=bool)
    mean, spread = _applied(problem, everything, calibration)
    return Held(mean=problem.log_model(x) + mean, spread=spread)


def _applied(problem: Problem, rows: Vector, calibration: Calibration) -> tuple[Vector, Vector]:
    if problem.doubt is not None:
        spread = memory_spread(problem.doubt[rows], calibration)
        return np.zeros(len(spread)), spread
    return apply_names([problem.effects[i] for i in np.flatnonzero(rows)], calibration)


def leave_out(
    problem: Problem, full: Vector, groups: Vector, calibration: Calibration, *,
    only: tuple[str, ...] = (), fresh: bool = True,
) -> Held:  # fmt: skip
    """Predict each group (or those of `only`) from a fit that never saw its rows.

    `fresh` recomputes the Jacobian for large groups; random folds do not need it.
    """
    if problem.jacobian is None:
        problem.jacobian = problem.differentiate(full, problem.log_model(full))
    learns = problem.doubt is None
    precision = _inverse_covariance(problem, calibration) if learns else np.empty((0, 0))
    mean, spread = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    for group in only or sorted(set(groups.tolist())):
        inside = groups == group
        share = problem.weight[inside].sum() / problem.weight.sum()
        keep = (~inside).astype(float)
        if fresh and share > HUGE_FOLD:
            # Far from the full solution the old curvature misleads: start again from the priors.
            x = fit(problem, keep=keep, steps=8)
        elif fresh and share > LARGE_FOLD:
            x = fit(problem, x=full, keep=keep, steps=2)
        else:
            x = fit(problem, x=full, keep=keep, steps=3, reuse=True)
        model = problem.log_model(x)
        spread[inside] = held_spread(problem, inside, calibration)
        if not learns:
            mean[inside] = model[inside]
            continue
        residual = np.clip(problem.target - model, -0.5, 0.5)
        # Block leave-out of a Gaussian model (Rasmussen and Williams 2006, section 5.4.2): the
        # held-out rows' own residuals cancel.
        own = np.linalg.solve(precision[np.ix_(inside, inside)], (precision @ residual)[inside])
        mean[inside] = model[inside] + residual[inside] - own
    return Held(mean=mean, spread=spread)


def _inverse_covariance(problem: Problem, calibration: Calibration) -> Vector:
    """Return the inverse covariance of all residuals under the calibration's spreads."""
    index: dict[str, int] = {}
    for names in problem.effects:
        for name in names:
            index.setdefault(name, len(index))
    matrix = np.zeros((len(problem.effects), len(index)))
    for row, names in enumerate(problem.effects):
        matrix[row, [index[name] for name in names]] = 1.0
    prior = np.array([calibration.spreads.get(name.split(":", 1)[0], 0.0) for name in index])
    # A row without weight (out of memory) says nothing.
    weight = np.minimum(np.maximum(problem.weight, 1e-9), 3.0)
    scaled = matrix * prior
    return np.linalg.inv(scaled @ scaled.T + np.diag(calibration.noise**2 / weight))


def held_spread(problem: Problem, inside: Vector, calibration: Calibration) -> Vector:
    """Standard deviations: an effect that only held-out rows have counts as never seen."""
    outside = {n for i in np.flatnonzero(~inside) for n in problem.effects[i]}
    seen = {n: v for n, v in calibration.effects.items() if n in outside}
    return _applied(problem, inside, replace(calibration, effects=seen))[1]


def coverage(problem: Problem, held: Held, rows: Vector) -> float:
    """Share of `rows` inside their 80 % interval."""
    z = np.abs(held.mean - problem.target)[rows] / held.spread[rows]
    return float(np.mean(z <= Z80))
