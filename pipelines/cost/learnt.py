"""What a machine's own receipts teach about its steps.

The log of a step's measured over predicted seconds is a sum of effects, from what all steps of a
node or GPU have in common down to what is known of this kind of step at this precision with this
model at about this size; `pipelines.cost.calibration` fits them, shrunk to 0. How far each may lie
from 0 is in `calibration.USER_SPREADS`.

A step on a GPU is known by the GPU, so that receipts of one instance type serve all that have it;
other steps are known by their machine. Size is the predicted time: its effect comes of two nodes
four times apart, with loadings whose squares add up to 1, so that work learns the more of a receipt
the nearer it is to it in size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import Hardware
from components.lib.host import hardware_here
from pipelines.cost.calibration import Z80, Calibration
from pipelines.cost.chain import StepCost
from pipelines.cost.columns import Floats
from pipelines.cost.estimate import Estimate
from pipelines.cost.way import HERE

# Powers of two between the nodes of the effect of size.
OCTAVES = 2.0


def device_of(node: str, hardware: Hardware | None = None) -> str:
    """Return what a node is called in a calibration: a catalogue name as it is, this machine by
    its CPU and core count, since ``here`` is another machine elsewhere."""
    if node != HERE:
        return node
    found = hardware or hardware_here()
    return f"{found.cpu_model} x {found.cpu_count}"


def model_name(spec: Mapping[str, Any]) -> str:
    """Return what a model is called in a calibration: the last part of its name or folder."""
    model = spec["model"]
    return Path(str(model.get("id") or model.get("config"))).name


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the time of a step is known by. `gpu` is the catalogue's name of the GPU that it
    computes on, if it does."""

    kind: str
    device: str
    precision: str
    model: str
    gpu: str | None = None

    @property
    def fixed(self) -> tuple[str, ...]:
        """Effects that do not depend on size, the nearest last."""
        place = f"{self.gpu or self.device}/{self.kind}"
        if self.gpu is None:
            return (
                f"device:{self.device}", f"operation:{place}",
                f"precision:{place}/{self.precision}",
            )  # fmt: skip
        return (
            f"gpu_node:{self.device}", f"gpu:{self.gpu}", f"gpu_operation:{place}",
            f"gpu_precision:{place}/{self.precision}",
        )  # fmt: skip

    def at_size(self, node: float) -> str:
        """Return the effect of size at a node (of log4 seconds)."""
        on = "size" if self.gpu is None else "gpu_size"
        return (
            f"{on}:{self.gpu or self.device}/{self.kind}/{self.precision}/{self.model}/{node:.0f}"
        )

    def effects(self, seconds: float) -> dict[str, float]:
        """Return the effects, with loadings, of this work where `seconds` are predicted."""
        place = math.log2(seconds) / OCTAVES
        node, turn = math.floor(place), (place - math.floor(place)) * math.pi / 2
        sizes = {self.at_size(node): math.cos(turn), self.at_size(node + 1): math.sin(turn)}
        return {**dict.fromkeys(self.fixed, 1.0), **sizes}


def knows(calibration: Calibration, work: Work) -> bool:
    """Whether anything was measured that says something of this work."""
    return any(name in calibration.effects for name in work.fixed)


def learnt_ratio(calibration: Calibration, work: Work, seconds: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the log of measured over predicted, for the same work
    at several sizes.

    Args:
        seconds: predicted, positive.
    """
    mean, variance = calibration.apply(dict.fromkeys(work.fixed, 1.0))
    place = np.log2(seconds) / OCTAVES
    node = np.floor(place)
    turn = (place - node) * np.pi / 2
    means, variances = np.full(seconds.shape, mean), np.full(seconds.shape, variance**2)
    for value in np.unique(node).tolist():
        mine = node == value
        for step, loading in ((0.0, np.cos(turn[mine])), (1.0, np.sin(turn[mine]))):
            found = calibration.of(work.at_size(value + step))
            means[mine] += loading * found[0]
            variances[mine] += loading**2 * found[1]
    return means, np.sqrt(variances)


def narrowed(calibration: Calibration, work: Work, deviation: Floats, spread: Floats) -> Floats:
    """Return high over value: as receipts say where this kind of work at this precision was
    measured, else as it was.

    Args:
        deviation: from `learnt_ratio`.
        spread: high over value without receipts.
    """
    if work.fixed[-1] not in calibration.effects:
        return spread
    return np.exp(Z80 * deviation)


def adjusted(cost: StepCost, calibration: Calibration | None, work: Work) -> tuple[StepCost, float]:
    """Return `cost` with learnt seconds, and the factor. Steps that nothing was measured of stay
    as they are, interval included."""
    seconds = cost.seconds
    if calibration is None or seconds.value <= 0 or not knows(calibration, work):
        return cost, 1.0
    mean, deviation = learnt_ratio(calibration, work, np.array([seconds.value]))
    factor = math.exp(float(mean[0]))
    own = np.array([seconds.high / seconds.value])
    spread = float(narrowed(calibration, work, deviation, own)[0])
    return replace(cost, seconds=Estimate.of(seconds.value * factor, spread)), factor
