"""The receipt as terminal tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from pipelines.reporting import figures
from pipelines.reporting.deck import as_text, deck
from pipelines.reporting.fitted import Column, Fitted, text
from pipelines.reporting.markup import plain
from pipelines.reporting.plan_table import estimate_text
from pipelines.reporting.words import METRIC_NAMES, STATUS_WORDS, kept_words, worth_saying

Json = dict[str, Any]
GAIN_WORDS = (("times_smaller", "smaller"), ("times_faster", "faster"))


def receipt_blocks(report: Json, folder: Path | None) -> Iterator[RenderableType]:
    """Yield the parts of a receipt: verdict or error, variants, steps, where the files are."""
    yield Text("")
    yield _verdict(report)
    told = as_text(deck(report))
    if told:
        yield Text(told)
    if any(row.get("size_bytes") for row in report["variants"]):
        yield _variants(report)
    yield _steps(report)
    missed = [step["name"] for step in report["steps"] if step["state"] == "not reached"]
    if missed:
        yield text(f"not reached: {', '.join(missed)}", "dim")
    free = report["unrestricted"]
    if free is not None:
        where = f"{free['nodes']} × {free['node']} {free['capacity']}"
        time_ = estimate_text(free["seconds"], figures.seconds)
        money = estimate_text(free["usd"], figures.usd)
        yield text(f"with any hardware: {where}, {time_}, {money}", "dim")
    yield from _files(report, folder)


def _verdict(report: Json) -> Text:
    if report["error"]:
        status = STATUS_WORDS.get(report["status"], report["status"])
        return Text(f"{status} at step {plain(report['error']['step'])}", style="bold red")
    quality, verdict = report["quality"], report["verdict"]
    metric = METRIC_NAMES.get(str(quality["metric"]), str(quality["metric"]))
    line = Text(plain(report["selected"]), style="bold green")
    kept, tuned = (figures.show(quality[key], figures.quality) for key in ("selected", "tuned"))
    verb, link = kept_words(report)
    parts = [f" {verb} {kept} {link} {tuned} {metric}"]
    if verdict["selected"] != verdict["reference"]:
        gains = [(verdict[key], word) for key, word in GAIN_WORDS if worth_saying(verdict[key])]
        parts += [f"{figures.ratio(gain)} {word}" for gain, word in gains]
    line.append(", ".join(parts), style="bold default")
    return line


def _variants(report: Json) -> Fitted:
    columns = [
        Column(head="variant", words=True),
        Column(head="validation"),
        Column(head="size"),
        Column(head="p50"),
        Column(head="p99"),
        Column(head="requests/s"),
        Column(head="verdict", words=True, group="verdict"),
    ]
    below = [
        text(row["name"]).append(f"  {plain(row['reason'])}", "dim")
        for row in report["variants"]
        if row.get("reason")
    ]
    table = Fitted(columns, groups=("verdict",), below={"verdict": below})
    for row in report["variants"]:
        latency = row.get("latency_ms") or {}
        chosen = row["name"] == report["selected"]
        table.add_row(
            text(row["name"], "bold green" if chosen else ""),
            Text(figures.show(row["quality_validation"], figures.quality)),
            Text(figures.show(row.get("size_bytes"), figures.bytes_)),
            Text(figures.show(latency.get("p50"), figures.milliseconds)),
            Text(figures.show(latency.get("p99"), figures.milliseconds)),
            Text(figures.show(row.get("throughput_per_s"), figures.rate)),
            text(row.get("reason") or "", "dim"),
        )
    return table


def _steps(report: Json) -> Fitted:
    priced = "money" if report["cost"]["measured_usd"] is not None else "none"
    columns = [
        Column(head="step", words=True),
        Column(head="predicted"),
        Column(head="measured"),
        Column(head="error"),
        Column(head="memory predicted", group="memory"),
        Column(head="measured", group="memory"),
        Column(head="USD predicted", group=priced),
        Column(head="measured", group=priced),
    ]
    table = Fitted(columns, groups=("money", "memory"))
    for step in report["steps"]:
        if step["state"] == "not reached":
            continue
        measured, comparison = step["measured"] or {}, step["comparison"] or {}
        outside = comparison and not comparison["within_interval"]
        error = figures.show(comparison.get("seconds_error"), figures.signed_percent)
        memory, usd = (
            [Text(figures.show(side.get(key), unit)) for side in (step["predicted"], measured)]
            for key, unit in (("peak_memory_bytes", figures.bytes_), ("usd", figures.usd))
        )
        table.add_row(
            _step_name(step),
            Text(figures.show(step["predicted"]["seconds"], figures.seconds)),
            Text(figures.show(measured.get("seconds"), figures.seconds)),
            Text(error, style="yellow" if outside else ""),
            *memory,
            *usd,
        )
    total, cost = report["prediction"], report["cost"]
    table.add_rule()
    table.add_row(
        Text("all", style="bold"),
        Text(figures.show(total["predicted_seconds"], figures.seconds)),
        Text(figures.show(total["measured_seconds"], figures.seconds), style="bold"),
        Text(figures.show(total["seconds_error"], figures.signed_percent)),
        Text(""),
        Text(""),
        *(Text(figures.show(cost[f"{key}_usd"], figures.usd)) for key in ("predicted", "measured")),
    )
    return table


def _step_name(step: Json) -> Text:
    state = step["state"] if step["state"] != "done" else "reused" if step["cached"] else ""
    name = text(step["name"])
    return name.append(f" {state}" if state else "", style="red" if state == "failed" else "dim")


def _files(report: Json, folder: Path | None) -> Iterator[Text]:
    words = (("model", "model"), ("report_html", "page"), ("pipeline_yaml", "pipeline"))
    for key, word in words:
        path = report["artifacts"].get(key)
        if path:
            shown = folder / path if folder else path
            # A path that is broken over lines can't be copied.
            yield Text(f"{word:10}{shown}", no_wrap=True, overflow="ignore")
