"""How wide the intervals of the time model are: set by rows held out, group by group.

A row's variance is that of the residual model plus, level by level, what is new about it. Each
level's figure is the least that covers the target share of rows held out the same way; a class of
rows has a figure of its own as far as groups (GPUs, models, tables) speak for it, else its
stack's, else that of all. A group counts with the square root of its rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from benchmarks.fitting import Z80, Problem, held_spread, leave_out
from benchmarks.measured import Measured
from pipelines.cost.calibration import Calibration
from pipelines.cost.residuals import noise_classes
from pipelines.cost.time import StepModel

# Share of the rows held out that each level is to hold. Figures from few groups are themselves
# uncertain: judged on groups that they never saw, they hold some points less.
SHARE = {"noise": 0.82, "new_model": 0.9, "new_gpu": 0.85, "new_stack": 0.85}
FOLDS, SEED = 5, 0
# Rows (noise) or groups (new) that say half of a class's figure.
LEAN = {"noise": 10.0, "new_model": 2.0, "new_gpu": 2.0, "new_stack": 2.0}
MODES = ("random", "model", "gpu", "table")
Mask = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Rows predicted without their group: log errors, and variance before any figure."""

    groups: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    variance: np.ndarray
    new: dict[str, Mask]


def held_out(
    problem: Problem, measured: Measured, full: np.ndarray, fitted: Calibration
) -> dict[str, HeldOut]:
    """Hold out rows at random, models, GPUs and tables."""
    rows = len(measured.rows)
    folds = np.random.default_rng(SEED).integers(0, FOLDS, rows).astype(str)
    columns = {
        "random": folds,
        "model": measured.model,
        "gpu": measured.gpu,
        "table": measured.table,
    }
    bare = dataclasses.replace(fitted, unseen={})
    out = {}
    for mode, groups in columns.items():
        held = leave_out(problem, full, groups, bare, fresh=mode != "random")
        variance = np.empty(rows)
        for group in set(groups.tolist()):
            inside = groups == group
            variance[inside] = held_spread(problem, inside, bare) ** 2
        out[mode] = HeldOut(
            groups=groups,
            mean=held.mean,
            error=np.abs(held.mean - problem.target),
            variance=variance,
            new={level: _only_within(problem, groups, level) for level in LEAN},
        )
    return out


