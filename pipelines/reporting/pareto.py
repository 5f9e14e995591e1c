"""The Pareto plot: money against time of every way to run, to be walked by mouse or keyboard."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.charts import axes, line
from pipelines.reporting.markup import Markup, escape, join, name, number, tag
from pipelines.reporting.scale import Scale, logarithmic, time_ticks

Json = dict[str, Any]
# A limit this many times beyond the farthest point would only squeeze the points together.
NEAR = 2.0
LEAST_POINTS = 3  # fewer are no front: a table says more
KINDS = (
    ("chosen", "chosen"),
    ("onfront", "on the Pareto front"),
    ("beaten", "beaten in both time and price"),
    ("naive", "one node kept throughout"),
)


def pareto(made: Json, id_: str) -> Markup:
    """Money against time of every alternative; the reader walks the points by mouse or arrow keys.

    The readout below the plot tells what the active point is, what it costs and why it was not
    taken; it starts with the chosen one. The naive plan stands beside the others, and deadline and
    budget where they are near.
    """
    points = [a for a in made["alternatives"] if _drawable(a)]
    if len(points) < LEAST_POINTS:
        return Markup()
    naive = _naive(made)
    points = sorted([*points, *([naive] if naive else [])], key=lambda a: (a["seconds"], a["usd"]))
    x, deadline = _axis([a["seconds"] for a in points], made.get("deadline_s"))
    y, budget = _axis([a["usd"] for a in points], made.get("budget_usd"))
    front = [(a["seconds"], a["usd"]) for a in points if a["on_front"]]
    chosen = next((i for i, a in enumerate(points) if a["chosen"]), 0)
    area = tag(
        "div",
        axes(x, y, figures.brief_seconds, figures.usd, time_ticks(x)),
        _limit("deadline", deadline, x, figures.seconds),
        _limit("budget", budget, y, figures.usd),
        line(_staircase(front), x, y, "front") if len(front) > 1 else Markup(),
        *(_option(f"{id_}-{index}", a, x, y) for index, a in enumerate(points)),
        class_="area",
        role="listbox",
        tabindex="0",
        aria_label="Alternatives by time and price; arrow keys walk through them",
        aria_activedescendant=f"{id_}-{chosen}",
        data_active=chosen,
    )
    readout = tag("div", describe(points[chosen]), class_="readout", aria_live="polite")
    axis = tag("p", "price of the whole job against its time, both logarithmic", class_="soft note")
    shown = {_kind(a) for a in points}
    return tag("figure", _legend(shown), area, axis, readout, class_="plot pareto")


def _drawable(alternative: Json) -> bool:
    seconds, usd = alternative.get("seconds"), alternative.get("usd")
    return all(figures.is_number(value) and value > 0 for value in (seconds, usd))  # type: ignore[operator]


def _legend(shown: set[str]) -> Markup:
    keys = [
        tag("span", tag("i", class_=f"key {kind}"), words) for kind, words in KINDS if kind in shown
    ]
    return tag("p", *keys, class_="legend")


def _naive(made: Json) -> Json | None:
    """The naive plan as one more point: the training node on demand from the first step on."""
    usd, seconds = made.get("one_node_usd"), (made.get("seconds") or {}).get("value")
    if not figures.is_number(usd) or not figures.is_number(seconds):
        return None
    return {
        "label": "one node kept throughout",
        "node": made["node"],
        "nodes": made["nodes"],
        "capacity": "on-demand",
        "precision": None,
        "seconds": seconds,
        "usd": usd,
        "on_front": False,
        "chosen": False,
        "naive": True,
        "reason": "the naive plan: the training node for every step, from the first to the last",
    }


def _axis(values: list[float], limit: object) -> tuple[Scale, float | None]:
    """The scale of `values`, wide enough for a limit that is near; the limit if it shows."""
    near = figures.is_number(limit) and min(values) / NEAR <= limit <= max(values) * NEAR  # type: ignore[operator]
    shown = float(limit) if near else None  # type: ignore[arg-type]
    return logarithmic([*values, *([shown] if shown is not None else [])]), shown


def _limit(word: str, value: float | None, scale: Scale, formatter: figures.Formatter) -> Markup:
    if value is None:
        return Markup()
    side = "left" if word == "deadline" else "bottom"
    words = tag("span", f"{word} ", number(value, formatter))
    return tag("i", words, class_=f"bound {word}", style=f"{side}:{scale(value)}%")


def _kind(alternative: Json) -> str:
    if alternative["chosen"]:
        return "chosen"
    if alternative.get("naive"):
        return "naive"
    return "onfront" if alternative["on_front"] else "beaten"


def _option(id_: str, alternative: Json, x: Scale, y: Scale) -> Markup:
    return tag(
        "div",
        tag("span", describe(alternative), class_="hidden"),
        class_=f"point {_kind(alternative)}",
        role="option",
        id=id_,
        aria_selected="true" if alternative["chosen"] else "false",
        style=f"left:{x(alternative['seconds'])}%;bottom:{y(alternative['usd'])}%",
    )


def describe(alternative: Json) -> Markup:
    """One alternative in words: what, how long, how much, how sure, why or why not.

    What its label says already is not said again.
    """
    label = str(alternative["label"])
    facts: list[object] = [
        tag("b", name(label)),
        join([number(alternative["usd"], figures.usd), " for the job"]),
        number(alternative["seconds"], figures.seconds),
    ]
    node = str(alternative["node"])
    if node not in label:
        nodes = number(alternative["nodes"], figures.count)
        facts.append(join([nodes, " × ", name(node)]))
    for key in ("capacity", "precision"):
        value = alternative.get(key)
        if value and str(value) not in label:
            facts.append(value)
    if figures.is_number(alternative.get("risk")):
        risk = number(alternative["risk"], figures.percent)
        facts.append(join([risk, " risk of missing the deadline"]))
    reason = tag("span", escape(alternative["reason"]), class_="reason")
    return join([join(facts, " · "), reason], " ")


def _staircase(front: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A front bends at right angles: between two points nothing better is known."""
    drawn = [front[0]]
    for point in front[1:]:
        drawn += [(point[0], drawn[-1][1]), point]
    return drawn
