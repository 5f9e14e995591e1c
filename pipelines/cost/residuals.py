"""Shipped residuals: which effects a workload has, and the fitted ones.

Effects name physical classes only (GPU, generation, software stack, precision, size classes);
never a table, a file or a row.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pipelines.cost.calibration import Calibration
from pipelines.cost.columns import Columns, Floats
from pipelines.cost.kernels import data


@cache
def shipped(quantity: str) -> Calibration:
    """Return the shipped calibration of ``time`` or ``memory``."""
    return Calibration.from_json(data("residuals.json")[quantity])


def time_effects(
    c: Columns, stack: list[str], parts: dict[str, Floats], calibration: Calibration
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the log residual of each row's time."""
    return _apply([{} for _ in range(c.size)], calibration)


def memory_effects(c: Columns, calibration: Calibration) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the log residual of each row's memory."""
    return _apply([{} for _ in range(c.size)], calibration)


def _apply(effects: list[dict[str, float]], calibration: Calibration) -> tuple[Floats, Floats]:
    pairs = [calibration.apply(row) for row in effects]
    return np.array([m for m, _ in pairs]), np.array([s for _, s in pairs])
