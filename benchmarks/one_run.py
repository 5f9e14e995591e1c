"""Error on a GPU that was never measured, before and after one or three runs on it were.

Rows of a GPU held out play the runs: `fit_residuals` learns from them alone, as `suanli calibrate`
does from receipts, and the GPU's other rows are predicted with what it learnt.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measured import Measured
from pipelines.cost.calibration import Observation, fit_residuals
from pipelines.cost.learnt import step_effects

# A GPU of fewer rows tells little; of one with many, some runs tell as much as all.
LEAST_ROWS, MOST_RUNS, SEED = 5, 40, 0

NEAR = ("same kind and model", "same kind, another model", "other kinds")

Rows = list[tuple[float, float]]


def after_runs(
    measured: Measured, kinds: list[str], error: np.ndarray, runs: int = 1
) -> dict[str, object]:
    """Return errors before and after: of rows of the runs' own kind and model, of their kind with
    another model, and of other kinds on the same GPU.

    Args:
        kinds: stack and task of each row.
        error: log of predicted over measured with the row's GPU held out.
        runs: rows of one kind and model that are learnt from.
    """
    precision = measured.columns.names["precision"]
    found: dict[str, dict[str, Rows]] = {name: {} for name in NEAR}
    generator = np.random.default_rng(SEED)
    for gpu in sorted(set(measured.gpu.tolist())):
        rows = np.flatnonzero(measured.gpu == gpu)
        if len(rows) < LEAST_ROWS:
            continue
        kind = np.array([f"{kinds[i]}/{precision[i]}" for i in rows])
        model = np.char.add(kind, measured.model[rows].astype(str))
        effects = [step_effects(kinds[i], gpu, str(precision[i])) for i in rows]
        for first in generator.permutation(len(rows))[:MOST_RUNS]:
            alike = np.flatnonzero(model == model[first])
            alike = generator.permutation(alike[alike != first])[: runs - 1]
            chosen = [int(first), *alike.tolist()]
            if len(chosen) < runs:
                continue
            learnt = fit_residuals([
                Observation(effects=effects[i], log_ratio=-float(error[rows[i]])) for i in chosen
            ])  # fmt: skip
            moved = {k: learnt.apply(e)[0] for k, e in zip(kind, effects, strict=True)}
            for place, row in enumerate(rows):
                if place not in chosen:
                    near = int(kind[place] == kind[first]) + int(model[place] == model[first])
                    pair = (float(error[row]), float(error[row] + moved[kind[place]]))
                    found[NEAR[2 - near]].setdefault(gpu, []).append(pair)
    return {name: _summary(pairs) for name, pairs in found.items() if pairs}


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
