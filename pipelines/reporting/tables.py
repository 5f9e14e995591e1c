"""The plan and the receipt as terminal tables that a manager could read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.reporting import figures
from pipelines.reporting.decision import decision
from pipelines.reporting.markup import plain
from pipelines.reporting.words import METRIC_NAMES, STATUS_WORDS, kept_words

Json = dict[str, Any]
MAX_ALTERNATIVES = 8
GAIN_WORDS = (("times_smaller", "smaller"), ("times_faster", "faster"))


def _table(*columns: str, text: int = 1) -> Table:
    """A table whose first `text` columns hold words and whose others hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < text else "right")
    return made


def _text(value: object, style: str = "") -> Text:
    return Text(" ".join(plain(value).split()), style=style)


def _range(estimate: Json | None, formatter: figures.Formatter) -> str:
    """``9 min 30 s (7 min 36 s – 12 min 21 s)``."""
    if not estimate:
        return figures.MISSING
    low, high = (figures.show(estimate[key], formatter) for key in ("low", "high"))
    return f"{figures.show(estimate['value'], formatter)} ({low} – {high})"


# -- plan ------------------------------------------------------------------------------------------


def plan_blocks(plan: Json, *, explain: bool) -> Iterator[RenderableType]:
    """Yield the parts of a plan: what, how long, how much, where; `explain` adds the reasons."""
    made = decision(plan)
    model = plan["spec"].get("model") or {}
    what = f"{plan['name']}: {plan['task']} from {model.get('id') or model.get('config')}"
    yield _text(what, "bold")
    yield _promise(plan, made)
    yield _plan_steps(plan, explain)
    alternatives = _alternatives(made, MAX_ALTERNATIVES * (3 if explain else 1))
    if alternatives is not None:
        yield alternatives
    if explain:
        yield from _explanations(plan, made)
    for note in plan["notes"]:
        yield _text(f"note: {note}", "yellow")


def _promise(plan: Json, made: Json) -> Text:
    """Time and money against what the person allowed."""
    objective = plan["spec"].get("objective") or {}
    lines = [f"time  {_range(plan['seconds'], figures.seconds)}"]
    if objective.get("deadline"):
        lines[0] += f", deadline {objective['deadline']}"
    if plan["usd"]:
        lines.append(f"cost  {_range(plan['usd'], figures.usd)}")
        if objective.get("budget_usd"):
            lines[1] += f", budget {figures.usd(objective['budget_usd'])}"
    else:
        lines.append("cost  no price known: set objective.here_usd_per_hour")
    where = "this machine"
    if made["node"] != "here":
        where = f"{made['nodes']} × {made['node']}, {made['capacity']}"
    lines.append(f"train on {where}: {made['why']}")
    return Text("\n".join(plain(line) for line in lines))


def _plan_steps(plan: Json, explain: bool) -> Table:
    heads = ["step", "runs on", "time", "80 % interval", "cost", "CPU", "memory", "GPU"]
    table = _table(*heads, *(["why"] if explain else []), text=2)
    for step in plan["steps"]:
        seconds, resources = step["seconds"], step["resources"]
        low, high = (figures.seconds(seconds[key]) for key in ("low", "high"))
        capacity = "" if step["capacity"] in ("here", "on-demand") else f" {step['capacity']}"
        cells = [
            _text(step["step"], "bold"),
            _text(step["node"] + capacity),
            Text(figures.seconds(seconds["value"])),
            Text(f"{low} – {high}", style="dim"),
            Text(figures.usd(step["usd"]["value"]) if step["usd"] else figures.MISSING),
            Text(f"{resources['cpu_millicores'] / 1000:g}"),
            Text(figures.bytes_(resources["memory_bytes"])),
            Text(str(resources["gpu_count"] or figures.MISSING)),
        ]
        table.add_row(*cells, *([_text(step["why"], "dim")] if explain else []))
    if explain:
        table.columns[-1].justify = "left"
    return table


def _alternatives(made: Json, limit: int) -> Table | None:
    """The chosen way to run and the best others, each with its reason."""
    rows = [a for a in made["alternatives"] if a["on_front"] or a["chosen"]]
    rows += [a for a in made["alternatives"] if a not in rows]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda a: (not a["chosen"], not a["on_front"], a["usd"] or 0.0, a["seconds"]))
    table = _table("", "way to run", "why, or why not", "time", "cost", "risk", text=3)
    table.title, table.title_justify, table.title_style = "Alternatives", "left", "bold"
    for row in rows[:limit]:
        sign = Text("→", style="green bold") if row["chosen"] else Text("")
        table.add_row(
            sign,
            _text(row["label"], "bold" if row["chosen"] else ""),
            _text(row["reason"], "dim"),
            Text(figures.seconds(row["seconds"])),
            Text(figures.show(row["usd"], figures.usd)),
            Text(figures.show(row["risk"], figures.percent)),
        )
    return table


def _explanations(plan: Json, made: Json) -> Iterator[RenderableType]:
    first, found = made["first_order"], made["candidates"]
    if found:
        words = [f"{value:,} {key}" for key, value in found.items()]
        yield _text("ways to run: " + ", ".join(words))
    if figures.is_number(first.get("seconds")):
        yield Text("First-order formula beside the full model", style="bold")
        if first.get("text"):
            yield Text("\n".join(plain(line) for line in str(first["text"]).splitlines()))
        table = _table("", "time", "cost")
        cost = figures.show(first.get("usd"), figures.usd)
        table.add_row(Text("first-order"), Text(figures.seconds(first["seconds"])), Text(cost))
        full = figures.show((plan["usd"] or {}).get("value"), figures.usd)
        table.add_row(
            Text("full model"), Text(figures.seconds(plan["seconds"]["value"])), Text(full)
        )
        yield table
    if plan["storage"]:
        table = _table("artifact", "tier", "why there", "size", "USD a month", text=3)
        for row in plan["storage"]:
            size = figures.show(row.get("bytes"), figures.bytes_)
            monthly = figures.show(row.get("usd_per_month"), figures.usd)
            cells = [_text(row.get(key, "")) for key in ("artifact", "tier", "reason")]
            table.add_row(*cells, Text(size), Text(monthly))
        yield table


