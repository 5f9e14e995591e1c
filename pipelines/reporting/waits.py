"""Waiting for nodes, images and pods, apart from what containers do.

The plan's seconds of a step on a cluster hold its waits; what a step measures is its container's
time. Like is compared with like: containers with containers, and the time between steps with the
waits that were predicted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.cost.way import HERE

Json = dict[str, Any]
# Steps write their start down in whole seconds, so the end that follows from it may seem to lie as
# much after the next one's start.
CLOCK = timedelta(seconds=1)


def container_seconds(step: Json, plan: Json) -> Json:
    """Return value, low and high of what the step's container was predicted to take, and
    ``wait_s``, the rest of the step's prediction; here, and in plans that do not tell them apart,
    all of it and no wait."""
    whole = step["seconds"]
    known = (plan.get("calibration") or {}).get("steps", {}).get(step["step"]) or {}
    own = known.get("container")
    if step.get("node") in (None, HERE) or not own:
        return {**whole, "wait_s": 0.0}
    return {**own, "wait_s": max(0.0, whole["value"] - own["value"])}


def waited(plan: Json, reports: dict[str, Json]) -> dict[str, float]:
    """Return seconds between the start of each step on a cluster and the last end of another before
    it.

    A lower bound of how long the step waited: what it waited for may have ended earlier than
    another step beside it. The first step's wait is not known. None at all where a step was
    answered from a marker, since its pod took time that left no trace.
    """
    if any(report.get("cached") for report in reports.values()):
        return {}
    spans = {name: found for name, report in reports.items() if (found := span(report))}
    made = {}
    elsewhere = {step["step"] for step in plan["steps"] if step.get("node") not in (None, HERE)}
    for name, (start, _) in spans.items():
        if name not in elsewhere:
            continue
        before = [
            end for other, (_, end) in spans.items() if other != name and end <= start + CLOCK
        ]
        if before:
            made[name] = max(0.0, (start - max(before)).total_seconds())
    return made


def span(report: Json) -> tuple[datetime, datetime] | None:
    """Return when a step started and ended; None of a damaged report."""
    try:
        start = datetime.fromisoformat(report["started_at"]).astimezone(UTC)
        total = float((report.get("seconds") or {}).get("total") or 0.0)
        return start, start + timedelta(seconds=total)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
