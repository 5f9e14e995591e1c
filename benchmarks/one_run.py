"""Error on a GPU that was never measured, before and after one run on it was.

Each row of a GPU held out plays the run: `fit_residuals` learns from it alone, as `suanli
calibrate` does from a receipt, and the GPU's other rows are predicted with what it learnt.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measured import Measured
from pipelines.cost.calibration import Observation, fit_residuals
from pipelines.cost.learnt import step_effects

# A GPU of fewer rows tells little; of one with many, some runs tell as much as all.
LEAST_ROWS, MOST_RUNS, SEED = 5, 40, 0

Rows = list[tuple[float, float]]


def after_one_run(measured: Measured, kinds: list[str], error: np.ndarray) -> dict[str, object]:
    """Return errors before and after, over rows of the run's own kind and over all others.

    Args:
        kinds: stack and task of each row.
        error: log of predicted over measured with the row's GPU held out.
    """
    precision = measured.columns.names["precision"]
    same: dict[str, Rows] = {}
    other: dict[str, Rows] = {}
    generator = np.random.default_rng(SEED)
    for gpu in sorted(set(measured.gpu.tolist())):
        rows = np.flatnonzero(measured.gpu == gpu)
        if len(rows) < LEAST_ROWS:
            continue
        keys = [f"{kinds[i]}/{precision[i]}" for i in rows]
        effects = [step_effects(kinds[i], gpu, str(precision[i])) for i in rows]
        runs = generator.permutation(len(rows))[:MOST_RUNS]
        for run in runs:
            learnt = fit_residuals(
                [Observation(effects=effects[run], log_ratio=-float(error[rows[run]]))]
            )
            moved = {k: learnt.apply(e)[0] for k, e in zip(keys, effects, strict=True)}
            for place, row in enumerate(rows):
                if place != run:
                    found = same if keys[place] == keys[run] else other
                    pair = (float(error[row]), float(error[row] + moved[keys[place]]))
                    found.setdefault(gpu, []).append(pair)
    kept = {"same kind": same, "other kinds": other}
    return {name: _summary(rows) for name, rows in kept.items() if rows}


def _summary(found: dict[str, Rows]) -> dict[str, object]:
    by_gpu = {gpu: _errors(rows) for gpu, rows in found.items()}
    means = {
        key: round(float(np.mean([v[key] for v in by_gpu.values()])), 4)
        for key in ("before_median", "before_mean", "after_median", "after_mean")
    }
    return {"gpus": len(by_gpu), "mean over GPUs": means, "by GPU": by_gpu}


def _errors(rows: Rows) -> dict[str, float]:
    relative = np.abs(np.expm1(np.array(rows)))
    return {
        f"{name}_{figure}": round(float(function(relative[:, i])), 4)
        for i, name in enumerate(("before", "after"))
        for figure, function in (("median", np.median), ("mean", np.mean))
    }
