"""What a machine's own receipts teach about its steps.

A step's measured over predicted time is explained by the machine, by the kind of step on it, and
by the precision it computed in; `pipelines.cost.calibration` fits the three, shrunk to 1.
"""

from __future__ import annotations

import math
from dataclasses import replace

from components.contract import Hardware
from components.lib.host import hardware_here
from pipelines.cost.calibration import Z80, Calibration
from pipelines.cost.chain import StepCost
from pipelines.cost.estimate import Estimate
from pipelines.cost.way import HERE


def device_of(node: str, hardware: Hardware | None = None) -> str:
    """Return what a node is called in a calibration: a catalogue name as it is, this machine by
    its CPU and core count, since ``here`` is another machine elsewhere."""
    if node != HERE:
        return node
    found = hardware or hardware_here()
    return f"{found.cpu_model} x {found.cpu_count}"


def step_effects(kind: str, device: str, precision: str) -> dict[str, float]:
    """Return the effects of a step's time, for `Calibration.apply`."""
    return {
        f"device:{device}": 1.0,
        f"operation:{device}/{kind}": 1.0,
        f"precision:{device}/{kind}/{precision}": 1.0,
    }


def adjusted(
    cost: StepCost, calibration: Calibration | None, effects: dict[str, float]
) -> tuple[StepCost, float]:
    """Return `cost` with learnt seconds, and the factor. Steps that nothing was measured of stay
    as they are, interval included."""
    if calibration is None or not any(name in calibration.effects for name in effects):
        return cost, 1.0
    mean, deviation = calibration.apply(effects)
    factor, spread = math.exp(mean), math.exp(Z80 * deviation)
    return replace(cost, seconds=Estimate.of(cost.seconds.value * factor, spread)), factor