# -- receipt ---------------------------------------------------------------------------------------


def receipt_blocks(report: Json, folder: Path | None) -> Iterator[RenderableType]:
    """Yield the parts of a receipt: verdict or error, variants, steps, where the files are."""
    yield Text("")
    yield _verdict(report)
    if any(row.get("size_bytes") for row in report["variants"]):
        yield _variants(report)
    yield _steps(report)
    missed = [step["name"] for step in report["steps"] if step["state"] == "not reached"]
    if missed:
        yield _text(f"not reached: {', '.join(missed)}", "dim")
    free = report["unrestricted"]
    if free is not None:
        where = f"{free['nodes']} × {free['node']} {free['capacity']}"
        time_, money = _range(free["seconds"], figures.seconds), _range(free["usd"], figures.usd)
        yield _text(f"with any hardware: {where}, {time_}, {money}", "dim")
    yield from _files(report, folder)


def _verdict(report: Json) -> Text:
    if report["error"]:
        status = STATUS_WORDS.get(report["status"], report["status"])
        line = Text(f"{status} at step {plain(report['error']['step'])}", style="bold red")
        done = report["progress"]
        line.append(f"; {done['done']} of {done['steps']} steps are kept", style="default not bold")
        return line
    quality, verdict = report["quality"], report["verdict"]
    metric = METRIC_NAMES.get(str(quality["metric"]), str(quality["metric"]))
    line = Text(plain(report["selected"]), style="bold green")
    kept, tuned = (figures.show(quality[key], figures.quality) for key in ("selected", "tuned"))
    verb, link = kept_words(report)
    parts = [f" {verb} {kept} {link} {tuned} {metric}"]
    if verdict["selected"] != verdict["reference"]:
        gains = [(verdict[key], word) for key, word in GAIN_WORDS if verdict[key] is not None]
        parts += [f"{figures.ratio(gain)} {word}" for gain, word in gains]
    line.append(", ".join(parts), style="bold default")
    return line


def _variants(report: Json) -> Table:
    table = _table("variant", "validation", "size", "p50", "p99", "requests/s")
    table.add_column("verdict", overflow="fold")
    for row in report["variants"]:
        latency = row.get("latency_ms") or {}
        chosen = row["name"] == report["selected"]
        table.add_row(
            _text(row["name"], "bold green" if chosen else ""),
            Text(figures.show(row["quality_validation"], figures.quality)),
            Text(figures.show(row.get("size_bytes"), figures.bytes_)),
            Text(figures.show(latency.get("p50"), figures.milliseconds)),
            Text(figures.show(latency.get("p99"), figures.milliseconds)),
            Text(figures.show(row.get("throughput_per_s"), figures.rate)),
            _text(row.get("reason") or "", "dim"),
        )
    return table


def _steps(report: Json) -> Table:
    priced = report["cost"]["measured_usd"] is not None
    heads = ["step", "predicted", "measured", "error", "memory predicted", "measured"]
    table = _table(*heads, *(["USD predicted", "measured"] if priced else []))
    table.columns[0].no_wrap = True
    for step in report["steps"]:
        if step["state"] == "not reached":
            continue
        measured, comparison = step["measured"] or {}, step["comparison"] or {}
        outside = comparison and not comparison["within_interval"]
        error = figures.show(comparison.get("seconds_error"), figures.signed_percent)
        usd = [figures.show(s.get("usd"), figures.usd) for s in (step["predicted"], measured)]
        table.add_row(
            _step_name(step),
            Text(figures.show(step["predicted"]["seconds"], figures.seconds)),
            Text(figures.show(measured.get("seconds"), figures.seconds)),
            Text(error, style="yellow" if outside else ""),
            Text(figures.show(step["predicted"].get("peak_memory_bytes"), figures.bytes_)),
            Text(figures.show(measured.get("peak_memory_bytes"), figures.bytes_)),
            *(map(Text, usd) if priced else []),
        )
    total, cost = report["prediction"], report["cost"]
    totals = [figures.show(cost[f"{key}_usd"], figures.usd) for key in ("predicted", "measured")]
    table.add_section()
    table.add_row(
        Text("all", style="bold"),
        Text(figures.show(total["predicted_seconds"], figures.seconds)),
        Text(figures.show(total["measured_seconds"], figures.seconds), style="bold"),
        Text(figures.show(total["seconds_error"], figures.signed_percent)),
        Text(""),
        Text(""),
        *(map(Text, totals) if priced else []),
    )
    return table


def _step_name(step: Json) -> Text:
    state = step["state"] if step["state"] != "done" else "reused" if step["cached"] else ""
    name = _text(step["name"])
    return name.append(f" {state}" if state else "", style="red" if state == "failed" else "dim")


def _files(report: Json, folder: Path | None) -> Iterator[Text]:
    words = (("model", "model"), ("report_html", "page"), ("pipeline_yaml", "pipeline"))
    for key, word in words:
        path = report["artifacts"].get(key)
        if path:
            shown = folder / path if folder else path
            yield Text(f"{word:10}{shown}")
