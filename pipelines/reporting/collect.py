"""Collect report.json: the plan beside what the steps left, in whatever state the run is.

Every number that the page, the terminal or the summary shows is computed here or in `judge`, so
that report.json has it too.
"""

from __future__ import annotations

import json
import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.contract import MAIN_METRIC, REPORT_VERSION, DataError
from components.storage import Store
from pipelines.reporting import judge
from pipelines.reporting.decision import decision

Json = dict[str, Any]
SECONDS_PER_HOUR = 3600


def collect_report(store: Store, run_id: str, plan: Any, status: str) -> Json:
    """Return report.json of the run `run_id`, finished, failed or broken off.

    Args:
        store: where the steps left their reports, errors and artifacts.
        run_id: names the run in the store.
        plan: the plan that was run (`Plan`, or its JSON document).
        status: how the run ended, as in ``contract.STATUS_BY_EXIT_CODE``.
    """
    document: Json = plan if isinstance(plan, dict) else plan.to_json()
    reports = _documents(store, f"runs/{run_id}/steps")
    errors = _documents(store, f"runs/{run_id}/errors")
    last_event = _last_events(store, run_id)
    error = _first_error(document, reports, errors, last_event)
    steps = [_step(step, reports, errors, last_event) for step in document["steps"]]
    unfinished = [s["name"] for s in steps if s["state"] != "done" and s["kind"] != "report"]
    if error is None and unfinished:
        error = _broken_off(unfinished, last_event)
    evaluations = _evaluations(store, document, reports)
    selection = _artifact_json(store, reports.get("select"), "selection.json")
    report: Json = {
        "schema_version": REPORT_VERSION,
        "status": _status(status, error),
        "plan_hash": _plan_hash(plan, document, reports),
        "spec": document.get("spec", {}),
        "hardware": _hardware(reports),
        "run": _run(run_id, document, reports),
        "error": error,
        "quality": _quality(document, selection, evaluations),
        "classification_report": _table(selection, evaluations, "classification_report"),
        "entities": _table(selection, evaluations, "entities"),
        "confusion": (selection or {}).get("confusion"),
        "test": (selection or {}).get("test"),
        "variants": _variants(document, selection, evaluations),
        "selected": (selection or {}).get("selected"),
        "steps": steps,
        "cost": _cost(document, steps),
        "learning_curve": _learning_curve(document, reports),
        "decision": decision(document),
        "storage": list(document.get("storage", [])),
        "notes": _notes(document, reports),
        "artifacts": {
            "model": None,
            "onnx": None,
            "report_html": None,
            "pipeline_yaml": None,
            "plan": None,
        },
    }
    return finite(judge.judged(report))


def with_own_step(
    report: Json, name: str, *, seconds: float, peak_memory_bytes: int, plan: Json
) -> Json:
    """Return `report` with the figures of the report step itself, which is still running."""
    document = {"seconds": {"total": seconds}, "peak_memory_bytes": peak_memory_bytes}
    planned = next(step for step in plan["steps"] if step["step"] == name)
    steps = [
        {**step, "state": "done", "measured": _measured(document, usd_per_hour(planned))}
        if step["name"] == name
        else step
        for step in report["steps"]
    ]
    return finite(judge.judged({**report, "steps": steps, "cost": _cost(plan, steps)}))


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity, which JSON can't say, replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


# -- what the run left -----------------------------------------------------------------------------


def _documents(store: Store, prefix: str) -> dict[str, Json]:
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


def _last_events(store: Store, run_id: str) -> dict[str, Json]:
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


def _artifact_json(store: Store, step_report: Json | None, name: str) -> Json | None:
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


def _evaluations(store: Store, plan: Json, reports: dict[str, Json]) -> dict[str, Json]:
    """Return the evaluations that exist, by variant."""
    found = {}
    for step in plan["steps"]:
        if step["kind"] == "evaluate":
            document = _artifact_json(store, reports.get(step["step"]), "evaluation.json")
            if document is not None:
                found[str(document.get("variant", step["step"]))] = document
    return found


