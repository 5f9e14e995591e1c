"""What a run left in the store, read with care: any of it may be missing, damaged or stale."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.storage import Store

Json = dict[str, Any]


def documents(store: Store, prefix: str) -> dict[str, Json]:
    """Return the documents under `prefix` by step; a damaged one counts as absent."""
    found = {}
    for key in store.list_json(prefix):
        try:
            document = store.get_json(key)
        except DataError:
            continue
        if isinstance(document, dict):
            found[Path(key).stem] = document
    return found


def last_events(store: Store, run_id: str) -> dict[str, Json]:
    """Return each step's last event; empty when the log lives elsewhere (object store)."""
    root = store.local_root("hot")
    path = root / "runs" / run_id / "events.jsonl" if root else None
    last: dict[str, Json] = {}
    if path is None or not path.exists():
        return last
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line being written when the machine went down
        if isinstance(event, dict) and "step" in event:
            last[str(event["step"])] = event
    return last


def artifact_json(store: Store, step_report: Json | None, name: str) -> Json | None:
    """Read one JSON file of the artifact that a step returned; None when it can't be had."""
    if step_report is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = store.fetch(step_report["output"], Path(folder))
            document: Json = json.loads((files / name).read_text(encoding="utf-8"))
            return document
    except (DataError, OSError, ValueError, KeyError):
        return None


def evaluations_of(store: Store, plan: Json, reports: dict[str, Json]) -> dict[str, Json]:
    """Return the evaluations that exist, by variant."""
    found = {}
    for step in plan["steps"]:
        if step["kind"] == "evaluate":
            document = artifact_json(store, reports.get(step["step"]), "evaluation.json")
            if document is not None:
                found[str(document.get("variant", step["step"]))] = document
    return found


# -- how it ended ---------------------------------------------------------------------------------


def superseded(step: str, reports: dict[str, Json], last_event: dict[str, Json]) -> bool:
    """True when the step succeeded after its error was written (a resumed run)."""
    event = last_event.get(step, {}).get("event")
    return step in reports and event in ("finished", "cached", None)


def first_error(
    plan: Json, reports: dict[str, Json], errors: dict[str, Json], last_event: dict[str, Json]
) -> Json | None:
    order = [step["step"] for step in plan["steps"]]
    names = sorted(errors, key=lambda name: order.index(name) if name in order else len(order))
    for name in names:
        if not superseded(name, reports, last_event):
            return errors[name]
    return None


def broken_off(unfinished: list[str], last_event: dict[str, Json]) -> Json:
    """The error of a run that ended without one: power, memory or a person stopped it."""
    running = [name for name in unfinished if name in last_event]
    where = f"while {running[0]} was running" if running else f"before {unfinished[0]} began"
    return {
        "schema_version": 1,
        "kind": "step_failed",
        "exit_code": 1,
        "step": running[0] if running else unfinished[0],
        "message": f"the run was broken off {where}; no step reported an error",
        "remedy": "start the same run again: finished steps are not repeated",
    }


def status_of(status: str, error: Json | None) -> str:
    """The error that a step left is more precise than what the runner knew."""
    if error is not None:
        return str(error.get("kind", "step_failed"))
    return status


def plan_hash_of(plan: Any) -> str:
    """Return the hash of a plan given as such or as its document."""
    if not isinstance(plan, dict):
        return str(plan.hash)
    from pipelines.plan import plan_from_json

    return plan_from_json(plan).hash
