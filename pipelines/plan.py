"""The plan: every decision of one run, frozen, hashed and JSON round-trip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from components.contract import SpecError, content_hash

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted figure with its 80 % interval."""

    value: float
    low: float
    high: float

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
class StepPlan:
    """One task of the DAG.

    `step` is the task's name (``export-int8``), `kind` its folder (``export``), `arguments` what
    the step's `run` receives. `node` is a catalogue name or ``here``.
    """

    step: str
    kind: str
    node: str
    capacity: str  # on-demand | spot | here
    nodes: int
    processes_per_node: int
    resources: Resources
    timeout_s: int
    seconds: Estimate
    peak_memory_bytes: Estimate
    peak_gpu_memory_bytes: Estimate | None
    usd: Estimate | None
    node_selector: dict[str, str]
    tolerations: tuple[dict[str, str], ...]
    arguments: dict[str, Any]
    why: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, decided. `to_json` and `plan_from_json` round-trip; `hash` names it."""

    schema_version: int = PLAN_VERSION
    name: str
    task: str
    spec: dict[str, Any]
    profile: dict[
        str, Any
    ]  # {rows, tokens, words, length_histogram, bytes, source, exact} by split
    catalog: dict[str, Any]  # {hash, date, stale_days}
    calibration: dict[str, Any]  # {hash, observations}
    steps: tuple[StepPlan, ...]
    variants: tuple[str, ...]
    storage: tuple[dict[str, Any], ...]  # {artifact, tier, bytes, usd_per_month, reason}
    seconds: Estimate
    usd: Estimate | None
    first_order: dict[str, Any]  # the seed formula, in right units: {terms, seconds, usd, text}
    alternatives: tuple[Alternative, ...]
    candidates: dict[str, int]  # {considered, pruned, feasible}
    notes: tuple[str, ...] = field(default=())

    def step(self, name: str) -> StepPlan:
        """Return the step called `name`.

        Raises:
            KeyError: the plan has no such step.
        """
        for step in self.steps:
            if step.step == name:
                return step
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def hash(self) -> str:
        """SHA-256 over everything the plan decides."""
        return content_hash(self.to_json())


def plan_from_json(document: dict[str, Any]) -> Plan:
    """Rebuild a plan from `Plan.to_json`.

    Raises:
        SpecError: unknown schema version.
    """
    if document.get("schema_version") != PLAN_VERSION:
        raise SpecError(
            f"plan has schema_version {document.get('schema_version')!r}, not {PLAN_VERSION}",
            remedy="make the plan again with this version of suanli",
        )
    steps = tuple(_step(step) for step in document["steps"])
    return Plan(
        **{
            **document,
            "steps": steps,
            "variants": tuple(document["variants"]),
            "storage": tuple(document["storage"]),
            "seconds": Estimate(**document["seconds"]),
            "usd": _estimate(document["usd"]),
            "alternatives": tuple(Alternative(**a) for a in document["alternatives"]),
            "notes": tuple(document["notes"]),
        }
    )


def _estimate(document: dict[str, float] | None) -> Estimate | None:
    return None if document is None else Estimate(**document)


def _step(document: dict[str, Any]) -> StepPlan:
    return StepPlan(
        **{
            **document,
            "resources": Resources(**document["resources"]),
            "seconds": Estimate(**document["seconds"]),
            "peak_memory_bytes": Estimate(**document["peak_memory_bytes"]),
            "peak_gpu_memory_bytes": _estimate(document["peak_gpu_memory_bytes"]),
            "usd": _estimate(document["usd"]),
            "tolerations": tuple(document["tolerations"]),
        }
    )