# -- status ----------------------------------------------------------------------------------------


def _superseded(step: str, reports: dict[str, Json], last_event: dict[str, Json]) -> bool:
    """True when the step succeeded after its error was written (a resumed run)."""
    event = last_event.get(step, {}).get("event")
    return step in reports and event in ("finished", "cached", None)


def _first_error(
    plan: Json, reports: dict[str, Json], errors: dict[str, Json], last_event: dict[str, Json]
) -> Json | None:
    order = [step["step"] for step in plan["steps"]]
    names = sorted(errors, key=lambda name: order.index(name) if name in order else len(order))
    for name in names:
        if not _superseded(name, reports, last_event):
            return errors[name]
    return None


def _broken_off(unfinished: list[str], last_event: dict[str, Json]) -> Json:
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


def _status(status: str, error: Json | None) -> str:
    """The error that a step left is more precise than what the runner knew."""
    if error is not None:
        return str(error.get("kind", "step_failed"))
    return status


def _plan_hash(plan: Any, document: Json, reports: dict[str, Json]) -> str:
    if not isinstance(plan, dict):
        return str(plan.hash)
    from pipelines.plan import plan_from_json

    return plan_from_json(document).hash


# -- steps and money -------------------------------------------------------------------------------


def _step(
    step: Json, reports: dict[str, Json], errors: dict[str, Json], last_event: dict[str, Json]
) -> Json:
    name = step["step"]
    report = reports.get(name)
    if name in errors and not _superseded(name, reports, last_event):
        state, report = "failed", None
    elif report is not None:
        state = "done"
    else:
        state = "broken off" if name in last_event else "not reached"
    return {
        "name": name,
        "kind": step["kind"],
        "state": state,
        "cached": bool(report and report.get("cached")),
        "node": step.get("node"),
        "capacity": step.get("capacity"),
        "why": step.get("why", ""),
        "predicted": _predicted(step),
        "measured": None if report is None else _measured(report, usd_per_hour(step)),
        "requested": {**step["resources"], "timeout_s": step.get("timeout_s")},
    }


def usd_per_hour(step: Json) -> float | None:
    """The hourly price behind a planned step, or None where the plan has no price."""
    usd, seconds = step.get("usd"), step["seconds"]["value"]
    if usd is None or not seconds:
        return None
    return float(usd["value"]) / float(seconds) * SECONDS_PER_HOUR


def _predicted(step: Json) -> Json:
    gpu = step.get("peak_gpu_memory_bytes")
    memory, seconds, usd = step["peak_memory_bytes"], step["seconds"], step.get("usd")
    return {
        "seconds": seconds["value"],
        "low": seconds["low"],
        "high": seconds["high"],
        "peak_memory_bytes": memory["value"],
        "peak_memory_low_bytes": memory["low"],
        "peak_memory_high_bytes": memory["high"],
        "peak_gpu_memory_bytes": gpu["value"] if gpu else None,
        "usd": usd["value"] if usd else None,
    }


def _measured(report: Json, price: float | None) -> Json:
    seconds = report.get("seconds", {})
    total = seconds.get("total")
    return {
        "seconds": total,
        "peak_memory_bytes": report.get("peak_memory_bytes"),
        "peak_gpu_memory_bytes": report.get("peak_gpu_memory_bytes"),
        "usd": None if price is None or total is None else total * price / SECONDS_PER_HOUR,
        "energy_joules": report.get("energy_joules"),
        "bytes_in": report.get("bytes_in"),
        "bytes_out": report.get("bytes_out"),
        "phases": {name: value for name, value in seconds.items() if name != "total"},
        "started_at": report.get("started_at"),
    }