def _only_within(problem: Problem, groups: np.ndarray, level: str) -> Mask:
    """Rows whose effect of `level` occurs within their own group only."""
    names = [next(n for n in e if n.startswith(f"{level}:")) for e in problem.effects]
    found: dict[str, set[str]] = {}
    for name, group in zip(names, groups.tolist(), strict=True):
        found.setdefault(name, set()).add(group)
    return np.array([len(found[name]) == 1 for name in names])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Scale of all variances of the residual model, and standard deviations by level or class."""

    scale: float
    extra: dict[str, float]

    def of(self, level: str, kinds: list[str]) -> np.ndarray:
        """Return the standard deviation that `level` adds to each row."""
        lone = Calibration(effects={}, spreads={}, noise=0.0, unseen=self.extra)
        table = {kind: lone.of(f"{level}:{kind}|")[1] ** 0.5 for kind in set(kinds)}
        return np.array([table[kind] for kind in kinds])

    def spread(self, held: HeldOut, kinds: list[str]) -> np.ndarray:
        """Return the standard deviation of each row held out."""
        variance = self.scale**2 * held.variance + self.of("noise", kinds) ** 2
        for level in ("new_model", "new_gpu", "new_stack"):
            variance = variance + np.where(held.new[level], self.of(level, kinds) ** 2, 0.0)
        return np.sqrt(variance)


def kinds_of(measured: Measured) -> list[str]:
    return noise_classes(measured.columns, StepModel(measured.columns).stack)


def figures(held: dict[str, HeldOut], kinds: list[str], use: Mask, known: Mask) -> Figures:
    """Set every figure from the rows of `use` alone."""
    random = held["random"]
    z = random.error[use] / np.sqrt(random.variance[use])
    # Half of the rows need no more than this; classes that scatter more say so.
    found = Figures(scale=float(np.quantile(z, 0.5) / 0.6745), extra={})
    # Models before GPUs, and both before stacks, which are new in models and GPUs as well.
    steps = (
        ("noise", ("random",)),
        ("new_model", ("model",)),
        ("new_gpu", ("gpu",)),
        ("new_stack", ("table", "gpu")),
    )
    for level, modes in steps:
        parts = []
        for mode in modes:
            answer = held[mode]
            rows = use & known
            if level != "noise":
                rows = rows & answer.new[level]
            if level in ("new_model", "new_gpu"):
                rows = rows & ~answer.new["new_stack"]
            lacking = (answer.error / Z80) ** 2 - found.spread(answer, kinds) ** 2
            parts.append((rows, np.maximum(lacking, 0.0), answer.groups))
        found = dataclasses.replace(found, extra=found.extra | _by_class(level, parts, kinds))
    return found


def _by_class(
    level: str, parts: list[tuple[Mask, np.ndarray, np.ndarray]], kinds: list[str]
) -> dict[str, float]:
    """Return the level's figure for all rows, for each stack and for each class."""
    share = SHARE[level]
    rows = [np.flatnonzero(mask) for mask, _, _ in parts]
    kind = np.array(kinds)[np.concatenate(rows)]
    lacking = np.concatenate([need[i] for i, (_, need, _) in zip(rows, parts, strict=True)])
    group = np.concatenate([g[i].astype(str) for i, (_, _, g) in zip(rows, parts, strict=True)])
    if not len(kind):
        return {level: 0.0}
    stack = np.array([".".join(k.split(".")[:2]) for k in kind])
    if level == "new_stack":
        # A table that leaves out three stacks speaks thrice: of each once.
        group = np.char.add(group, stack)
    every = _quantile(lacking, group, share)
    out = {level: every}
    # A stack that was measured is not new: its own figure would never be asked for.
    for names in (stack, kind) if level != "new_stack" else ():
        for name in sorted(set(names.tolist())):
            mine = names == name
            whole = ".".join(name.split(".")[:2])
            parent = every if names is stack else out[f"{level}:{whole}"]
            count = float(mine.sum() if level == "noise" else len(set(group[mine].tolist())))
            own = _quantile(lacking[mine], group[mine], share)
            out[f"{level}:{name}"] = (count * own + LEAN[level] * parent) / (count + LEAN[level])
    return {name: round(float(np.sqrt(value)), 4) for name, value in out.items()}


def _quantile(values: np.ndarray, groups: np.ndarray, share: float) -> float:
    """Return the quantile of `values` in which a group of n rows weighs the square root of n."""
    _, inverse, count = np.unique(groups, return_inverse=True, return_counts=True)
    weight = 1.0 / np.sqrt(count[inverse])
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(np.searchsorted(reached, share), len(values) - 1)])


def unknowing(held: dict[str, HeldOut], kinds: list[str], mode: str, known: Mask) -> np.ndarray:
    """Return the spread of each row of `mode`, from figures that never saw its group."""
    answer = held[mode]
    spread = np.empty(len(kinds))
    for group in sorted(set(answer.groups.tolist())):
        mine = answer.groups == group
        spread[mine] = figures(held, kinds, ~mine, known).spread(answer, kinds)[mine]
    return spread


def widen(
    problem: Problem, measured: Measured, full: np.ndarray, fitted: Calibration
) -> Calibration:
    """Return `fitted` with its variances scaled and every figure set."""
    known = problem.weight > 0
    held = held_out(problem, measured, full, fitted)
    found = figures(held, kinds_of(measured), np.ones(len(known), dtype=bool), known)
    scale = found.scale
    return dataclasses.replace(
        fitted,
        noise=fitted.noise * scale,
        effects={k: (m, v * scale**2) for k, (m, v) in fitted.effects.items()},
        spreads={k: round(v * scale, 4) for k, v in fitted.spreads.items()},
        unseen=found.extra,
        evidence={
            **fitted.evidence,
            "source": "measured/workloads.csv",
            "interval_scale": round(scale, 3),
        },
    )
