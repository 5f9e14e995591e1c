"""Collect report.json: the plan beside what the steps left, in whatever state the run is.

Every number that the page, the terminal or the summary shows is computed here or in `judge`, so
that report.json has it too.
"""

from __future__ import annotations

import math
from importlib import metadata
from typing import Any

from components.contract import REPORT_VERSION, DataError
from components.storage import Store
from pipelines.reporting import judge
from pipelines.reporting.decision import decision
from pipelines.reporting.evidence import (
    artifact_json,
    broken_off,
    documents,
    evaluations_of,
    first_error,
    last_events,
    plan_hash_of,
    status_of,
    superseded,
)
from pipelines.reporting.results import (
    learning_curve,
    quality_of,
    searches_of,
    table_of,
    variants_of,
)
from pipelines.reporting.waits import container_seconds, span, waited

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
    reports = documents(store, f"runs/{run_id}/steps")
    errors = documents(store, f"runs/{run_id}/errors")
    last_event = last_events(store, run_id)
    error = first_error(document, reports, errors, last_event)
    waits = waited(document, reports)
    steps = [
        _step(step, document, reports, errors, last_event, waits.get(step["step"]))
        for step in document["steps"]
    ]
    unfinished = [s["name"] for s in steps if s["state"] != "done" and s["kind"] != "report"]
    if error is None and unfinished:
        error = broken_off(unfinished, last_event)
    evaluations = evaluations_of(store, document, reports)
    selection = artifact_json(store, reports.get("select"), "selection.json")
    report: Json = {
        "schema_version": REPORT_VERSION,
        "status": status_of(status, error),
        "plan_hash": plan_hash_of(plan),
        "spec": document.get("spec", {}),
        "hardware": _hardware(reports),
        "run": _run(run_id, document, reports),
        "error": error,
        "quality": quality_of(document, selection, evaluations),
        "classification_report": table_of(selection, evaluations, "classification_report"),
        "entities": table_of(selection, evaluations, "entities"),
        "confusion": table_of(selection, evaluations, "confusion"),
        "test": (selection or {}).get("test"),
        "variants": variants_of(document, selection, evaluations, _refused(store, run_id, error)),
        "searches": searches_of(document, reports),
        "selected": (selection or {}).get("selected"),
        "steps": steps,
        "cost": _cost(document, steps),
        "learning_curve": learning_curve(document, reports),
        "decision": decision(document),
        "unrestricted": _unrestricted(store, run_id),
        "storage": list(document.get("storage", [])),
        "notes": _notes(document, reports),
        "reproduce": _reproduce(document),
        "artifacts": {
            "model": None,
            "onnx": None,
            "report_html": None,
            "pipeline_yaml": None,
            "plan": None,
        },
    }
    made: Json = finite(judge.judged(report))
    return made


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
    made: Json = finite(judge.judged({**report, "steps": steps, "cost": _cost(plan, steps)}))
    return made


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity, which JSON can't say, replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


# -- steps and money -------------------------------------------------------------------------------


def _step(
    step: Json,
    plan: Json,
    reports: dict[str, Json],
    errors: dict[str, Json],
    last_event: dict[str, Json],
    wait_s: float | None,
) -> Json:
    name = step["step"]
    report = reports.get(name)
    if name in errors and not superseded(name, reports, last_event):
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
        "output": None if report is None else report.get("output"),
        "predicted": _predicted(step, plan),
        "measured": None if report is None else _measured(report, usd_per_hour(step), wait_s),
        "requested": {**step["resources"], "timeout_s": step.get("timeout_s")},
    }


def usd_per_hour(step: Json) -> float | None:
    """The hourly price behind a planned step, or None where the plan has no price."""
    usd, seconds = step.get("usd"), step["seconds"]["value"]
    if usd is None or not seconds:
        return None
    return float(usd["value"]) / float(seconds) * SECONDS_PER_HOUR


