"""What the run learnt of the model: quality, variants, learning curves, as far as it got."""

from __future__ import annotations

from typing import Any

from components.contract import MAIN_METRIC
from pipelines.reporting import judge

Json = dict[str, Any]


def quality_of(plan: Json, selection: Json | None, evaluations: dict[str, Json]) -> Json:
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


def table_of(selection: Json | None, evaluations: dict[str, Json], name: str) -> Json | None:
    source = selection if selection is not None else evaluations.get("fp32", {})
    table: Json | None = source.get(name)
    return table


def variants_of(
    plan: Json, selection: Json | None, evaluations: dict[str, Json], refused: Json | None
) -> list[Json]:
    """The rows that select wrote, `refused` when it took none of them; before it ran, a row for
    each variant from its evaluation."""
    if selection is not None or refused is not None:
        return list((selection or refused or {}).get("variants", []))
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


def learning_curve(plan: Json, reports: dict[str, Json]) -> list[Json]:
    """Every series that a training step recorded: {step, name, points}."""
    curves = []
    for step in plan["steps"]:
        for name, points in (reports.get(step["step"], {}).get("series") or {}).items():
            if step["kind"] in ("train", "compress") and points:
                curves.append({"step": step["step"], "name": name, "points": points})
    return curves


SEARCH = ("tuned", "compressed", "compressed_in_8_bits", "removed_share", "budget_s")


def searches_of(plan: Json, reports: dict[str, Json]) -> list[Json]:
    """Every search for a structure: what came out, what it took, and each candidate with its
    predicted and measured seconds."""
    found = []
    for step in plan["steps"]:
        report = reports.get(step["step"], {})
        metrics = report.get("metrics") or {}
        if step["kind"] != "compress" or not metrics.get("candidates"):
            continue
        predicted = step.get("seconds") or {}
        found.append(
            {
                "step": step["step"],
                "variant": metrics.get("variant"),
                **{key: metrics.get(key) for key in SEARCH},
                "predicted_s": predicted.get("value"),
                "seconds": (report.get("seconds") or {}).get("total"),
                "candidates": [
                    {**one, "depth": len(one.get("layers") or [])} for one in metrics["candidates"]
                ],
            }
        )
    return found
