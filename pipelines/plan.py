"""The plan: every decision of one run, frozen, hashed and JSON round-trip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import SpecError, content_hash
from pipelines.cost.estimate import Alternative, Estimate, Resources

if TYPE_CHECKING:
    from pipelines.cost.calibration import Calibration
    from pipelines.cost.catalog import Catalog
    from pipelines.spec import Spec

__all__ = [
    "PLAN_VERSION", "Alternative", "Estimate", "Plan", "Resources", "StepPlan", "make_plan",
    "plan_from_json",
]  # fmt: skip
PLAN_VERSION = 1


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


def make_plan(
    spec: Spec,
    *,
    catalog: Catalog | None = None,
    calibration: Calibration | None = None,
    observed: dict[str, Any] | None = None,
    here: bool = False,
    cache_dir: Path | None = None,
) -> Plan:
    """Decide how to run `spec`.

    Args:
        spec: what is wanted.
        catalog: what can be bought or is owned; the shipped catalogue by default.
        calibration: residuals learnt from step reports.
        observed: the manifest that ingest wrote; replaces the probe of the data.
        here: plan for this machine only, as `suanli run` does.
        cache_dir: where this machine's measured speed is kept (default ``~/.cache/suanli``).

    Raises:
        InfeasiblePlanError: nothing satisfies the constraints; names the binding one and the
            smallest relaxation that helps.
        SpecError, DataError: the model or local data can't be read.
    """
    from pipelines.cost.catalog import load_catalog
    from pipelines.cost.decision import decide
    from pipelines.cost.job import make_job
    from pipelines.cost.profile import profile_of

    prices = catalog or load_catalog()
    job = make_job(spec, profile_of(spec, observed))
    decision = decide(job, prices, calibration=calibration, here=here, cache_dir=cache_dir)
    steps = tuple(StepPlan(**values) for values in decision.steps)
    return Plan(
        name=spec.name,
        task=spec.task,
        spec=spec.document,
        profile={name: split.to_json() for name, split in job.profile.items()},
        catalog=decision.catalog,
        calibration=decision.calibration,
        steps=steps,
        variants=job.variants,
        storage=decision.storage,
        seconds=Estimate.sum([step.seconds for step in steps]),
        usd=decision.usd,
        first_order=decision.first_order,
        alternatives=decision.alternatives,
        candidates=decision.candidates,
        notes=decision.notes,
    )
