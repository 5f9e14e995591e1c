"""Error on a GPU that was never measured, before and after one or three runs on it were.

Rows of a GPU held out play the runs: `fit_residuals` learns from them alone, as `suanli calibrate`
does from receipts, and the GPU's other rows are predicted with what it learnt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.measured import Measured
from pipelines.cost.calibration import Observation, fit_residuals
from pipelines.cost.learnt import Work, learnt_ratio

# A GPU of fewer rows tells little; of one with many, some runs tell as much as all.
LEAST_ROWS, MOST_RUNS, SEED = 5, 40, 0

NEAR = (
    "same kind, model and layout, near in size", "same kind and model, farther off",
    "same kind, another model", "other kinds",
)  # fmt: skip
# What makes a layout; a row within this many powers of two in sequence and batch is near.
LAYOUT, CLOSE = ("n_gpus", "tp", "pp", "cp"), 1.0

Rows = list[tuple[float, float]]


def after_runs(
    measured: Measured, kinds: list[str], predicted: np.ndarray, error: np.ndarray, runs: int = 1
) -> dict[str, object]:
    """Return errors before and after: of rows of the runs' own kind, model and size, of other
    sizes, of other models, and of other kinds on the same GPU.

    Args:
        kinds: stack and task of each row.
        predicted: seconds of each row, its GPU held out.
        error: log of predicted over measured.
        runs: rows of one kind and model that are learnt from.
    """
    precision = measured.columns.names["precision"]
    works = [
        Work(kind=kind, device=gpu, precision=str(p), model=model, gpu=gpu)
        for kind, gpu, p, model in zip(
            kinds, measured.gpu.tolist(), precision, measured.model.tolist(), strict=True
        )
    ]
    apart = _distances(measured)
    found: dict[str, dict[str, Rows]] = {name: {} for name in NEAR}
    generator = np.random.default_rng(SEED)
    for gpu in sorted(set(measured.gpu.tolist())):
        rows = np.flatnonzero(measured.gpu == gpu)
        if len(rows) < LEAST_ROWS:
            continue
        kind = np.array([f"{kinds[i]}/{precision[i]}" for i in rows])
        model = np.char.add(kind, measured.model[rows].astype(str))
        for first in generator.permutation(len(rows))[:MOST_RUNS]:
            alike = np.flatnonzero(model == model[first])
            alike = generator.permutation(alike[alike != first])[: runs - 1]
            chosen = [int(first), *alike.tolist()]
            if len(chosen) < runs:
                continue
            learnt = fit_residuals(
                [
                    Observation(
                        effects=works[rows[i]].effects(float(predicted[rows[i]])),
                        log_ratio=-float(error[rows[i]]),
                    )
                    for i in chosen
                ]
            )
            close = apart(rows, rows[chosen]).min(1) <= CLOSE
            for place, row in enumerate(rows):
                if place not in chosen:
                    near = int(kind[place] == kind[first]) + int(model[place] == model[first])
                    near += int(near == 2 and close[place])
                    moved, _ = learnt_ratio(learnt, works[row], predicted[row : row + 1])
                    after = float(error[row] + moved[0])
                    found[NEAR[3 - near]].setdefault(gpu, []).append((float(error[row]), after))
    return {name: _summary(pairs) for name, pairs in found.items() if pairs}


def _distances(measured: Measured) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from two sets of rows to how far they are apart: in powers of two of
    sequence and batch, infinitely where the layout is another."""
    c = measured.columns
    size = np.log2(np.stack([c["seq_len"], c["micro_batch"]], axis=1))
    layout = np.stack([c[name] for name in LAYOUT], axis=1)

    def apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
        distance = np.abs(size[some][:, None] - size[others][None]).sum(2)
        same = (layout[some][:, None] == layout[others][None]).all(2)
        return np.where(same, distance, np.inf)

    return apart


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