def _cost(plan: Json, steps: list[Json]) -> Json:
    """Money of the whole job; a step taken over from an earlier run counts with what it took."""
    measured = [step["measured"]["usd"] for step in steps if step["measured"]]
    known = bool(measured) and all(value is not None for value in measured)
    reused = [s["measured"]["usd"] or 0.0 for s in steps if s["cached"] and s["measured"]]
    usd = plan.get("usd") or {}
    return {
        "predicted_usd": usd.get("value"),
        "predicted_low_usd": usd.get("low"),
        "predicted_high_usd": usd.get("high"),
        "measured_usd": sum(measured) if known else None,
        "reused_usd": sum(reused) if known else None,
        "first_order_usd": (plan.get("first_order") or {}).get("usd"),
    }


# -- quality ---------------------------------------------------------------------------------------


def _quality(plan: Json, selection: Json | None, evaluations: dict[str, Json]) -> Json:
    """Quality on test when select got that far, else what validation says so far."""
    budget = plan.get("spec", {}).get("compression", {}).get("max_quality_drop")
    if selection is not None:
        return {**selection["quality"], "max_quality_drop": budget}
    fp32 = evaluations.get("fp32", {})
    return {
        "metric": fp32.get("metric", MAIN_METRIC.get(plan.get("task", ""))),
        "split": fp32.get("split"),
        "tuned": fp32.get("value"),
        "selected": None,
        "ci95": fp32.get("ci95"),
        "p_drop_exceeds_budget": None,
        "max_quality_drop": budget,
    }


def _table(selection: Json | None, evaluations: dict[str, Json], name: str) -> Json | None:
    source = selection if selection is not None else evaluations.get("fp32", {})
    table: Json | None = source.get(name)
    return table


def _variants(plan: Json, selection: Json | None, evaluations: dict[str, Json]) -> list[Json]:
    """The rows that select wrote; before it ran, a row for each variant from its evaluation."""
    if selection is not None:
        return list(selection["variants"])
    rows = []
    for name in plan.get("variants", []):
        found = evaluations.get(name, {})
        rows.append(
            {
                "name": name,
                "quality_validation": found.get("value"),
                **{key: found.get(key) for key in judge.VARIANT_FIGURES},
                "accepted": False,
                "reason": "evaluated; select did not run" if found else "not evaluated",
            }
        )
    return rows


def _learning_curve(plan: Json, reports: dict[str, Json]) -> list[Json]:
    """Every series that a training step recorded: {step, name, points}."""
    curves = []
    for step in plan["steps"]:
        for name, points in (reports.get(step["step"], {}).get("series") or {}).items():
            if step["kind"] in ("train", "compress") and points:
                curves.append({"step": step["step"], "name": name, "points": points})
    return curves


# -- surroundings ----------------------------------------------------------------------------------


def _run(run_id: str, plan: Json, reports: dict[str, Json]) -> Json:
    fresh = [r for r in reports.values() if not r.get("cached") and r.get("started_at")]
    started = min((r["started_at"] for r in fresh), default=None)
    ends = [_end(r) for r in fresh]
    return {
        "run_id": run_id,
        "name": plan.get("name"),
        "task": plan.get("task"),
        "started_at": started,
        "finished_at": max(ends, default=None),
        "profile": plan.get("profile", {}),
        "catalog": plan.get("catalog", {}),
        "calibration": plan.get("calibration", {}),
    }


def _end(report: Json) -> str:
    start = datetime.fromisoformat(report["started_at"]).astimezone(UTC)
    end = start + timedelta(seconds=float(report.get("seconds", {}).get("total", 0.0)))
    return end.isoformat(timespec="seconds")


def _hardware(reports: dict[str, Json]) -> Json:
    """What the most telling step ran on: one with a GPU if any, else train, else any."""
    candidates = sorted(
        (r for r in reports.values() if isinstance(r.get("hardware"), dict)),
        key=lambda r: (r["hardware"].get("gpu_count", 0), r.get("kind") == "train"),
    )
    return dict(candidates[-1]["hardware"]) if candidates else {}


def _notes(plan: Json, reports: dict[str, Json]) -> list[Json]:
    notes = [{"step": "plan", "text": text} for text in plan.get("notes", [])]
    for step in plan["steps"]:
        for text in reports.get(step["step"], {}).get("notes") or []:
            notes.append({"step": step["step"], "text": text})
    return notes
