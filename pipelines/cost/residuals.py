"""Shipped residuals: which effects a workload has, and the fitted ones.

Effects name physical classes only (GPU, software stack, precision, task, size classes), never a
table, a file or a row.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pipelines.cost.calibration import Calibration
from pipelines.cost.columns import Bools, Columns, Floats
from pipelines.cost.kernels import data

# Starting spreads of the levels (log standard deviation); the fit estimates them.
TIME_LEVELS = {
    "gpu": 0.1,
    "gpu_precision": 0.08,
    "gpu_stack": 0.08,
    "gpu_stack_precision": 0.08,
    "work": 0.06,
    "width": 0.06,
    "shape": 0.06,
    "load": 0.06,
    "parallel": 0.06,
    "parallel_width": 0.06,
}
# Boards that run at their power limit in any large product (T4, L4, P4).
CAPPED_WATTS = 100.0


@cache
def shipped(quantity: str) -> Calibration:
    """Return the shipped calibration of ``time`` or ``memory``."""
    return Calibration.from_json(data("residuals.json")[quantity])


def _bucket(values: Floats) -> list[str]:
    """Name the power of two nearest to each value."""
    return [str(int(v)) for v in np.round(np.log2(np.maximum(values, 1.0)))]


def time_effect_names(c: Columns, stack: list[str]) -> list[list[str]]:
    """Return the effects of each row's time (all with loading 1)."""
    gpu, precision, task = c.names["device"], c.names["precision"], c.names["task"]
    width = [f"{h:.0f}x{n:.0f}" for h, n in zip(c["hidden_size"], c["num_layers"], strict=True)]
    seq, batch = _bucket(c["seq_len"]), _bucket(c["micro_batch"])
    tokens, noise = _bucket(_tokens(c)), noise_classes(c, stack)
    out = []
    for i, s in enumerate(stack):
        spread = f"{c['tp'][i]:.0f}|{c['pp'][i] > 1}|{c['data_parallel'][i] > 1}"
        out.append(
            [
                f"gpu:{gpu[i]}",
                f"gpu_precision:{gpu[i]}|{precision[i]}",
                f"gpu_stack:{s}|{gpu[i]}",
                f"gpu_stack_precision:{gpu[i]}|{s}|{precision[i]}",
                f"work:{s}|{task[i]}|{precision[i]}|{c.names['recipe'][i]}",
                f"width:{s}|{width[i]}",
                f"shape:{s}|{seq[i]}|{batch[i]}",
                f"load:{gpu[i]}|{s}|{tokens[i]}",
                f"parallel:{s}|{spread}",
                f"parallel_width:{s}|{spread}|{c['hidden_size'][i]:.0f}|{batch[i]}",
                # Never learnt: how much more such rows scatter, and what is added where no row
                # of the class had this GPU, this size or this stack (`unseen`).
                f"noise:{noise[i]}",
                f"new_gpu:{noise[i]}|{gpu[i]}",
                f"new_model:{noise[i]}|{width[i]}",
                f"new_stack:{s}",
            ]
        )
    return out


def noise_classes(c: Columns, stack: list[str]) -> list[str]:
    """Return the class whose scatter a row has beyond its effects: stack and task, and whether a
    server stands before the model, several nodes work together, or the board's power is capped."""
    marks = zip(*(mask.tolist() for mask in _marks(c)), strict=True)
    names = ("serving", "nodes", "capped")
    return [
        ".".join([s, str(task), *(n for n, on in zip(names, found, strict=True) if on)])
        for s, task, found in zip(stack, c.names["task"], marks, strict=True)
    ]


def _marks(c: Columns) -> tuple[Bools, ...]:
    capped: Bools = (c["watts"] > 0) & (c["watts"] <= CAPPED_WATTS)
    return c.flags["serving"], c["nodes"] > 1, capped


def time_effects(c: Columns, stack: list[str], calibration: Calibration) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the log residual of each row's time.

    Rows that share all their effects are named once.
    """
    columns = (
        *(c.names[name].tolist() for name in ("device", "precision", "task", "recipe")),
        *(c[name].tolist() for name in ("hidden_size", "num_layers", "tp")),
        *((c[name] > 1).tolist() for name in ("pp", "data_parallel")),
        *(mask.tolist() for mask in _marks(c)),
        *(_bucket(c[name]) for name in ("seq_len", "micro_batch")),
        _bucket(_tokens(c)),
        stack,
    )
    keys = list(zip(*columns, strict=True))
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    rows = list(first.values())
    names = time_effect_names(c.take(np.array(rows, dtype=np.intp)), [stack[i] for i in rows])
    mean, spread = apply_names(names, calibration)
    place = {key: number for number, key in enumerate(first)}
    where = np.array([place[key] for key in keys], dtype=np.intp)
    return mean[where], spread[where]


def _tokens(c: Columns) -> Floats:
    """Tokens that one GPU works on at once."""
    result: Floats = c["micro_batch"] * c["seq_len"] / c["cp"]
    return result


def memory_spread(doubt: Floats, calibration: Calibration) -> Floats:
    """Return the standard deviation of the log residual of each row's memory.

    Memory has no learnt effects: published rows come from few tools, and effects learnt from them
    made GPUs and models held out worse. `doubt` is `memory.memory_doubt`, scaled by what held-out
    rows showed.
    """
    scale = calibration.spreads.get("doubt", 1.0)
    return np.sqrt(calibration.noise**2 + (scale * doubt) ** 2)


def apply_names(rows: list[list[str]], calibration: Calibration) -> tuple[Floats, Floats]:
    """Sum the effects of each row: mean and standard deviation of its log residual."""
    known: dict[str, tuple[float, float]] = {}
    mean, variance = np.zeros(len(rows)), np.full(len(rows), calibration.noise**2)
    for i, names in enumerate(rows):
        for name in names:
            effect = known.get(name)
            if effect is None:
                effect = known[name] = calibration.of(name)
            mean[i] += effect[0]
            variance[i] += effect[1]
    return mean, np.sqrt(variance)
