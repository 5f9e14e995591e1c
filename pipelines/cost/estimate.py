"""Small values that every part of the planner returns: figures with their interval, requests,
ways to run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted figure with its 80 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, spread: float) -> Estimate:
        """Return `value` with the interval ``value / spread … value * spread`` (`spread` >= 1)."""
        return cls(value=value, low=value / spread, high=value * spread)

    @classmethod
    def sum(cls, estimates: list[Estimate]) -> Estimate:
        """Add estimates whose errors are fully dependent (intervals add up: the safe side)."""
        return cls(
            value=sum(e.value for e in estimates),
            low=sum(e.low for e in estimates),
            high=sum(e.high for e in estimates),
        )

    def scaled(self, factor: float) -> Estimate:
        return Estimate(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a step's pod asks for; never more than the planned node's kubelet-allocatable."""

    cpu_millicores: int
    memory_bytes: int
    ephemeral_bytes: int
    shm_bytes: int = 0
    gpu_count: int = 0
    gpu_resource: str = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A way to run that was considered; `reason` says why it was not taken."""

    label: str
    node: str
    nodes: int
    gpus: int
    capacity: str
    precision: str
    seconds: float
    usd: float | None
    risk: float  # probability that the deadline is missed
    on_front: bool
    chosen: bool
    reason: str
