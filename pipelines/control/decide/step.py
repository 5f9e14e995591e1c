"""Work of the decide step: does the plan still hold for the data as it was measured?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contract import InfeasiblePlanError, canonical_json
from components.runtime import StepContext
from pipelines.cost.estimate import Estimate
from pipelines.cost.requests import COLD_START_S, TIMEOUT_FLOOR_S
from pipelines.plan import Plan
from pipelines.spec import Spec

DECISION_VERSION = 1
# Deviation of predicted time or money that a plan made from a probe may show before a person
# should look again: the width of the planner's own 80 % interval on measured hardware.
DEFAULT_TOLERANCE = 0.25

# The decision depends on the planner as a whole.
PIPELINES = Path(__file__).parents[2]
CODE = tuple(
    sorted(
        path
        for part in (
            "plan.py",
            "spec*.py",
            "cost/**/*.py",
            "cost/data/*",
            "catalog/*.csv",
            "control/pods.py",
            "control/decide/*.py",
            "control/train_nodes/step.py",
            "review.py",
        )
        for path in PIPELINES.glob(part)
        if path.is_file()
    )
)


def run(context: StepContext) -> str:
    """Plan again with the dataset's manifest and compare; returns the decision's URI.

    Raises:
        InfeasiblePlanError: the plan changed beyond the tolerance and the spec says ``stop``.
    """
    # numpy and the catalogue: not needed to compile
    from pipelines.control.decide.node_set import catalog_of
    from pipelines.cost.calibration import Calibration
    from pipelines.plan import make_plan

    arguments = context.arguments
    path = context.fetch_file(context.inputs["dataset"], "manifest.json")
    manifest = json.loads(path.read_text())
    with context.phase("plan"):
        again = make_plan(
            Spec.model_validate(arguments["spec"]),
            # Own nodes and prices come with the plan; the image has the shipped ones only.
            catalog=catalog_of(arguments["nodes"]) if "nodes" in arguments else None,
            calibration=Calibration.from_json(arguments["calibration"])
            if "calibration" in arguments
            else None,
            observed=manifest,
            here=arguments["here"],
        )
    again = with_factors(again, arguments.get("factors", {}))
    decision = compare(arguments["planned"], again, tolerance=arguments["tolerance"])
    context.metrics.update(decision)
    train = manifest["splits"]["train"]
    context.workload.update(rows=train["rows"], tokens=train["tokens"])
    if not decision["holds"]:
        text = "; ".join(decision["changes"])
        context.notes.append(text)
        if arguments["on_profile_change"] == "stop":
            raise InfeasiblePlanError(
                f"the measured data changes the plan: {text}",
                remedy="plan and compile again, or set on_profile_change: continue in the spec",
            )
    folder = context.folder("decision")
    (folder / "decision.json").write_text(canonical_json(decision))
    (folder / "plan.json").write_text(canonical_json(again.to_json()))
    return context.put(folder, kind="decision")


def with_factors(plan: Plan, factors: dict[str, float]) -> Plan:
    """Return `plan` with the seconds (time-outs, money) of its steps as a calibration had changed
    them in the compiled plan: a run on this machine carries only what the calibration came to."""
    if not factors:
        return plan
    steps = []
    for step in plan.steps:
        factor = factors.get(step.step, 1.0)
        fixed = TIMEOUT_FLOOR_S + COLD_START_S
        steps.append(
            replace(
                step,
                seconds=step.seconds.scaled(factor),
                usd=step.usd.scaled(factor) if step.usd else None,
                timeout_s=round(fixed + max(0, step.timeout_s - fixed) * factor),
            )
        )
    priced = [step.usd for step in steps if step.usd is not None]
    return replace(
        plan,
        steps=tuple(steps),
        seconds=Estimate.sum([step.seconds for step in steps]),
        usd=Estimate.sum(priced) if plan.usd is not None else None,
    )


def planned(plan: Plan) -> dict[str, Any]:
    """Return what `compare` needs of the plan that was compiled."""
    return {
        "seconds": plan.seconds.value,
        "usd": None if plan.usd is None else plan.usd.value,
        "placement": {step.step: f"{step.nodes} x {step.node}" for step in plan.steps},
        "timeout_s": {step.step: step.timeout_s for step in plan.steps},
        "memory_bytes": {step.step: step.resources.memory_bytes for step in plan.steps},
    }


def compare(before: dict[str, Any], again: Plan, *, tolerance: float) -> dict[str, Any]:
    """Compare the compiled plan's figures with a plan made from the measured data.

    Returns:
        ``{schema_version, holds, tolerance, planned, measured, changes}``; `changes` is one
        sentence for each figure beyond the tolerance.
    """
    after = planned(again)
    changes = []
    for name, unit in (("seconds", "s"), ("usd", "USD")):
        old, new = before[name], after[name]
        if old and new and abs(new / old - 1) > tolerance:
            changes.append(f"{name} {old:.4g} {unit} planned, {new:.4g} {unit} with this data")
    for step, place in before["placement"].items():
        if after["placement"].get(step, place) != place and changes:
            changes.append(f"{step} would move from {place} to {after['placement'][step]}")
    for step, limit in before["timeout_s"].items():
        needed = after["timeout_s"].get(step, limit)
        if needed > limit * (1 + tolerance):
            changes.append(f"{step} would need a time-out of {needed} s, compiled {limit} s")
    return {
        "schema_version": DECISION_VERSION,
        "holds": not changes,
        "tolerance": tolerance,
        "planned": {name: before[name] for name in ("seconds", "usd")},
        "measured": {name: after[name] for name in ("seconds", "usd")},
        "changes": changes,
    }
