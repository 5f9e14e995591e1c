"""Work of the decide step with dynamic requests: plan again with the measured data and the run's
parameters, and hand the new plan to the later tasks.

Their pods' requests travel as task outputs; what their programs receive is left in the run's folder
of the store (``decided/<step>.json``), where the exit handler, which can't take outputs, finds the
plan too.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contract import InfeasiblePlanError, canonical_json
from components.runtime import DECIDED, StepContext
from components.storage import Store, Tiers
from pipelines.control.decide.grants import Grants, beyond, grants, levelled, seconds_within
from pipelines.control.decide.node_set import catalog_of
from pipelines.control.decide.parameters import Values, with_values
from pipelines.control.decide.step import DECISION_VERSION, compare
from pipelines.control.pods import config_of
from pipelines.cost.calibration import Calibration
from pipelines.plan import Plan
from pipelines.review import decision_markdown
from pipelines.spec import Spec

GRANTS_FILE, CONFIGS_FILE, PAGE_FILE = "grants.json", "configs.json", "decision.md"
BEFORE = ("ingest", "decide")  # run before the decision


def with_parameters(config: str, parameters: dict[str, Any]) -> str:
    """Return the step's config with the run's parameters among its arguments."""
    settings = json.loads(config)
    settings["arguments"] |= {"parameters": parameters}
    return canonical_json(settings)


def run(context: StepContext) -> str:
    """Plan again; returns the decision's URI.

    Raises:
        SpecError, InfeasiblePlanError: see `decide_again`.
    """
    arguments = context.arguments
    path = context.fetch_file(context.inputs["dataset"], "manifest.json")
    manifest = json.loads(path.read_text())
    with context.phase("plan"):
        again = decide_again(arguments, arguments["parameters"], observed=manifest)
    decision = compare(arguments["planned"], again, tolerance=arguments["tolerance"])
    # What would stop a static pipeline is what a dynamic one is for.
    decision = {**decision, "schema_version": DECISION_VERSION, "holds": True}
    context.metrics.update(decision)
    context.notes.extend(decision["changes"])
    train = manifest["splits"]["train"]
    context.workload.update(rows=train["rows"], tokens=train["tokens"])
    return context.put(_folder(context, decision, again), kind="decision")


def decide_again(
    arguments: dict[str, Any], parameters: Values, *, observed: dict[str, Any] | None = None
) -> Plan:
    """Return the plan of a run with `parameters`, levelled by kind of step.

    Args:
        arguments: the compiled decide step's: ``spec, nodes, calibration, limits``.
        parameters: values that differ from the defaults, or all of them.
        observed: the dataset's manifest; the data is probed without.

    Raises:
        SpecError: a parameter's value makes no spec.
        InfeasiblePlanError: nothing in the compiled node set keeps deadline and budget, or the plan
            needs more than the compiled time-outs and volumes.
    """
    from pipelines.plan import make_plan  # numpy and the catalogue: not needed to compile

    limits, calibration = arguments["limits"], arguments["calibration"]
    spec = with_values(arguments["spec"], parameters)

    def plan_for(wanted: Spec) -> Plan:
        made = make_plan(
            wanted,
            catalog=catalog_of(arguments["nodes"]),
            calibration=Calibration.from_json(calibration) if calibration else None,
            observed=observed,
        )
        return levelled(made)

    again = plan_for(spec)
    outside = beyond(again, limits)
    if outside:
        again, outside = _quicker(again, outside, spec, limits, plan_for)
    if outside:
        raise InfeasiblePlanError(
            f"the run does not fit into the compiled pipeline: {'; '.join(outside)}",
            remedy="write these values into the spec and compile again",
        )
    return again


def _quicker(
    plan: Plan,
    outside: list[str],
    spec: Spec,
    limits: dict[str, Any],
    plan_for: Callable[[Spec], Plan],
) -> tuple[Plan, list[str]]:
    """Look for a way that is dearer but keeps training within its compiled time-out; returns the
    plan and what it still needs beyond the limits."""
    deadline = seconds_within(limits["steps"]["train"]["timeout_s"])
    objective = spec.objective.model_copy(update={"deadline": deadline})
    if deadline <= 0 or deadline >= (spec.objective.deadline_s or math.inf):
        return plan, outside
    try:
        made = plan_for(spec.model_copy(update={"objective": objective}))
    except InfeasiblePlanError:
        return plan, outside
    still = beyond(made, limits)
    return (plan, outside) if still else (replace(made, spec=spec.document), [])


def _folder(context: StepContext, decision: dict[str, Any], again: Plan) -> Path:
    trainjob = context.arguments["limits"]["trainjob"]
    launch = context.arguments["launch"] if trainjob else None
    configs = {
        step.step: config_of(again, step.step, launch=launch)
        for step in again.steps
        if step.step not in BEFORE
    }
    folder = context.folder("decision")
    documents = {
        "decision.json": decision,
        "plan.json": again.to_json(),
        GRANTS_FILE: grants(again, trainjob=trainjob),
        CONFIGS_FILE: configs,
    }
    for name, document in documents.items():
        (folder / name).write_text(canonical_json(document))
    (folder / PAGE_FILE).write_text(decision_markdown(again), encoding="utf-8")
    return folder


def hand_on(store: str, run_id: str, uri: str, page: Path) -> Grants:
    """Leave the decision at `uri` where this run's steps look for it, its page in `page`, and
    return the outputs of the task. Also after a decision that was found by its marker."""
    tiers = Store(Tiers.from_json(store))
    with tempfile.TemporaryDirectory() as folder:
        files = tiers.fetch(uri, Path(folder))
        found: Grants = json.loads((files / GRANTS_FILE).read_text())
        for step, config in json.loads((files / CONFIGS_FILE).read_text()).items():
            tiers.put_json(f"runs/{run_id}/{DECIDED}/{step}.json", config)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text((files / PAGE_FILE).read_text(encoding="utf-8"), encoding="utf-8")
    return found
