"""report.md: the receipt in a few lines, for the KFP UI and for a pull request."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.deck import as_text, deck
from pipelines.reporting.markup import plain
from pipelines.reporting.upgrade import completed
from pipelines.reporting.words import METRIC_NAMES, STATUS_WORDS, kept_words, worth_saying

Json = dict[str, Any]
# Characters that Markdown or the HTML inside it would act on.
_ACTIVE = str.maketrans({character: f"\\{character}" for character in r"\`*_{}[]()<>#+-.!|~&:@"})


def text(value: object) -> str:
    """Return `value` as one line of Markdown that says just that."""
    return " ".join(plain(value).split()).translate(_ACTIVE)


def render_markdown(report: Json) -> str:
    """Return the receipt as Markdown: verdict or error, variants, steps, money."""
    report = completed(report)
    parts = [f"## {text(report['run']['name'])}: {STATUS_WORDS.get(report['status'], '')}"]
    parts.append(_error(report["error"]) if report["error"] else _verdict(report))
    parts.append(text(as_text(deck(report))))
    if report["variants"]:
        parts.append(_variants(report))
    parts += [_steps(report), _cost(report["cost"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _error(error: Json) -> str:
    lines = [f"**Step {text(error['step'])}**: {text(error['message'])}"]
    if error.get("remedy"):
        lines.append(f"What to do: {text(error['remedy'])}")
    return "\n\n".join(lines)


def _verdict(report: Json) -> str:
    quality, verdict = report["quality"], report["verdict"]
    metric = METRIC_NAMES.get(str(quality["metric"]), text(quality["metric"]))
    verb, link = kept_words(report)
    kept = f"{figures.show(quality['selected'], figures.quality)} {link} "
    kept += f"{figures.show(quality['tuned'], figures.quality)} {metric}"
    gains = [
        f"{figures.show(verdict[key], figures.ratio)} {word}"
        for key, word in (("times_smaller", "smaller"), ("times_faster", "faster"))
        if worth_saying(verdict[key]) and verdict["selected"] != verdict["reference"]
    ]
    return f"**{text(report['selected'])}** {verb} {', '.join([kept, *gains])}\\."


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, [":---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _variants(report: Json) -> str:
    rows = []
    for row in report["variants"]:
        latency = row.get("latency_ms") or {}
        mark = " ✓" if row["name"] == report["selected"] else ""
        rows.append(
            [
                text(row["name"]) + mark,
                figures.show(row["quality_validation"], figures.quality),
                figures.show(row.get("size_bytes"), figures.bytes_),
                figures.show(latency.get("p50"), figures.milliseconds),
                figures.show(latency.get("p99"), figures.milliseconds),
                figures.show(row.get("throughput_per_s"), figures.rate),
                text(row.get("reason") or ""),
            ]
        )
    return _table(["variant", "validation", "size", "p50", "p99", "per second", "verdict"], rows)


def _steps(report: Json) -> str:
    rows = []
    for step in report["steps"]:
        measured = step["measured"] or {}
        state = "reused" if step["cached"] else step["state"]
        rows.append(
            [
                text(step["name"]),
                figures.show(step["predicted"]["seconds"], figures.seconds),
                figures.show(measured.get("seconds"), figures.seconds),
                figures.show(measured.get("peak_memory_bytes"), figures.bytes_),
                figures.show(step["requested"].get("memory_bytes"), figures.bytes_),
                state,
            ]
        )
    return _table(["step", "predicted", "measured", "peak memory", "requested", "state"], rows)


def _cost(cost: Json) -> str:
    if cost["measured_usd"] is None and cost["predicted_usd"] is None:
        return ""
    measured, predicted, first = (
        figures.show(cost[f"{key}_usd"], figures.usd)
        for key in ("measured", "predicted", "first_order")
    )
    formula = f"{first} by the first\\-order formula"
    return f"Cost: {measured} measured, {predicted} predicted, {formula}\\."
