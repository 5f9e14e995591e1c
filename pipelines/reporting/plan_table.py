"""The plan as a terminal table that a manager could read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from pipelines.reporting import figures
from pipelines.reporting.decision import decision
from pipelines.reporting.fitted import Column, Fitted, text
from pipelines.reporting.markup import plain

Json = dict[str, Any]
MAX_ALTERNATIVES = 6
INDENT = 4


def estimate_text(estimate: Json | None, formatter: figures.Formatter) -> str:
    """``9 min 30 s (7 min 36 s – 12 min 21 s)``."""
    if not estimate:
        return figures.MISSING
    low, high = (figures.show(estimate[key], formatter) for key in ("low", "high"))
    return f"{figures.show(estimate['value'], formatter)} ({low} – {high})"


def plan_blocks(plan: Json, *, explain: bool) -> Iterator[RenderableType]:
    """Yield the parts of a plan: what, how long, how much, where; `explain` adds the reasons."""
    made = decision(plan)
    model = plan["spec"].get("model") or {}
    what = f"{plan['name']}: {plan['task']} from {model.get('id') or model.get('config')}"
    yield text(what, "bold")
    yield from _promise(plan, made)
    yield _steps(plan)
    if explain:
        yield from _reasons(plan)
    alternatives = _Alternatives(made, MAX_ALTERNATIVES * (4 if explain else 1))
    if alternatives.worth_showing:
        yield alternatives
    if explain:
        yield from _explanations(plan, made)
    for note in plan["notes"]:
        yield text(f"note: {note}", "yellow")


def _promise(plan: Json, made: Json) -> Iterator[Text]:
    """Time and money against what the person allowed, and against the naive plan."""
    objective = plan["spec"].get("objective") or {}
    deadline, budget = objective.get("deadline"), objective.get("budget_usd")
    words = estimate_text(plan["seconds"], figures.seconds)
    yield _line("time", words + (f", deadline {deadline}" if deadline else ""))
    if not plan["usd"]:
        yield _line("cost", "no price known: set objective.here_usd_per_hour")
    else:
        words = estimate_text(plan["usd"], figures.usd)
        yield _line("cost", words + (f", budget {figures.usd(budget)}" if budget else ""))
    if figures.is_number(made["one_node_usd"]) and figures.is_number(made["times_cheaper"]):
        naive = f"{figures.usd(made['one_node_usd'])} with one node kept throughout, "
        yield _line("naive", f"{naive}{figures.ratio(made['times_cheaper'])} as much")
    where = "this machine"
    if made["node"] != "here":
        where = f"{made['nodes']} × {made['node']}, {made['capacity']}"
    yield _line("train", where)
    yield _line("why", made["why"])


def _line(word: str, value: object) -> Text:
    return Text(f"{word:7}", style="dim").append_text(text(value, "not dim"))


def _steps(plan: Json) -> Fitted:
    gpus = any(step["resources"]["gpu_count"] for step in plan["steps"])
    columns = [
        Column(head="step", words=True),
        Column(head="runs on", words=True),
        Column(head="time"),
        Column(head="80 % interval", group="interval"),
        Column(head="cost"),
        Column(head="CPU", group="requests"),
        Column(head="memory", group="requests"),
        Column(head="GPU", group="requests" if gpus else "none"),
    ]
    table = Fitted(columns, groups=("interval", "requests"))
    for step in plan["steps"]:
        seconds, resources = step["seconds"], step["resources"]
        low, high = (figures.seconds(seconds[key]) for key in ("low", "high"))
        capacity = "" if step["capacity"] in ("here", "on-demand") else f" {step['capacity']}"
        table.add_row(
            text(step["step"], "bold"),
            text(step["node"] + capacity),
            Text(figures.seconds(seconds["value"])),
            Text(f"{low} – {high}", style="dim"),
            Text(figures.usd(step["usd"]["value"]) if step["usd"] else figures.MISSING),
            Text(f"{resources['cpu_millicores'] / 1000:g}"),
            Text(figures.bytes_(resources["memory_bytes"])),
            Text(str(resources["gpu_count"] or figures.MISSING)),
        )
    return table


def _reasons(plan: Json) -> Iterator[RenderableType]:
    """Why each step runs where it does; steps with the same reason stand together."""
    steps: dict[str, list[str]] = {}
    for step in plan["steps"]:
        if step["why"]:
            steps.setdefault(step["why"], []).append(step["step"])
    if steps:
        yield Text("Why", style="bold")
    for why, names in steps.items():
        yield text(", ".join(names))
        yield text(why, "dim")
    yield Text("")


class _Alternatives:
    """The chosen way to run and the best others, each with its reason beside it or below it."""

    def __init__(self, made: Json, limit: int) -> None:
        rows = [a for a in made["alternatives"] if a["on_front"] or a["chosen"]]
        rows += [a for a in made["alternatives"] if a not in rows]
        rows.sort(key=lambda a: (not a["chosen"], not a["on_front"], a["usd"] or 0.0, a["seconds"]))
        self._rows = rows[:limit]
        self.worth_showing = len(rows) > 1

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield Text("Alternatives", style="bold")
        cells = [_alternative(row) for row in self._rows]
        widths = [max(cell_len(line[i]) for line in cells) for i in range(4)]
        widths[0] = min(widths[0], max(16, options.max_width - sum(widths[1:]) - 11))
        reasons = [text(row["reason"], "dim not bold") for row in self._rows]
        room = options.max_width - sum(widths) - 14
        beside = max(cell_len(reason.plain) for reason in reasons) <= room
        for row, line, reason in zip(self._rows, cells, reasons, strict=True):
            chosen = row["chosen"]
            made = Text("→ " if chosen else "  ", style="bold green")
            label = Text(line[0], style="bold" if chosen else "not bold default")
            label.truncate(widths[0], overflow="ellipsis", pad=True)
            made.append_text(label)
            for cell, width in zip(line[1:], widths[1:], strict=True):
                made.append(f"   {' ' * (width - cell_len(cell))}{cell}", "not bold default")
            if beside:
                yield made.append("   ").append_text(reason)
            else:
                yield made
                yield Text(" " * INDENT).append_text(reason)
        yield Text("")


def _alternative(row: Json) -> tuple[str, str, str, str]:
    return (
        " ".join(plain(row["label"]).split()),
        figures.seconds(row["seconds"]),
        figures.show(row["usd"], figures.usd),
        f"{figures.show(row['risk'], figures.percent)} risk",
    )


def _explanations(plan: Json, made: Json) -> Iterator[RenderableType]:
    first, found = made["first_order"], made["candidates"]
    if found:
        words = [f"{value:,} {key}" for key, value in found.items()]
        yield text("ways to run: " + ", ".join(words))
    if figures.is_number(first.get("seconds")):
        yield Text("First-order formula beside the full model", style="bold")
        if first.get("text"):
            yield Text("\n".join(plain(line) for line in str(first["text"]).splitlines()))
        table = Fitted([Column(head="", words=True), Column(head="time"), Column(head="cost")])
        cost = figures.show(first.get("usd"), figures.usd)
        table.add_row(Text("first-order"), Text(figures.seconds(first["seconds"])), Text(cost))
        full = figures.show((plan["usd"] or {}).get("value"), figures.usd)
        table.add_row(
            Text("full model"), Text(figures.seconds(plan["seconds"]["value"])), Text(full)
        )
        yield table
    if plan["storage"]:
        columns = [
            Column(head="artifact", words=True),
            Column(head="tier", words=True),
            Column(head="size"),
            Column(head="USD a month"),
            Column(head="why there", words=True),
        ]
        storage = Fitted(columns)
        for row in plan["storage"]:
            size = figures.show(row.get("bytes"), figures.bytes_)
            monthly = figures.show(row.get("usd_per_month"), figures.usd)
            artifact, tier, reason = (text(row.get(k, "")) for k in ("artifact", "tier", "reason"))
            storage.add_row(artifact, tier, Text(size), Text(monthly), reason)
        yield storage
