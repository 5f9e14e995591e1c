"""Follow a run to its end: say what happens, stop it at the budget, explain a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import yaml

from components.contract import InfeasiblePlanError, StepError, SuanliError, error_from_document
from components.runtime import DECIDED
from components.storage import Store, Tiers
from pipelines.kfp_api import KfpServer
from pipelines.plan import plan_from_json
from pipelines.submission import PlannedStep, Submission, is_dynamic

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
POLL_S = 10.0
# A restart of the API server must not fail a run that goes on without it.
TOLERATED_OUTAGES = 30

OnEvent = Callable[[dict[str, Any]], None]


def follow(
    server: KfpServer,
    run_id: str,
    submission: Submission,
    ir_yaml: str,
    *,
    poll_s: float = POLL_S,
    on_event: OnEvent = lambda event: None,
) -> str:
    """Wait for the run's end; stop it when its projected cost passes the budget.

    Returns:
        ``SUCCEEDED``.

    Raises:
        InfeasiblePlanError: stopped by the budget guard.
        SuanliError: what the failed step left in the store, or what KFP says of it.
    """
    names = step_names(ir_yaml)
    seen: dict[str, str] = {}
    outages, decided = 0, not is_dynamic(ir_yaml)
    while True:
        try:
            run = server.run(run_id)
            outages = 0
        except StepError:
            outages += 1
            if outages > TOLERATED_OUTAGES:
                raise
            time.sleep(poll_s)
            continue
        steps = step_states(run, names)
        for step, detail in steps.items():
            if seen.get(step) != detail["state"]:
                seen[step] = detail["state"]
                on_event({"event": "step", "step": step, "state": detail["state"]})
        if run.state in ENDED:
            on_event({"event": "ended", "run_id": run_id, "state": run.state})
            if run.state == "SUCCEEDED":
                return "SUCCEEDED"
            raise _failure(run, steps, ir_yaml)
        if not decided and steps.get("decide", {}).get("state") == "SUCCEEDED":
            decided = True
            submission = _as_decided(run_id, submission, ir_yaml)
        projected = projected_usd(submission, steps)
        if projected is not None and submission.budget_usd and projected > submission.budget_usd:
            server.terminate(run_id)
            raise InfeasiblePlanError(
                f"run {run_id} was stopped: projected {projected:.2f} USD passes "
                f"objective.budget_usd {submission.budget_usd:.2f}",
                remedy="raise the budget and submit again: finished steps are kept",
            )
        time.sleep(poll_s)


def step_names(ir_yaml: str) -> dict[str, str]:
    """Map the name that KFP gives a task (its key in the DAG) to the step's name."""
    pipeline = next(iter(yaml.load_all(ir_yaml, Loader=yaml.CSafeLoader)))
    graphs = [pipeline["root"], *pipeline["components"].values()]
    names = {}
    for graph in graphs:
        for key, task in graph.get("dag", {}).get("tasks", {}).items():
            component = pipeline["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                names[key] = task["taskInfo"]["name"]
    return names


def step_states(run: Any, names: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return ``{state, seconds, error}`` by step for the tasks that KFP shows so far."""
    found: dict[str, dict[str, Any]] = {}
    details = run.run_details.task_details if run.run_details else None
    for task in details or []:
        step = names.get(task.display_name)
        if step is None:
            continue
        error = task.error.message if task.error else None
        found[step] = {"state": task.state, "seconds": _seconds(task), "error": error}
    return found


def _seconds(task: Any) -> float:
    start = task.start_time
    if start is None or start.year < 2000:  # KFP writes the zero time for "not yet"
        return 0.0
    end = task.end_time
    if end is None or end.year < 2000:
        end = datetime.now(UTC)
    return max(0.0, float((end - start).total_seconds()))


def projected_usd(submission: Submission, steps: dict[str, dict[str, Any]]) -> float | None:
    """Return what the run will have cost: measured time so far at each step's planned price, and
    the prediction for what is still to come. None when the plan knows no price."""
    total, priced = 0.0, False
    for planned in submission.steps:
        if planned.usd is None:
            continue
        priced = True
        now = steps.get(planned.step, {"state": None, "seconds": 0.0})
        usd_per_s = planned.usd / planned.seconds if planned.seconds else 0.0
        seconds = now["seconds"] if now["state"] in ENDED else max(now["seconds"], planned.seconds)
        total += usd_per_s * seconds
    return total if priced else None


def _failure(run: Any, steps: dict[str, dict[str, Any]], ir_yaml: str) -> SuanliError:
    stored = _stored_error(run.run_id, ir_yaml)
    if stored:
        return stored
    if run.state == "CANCELED":
        return StepError(f"run {run.run_id} was cancelled", remedy="submit again to go on")
    failed = [step for step, detail in steps.items() if detail["state"] == "FAILED"]
    message = steps[failed[0]]["error"] if failed else (run.error.message if run.error else None)
    return StepError(
        f"run {run.run_id} failed in {failed[0] if failed else 'an unknown step'}: "
        f"{message or 'KFP gives no message'}",
        remedy=f"suanli runs logs {run.run_id} --step {failed[0] if failed else 'STEP'}",
    )


def _as_decided(run_id: str, submission: Submission, ir_yaml: str) -> Submission:
    """The submission with the prices of what a dynamic run decided, when the store is within reach
    (the budget is the one that was submitted)."""
    try:
        config = _store(ir_yaml).get_json(f"runs/{run_id}/{DECIDED}/report.json")
        plan = plan_from_json(config["arguments"]["plan"]) if config else None
    except (SuanliError, OSError, KeyError, ValueError):
        return submission
    if plan is None:
        return submission
    steps = tuple(
        PlannedStep(
            step=step.step, seconds=step.seconds.value, usd=step.usd.value if step.usd else None
        )
        for step in plan.steps
    )
    return replace(submission, steps=steps)


def _store(ir_yaml: str) -> Store:
    """The store that the pipeline writes to by default."""
    pipeline = next(iter(yaml.load_all(ir_yaml, Loader=yaml.CSafeLoader)))
    parameters = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    return Store(Tiers.from_json(parameters["store"]["defaultValue"]))


def _stored_error(run_id: str, ir_yaml: str) -> SuanliError | None:
    """The error that the failing step left in the store, when the store is within reach."""
    try:
        store = _store(ir_yaml)
        for key in store.list_json(f"runs/{run_id}/errors"):
            document = store.get_json(key)
            if document:
                return error_from_document(document)
    except (SuanliError, OSError, KeyError, ValueError):
        return None
    return None