def _predicted(step: Json, plan: Json) -> Json:
    gpu = step.get("peak_gpu_memory_bytes")
    memory, usd = step["peak_memory_bytes"], step.get("usd")
    seconds = container_seconds(step, plan)
    return {
        "seconds": seconds["value"],
        "low": seconds["low"],
        "high": seconds["high"],
        "wait_s": seconds["wait_s"],
        "peak_memory_bytes": memory["value"],
        "peak_memory_low_bytes": memory["low"],
        "peak_memory_high_bytes": memory["high"],
        "peak_gpu_memory_bytes": gpu["value"] if gpu else None,
        "usd": usd["value"] if usd else None,
    }


def _measured(report: Json, price: float | None, wait_s: float | None = None) -> Json:
    """A node costs while its step's pod and image come, too (`wait_s`, as far as that is known)."""
    seconds = report.get("seconds", {})
    total = seconds.get("total")
    paid = None if total is None else total + (wait_s or 0.0)
    return {
        "seconds": total,
        "peak_memory_bytes": report.get("peak_memory_bytes"),
        "peak_gpu_memory_bytes": report.get("peak_gpu_memory_bytes"),
        "cpu_seconds": report.get("cpu_seconds"),
        "wait_s": wait_s,
        "usd": None if price is None or paid is None else paid * price / SECONDS_PER_HOUR,
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


# -- surroundings ---------------------------------------------------------------------------------


def _refused(store: Store, run_id: str, error: Json | None) -> Json | None:
    """What select found of each variant, when it found that none will do."""
    if error is None or error.get("kind") != "gate_failed":
        return None
    try:
        found = store.get_json(f"runs/{run_id}/refused.json")
    except DataError:
        return None
    return found if isinstance(found, dict) else None


def _unrestricted(store: Store, run_id: str) -> Json | None:
    """The decision that any hardware would have got, left by a run that was tied to one machine."""
    try:
        plan = store.get_json(f"runs/{run_id}/unrestricted_plan.json")
    except DataError:
        return None
    return decision(plan) if isinstance(plan, dict) and "steps" in plan else None


def _run(run_id: str, plan: Json, reports: dict[str, Json]) -> Json:
    fresh = [r for r in reports.values() if not r.get("cached") and r.get("started_at")]
    started = min((str(r["started_at"]) for r in fresh), default=None)
    ends = [end for end in map(_end, fresh) if end]
    return {
        "run_id": run_id,
        "suanli": _version(),
        "name": plan.get("name"),
        "task": plan.get("task"),
        "started_at": started,
        "finished_at": max(ends, default=None),
        "profile": plan.get("profile", {}),
        "catalog": plan.get("catalog", {}),
        "calibration": plan.get("calibration", {}),
    }


def _end(report: Json) -> str | None:
    found = span(report)
    return found[1].isoformat(timespec="seconds") if found else None


def _hardware(reports: dict[str, Json]) -> Json:
    """What the most telling step ran on: one with a GPU if any, else train, else any."""
    candidates = sorted(
        (r for r in reports.values() if isinstance(r.get("hardware"), dict)),
        key=lambda r: (r["hardware"].get("gpu_count", 0), r.get("kind") == "train"),
    )
    return dict(candidates[-1]["hardware"]) if candidates else {}


def _reproduce(plan: Json) -> list[str]:
    """Commands that do it again; the page shows the spec that they need."""
    spec = f"{plan.get('name')}.yaml"
    here = any(step.get("node") == "here" for step in plan["steps"])
    again = f"suanli run {spec}" if here else f"suanli submit {spec} --host URL --wait"
    return [f"suanli plan {spec} --explain{' --here' if here else ''}", again]


def _version() -> str | None:
    try:
        return metadata.version("suanli")
    except metadata.PackageNotFoundError:  # run from a source tree
        return None


def _notes(plan: Json, reports: dict[str, Json]) -> list[Json]:
    notes = [{"step": "plan", "text": text} for text in plan.get("notes", [])]
    for step in plan["steps"]:
        for text in reports.get(step["step"], {}).get("notes") or []:
            notes.append({"step": step["step"], "text": text})
    return notes
