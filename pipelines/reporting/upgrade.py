"""Receipts of other times: fill in what an older report.json lacks, refuse what is too new."""

from __future__ import annotations

from typing import Any

from components.contract import REPORT_VERSION, DataError
from pipelines.reporting import judge

Json = dict[str, Any]

# What a receipt may lack: written before the field existed, or by hand. A figure that is not there
# is null, never 0.
ABSENT: Json = {
    "status": "step_failed",
    "plan_hash": "",
    "spec": {},
    "hardware": {},
    "run": {},
    "error": None,
    "quality": {},
    "classification_report": None,
    "entities": None,
    "confusion": None,
    "test": None,
    "variants": [],
    "searches": [],
    "selected": None,
    "steps": [],
    "cost": {},
    "learning_curve": [],
    "decision": {},
    "unrestricted": None,
    "storage": [],
    "notes": [],
    "artifacts": {},
    "reproduce": [],
}
RUN = ("run_id", "suanli", "name", "task", "started_at", "finished_at")
QUALITY = ("metric", "split", "tuned", "selected", "ci95", "p_drop_exceeds_budget",
           "max_quality_drop")  # fmt: skip
COST = ("predicted_usd", "predicted_low_usd", "predicted_high_usd", "measured_usd", "reused_usd",
        "first_order_usd")  # fmt: skip
DECISION = ("node", "capacity", "nodes", "seconds", "usd", "one_node_usd", "times_cheaper",
            "deadline_s", "budget_usd")  # fmt: skip
PREDICTED = ("seconds", "low", "high", "peak_memory_bytes", "usd")
MEASURED = ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "cpu_seconds", "usd",
            "started_at")  # fmt: skip


def completed(report: Any, *, source: str = "report.json") -> Json:
    """Return `report` with every field of the present schema; its own figures stay as they are.

    Raises:
        DataError: not a receipt, or from a newer suanli.
    """
    if not isinstance(report, dict):
        raise DataError(f"{source}: a receipt is a JSON object, this is {type(report).__name__}")
    version = report.get("schema_version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version > REPORT_VERSION:
        raise DataError(
            f"{source}: schema_version {version!r} is not known here, at most {REPORT_VERSION}",
            remedy="read it with the suanli that wrote it, or a newer one",
        )
    try:
        return judge.judged(_filled(report))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{source}: not a receipt of schema_version {version}: {error}",
            remedy="rebuild it with `suanli report RUNDIR`",
        ) from error


def _filled(report: Json) -> Json:
    filled = {**ABSENT, **report, "schema_version": REPORT_VERSION}
    spec = filled["spec"]
    run = {"name": spec.get("name"), "task": spec.get("task"), **filled["run"]}
    filled["run"] = {
        **_keys(RUN, run),
        **{key: run.get(key) or {} for key in ("profile", "catalog", "calibration")},
    }
    filled["quality"] = _keys(QUALITY, filled["quality"])
    filled["cost"] = _keys(COST, filled["cost"])
    filled["decision"] = _decision(filled["decision"])
    if filled["unrestricted"] is not None:
        filled["unrestricted"] = _decision(filled["unrestricted"])
    filled["steps"] = [_step(step) for step in filled["steps"]]
    filled["variants"] = [
        {"accepted": False, "reason": "", **_keys(("name", "quality_validation"), row)}
        for row in filled["variants"]
    ]
    return filled


def _decision(made: Json) -> Json:
    return {
        "why": "",
        "alternatives": [],
        "alternatives_left_out": 0,
        "first_order": {},
        "candidates": {},
        **_keys(DECISION, made),
    }


def _keys(names: tuple[str, ...], given: Json) -> Json:
    return {**dict.fromkeys(names), **given}


def _step(step: Json) -> Json:
    measured = step.get("measured")
    defaults = {
        "kind": str(step["name"]).partition("-")[0],
        "state": "done" if measured else "not reached",
        "cached": False,
        "node": None,
        "capacity": None,
        "why": "",
        "output": None,
    }
    return {
        **defaults,
        **step,
        "predicted": _keys(PREDICTED, step.get("predicted") or {}),
        "measured": _keys(MEASURED, measured) if measured else None,
        "requested": step.get("requested") or {},
    }
