"""The Pareto plot: money against time of every way to run, to be walked by mouse or keyboard."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.charts import axes, line
from pipelines.reporting.markup import Markup, escape, join, name, number, tag
from pipelines.reporting.scale import Scale, logarithmic, time_ticks

Json = dict[str, Any]


def pareto(alternatives: list[Json], id_: str) -> Markup:
    """Money against time of every alternative; the reader walks the points by mouse or arrow keys.

    The readout below the plot tells what the active point is, what it costs and why it was not
    taken; it starts with the chosen one.
    """
    points = [a for a in alternatives if figures.is_number(a.get("usd")) and a["usd"] > 0]
    if len(points) < 2:
        return Markup()
    x = logarithmic([a["seconds"] for a in points])
    y = logarithmic([a["usd"] for a in points])
    points = sorted(points, key=lambda a: (a["seconds"], a["usd"]))
    front = [(a["seconds"], a["usd"]) for a in points if a["on_front"]]
    options = [_option(f"{id_}-{index}", a, x, y) for index, a in enumerate(points)]
    chosen = next((i for i, a in enumerate(points) if a["chosen"]), 0)
    area = tag(
        "div",
        axes(x, y, figures.brief_seconds, figures.usd, time_ticks(x)),
        line(_staircase(front), x, y, "front") if len(front) > 1 else Markup(),
        *options,
        class_="area",
        role="listbox",
        tabindex="0",
        aria_label="Alternatives by time and price; arrow keys walk through them",
        aria_activedescendant=f"{id_}-{chosen}",
        data_active=chosen,
    )
    readout = tag("div", describe(points[chosen]), class_="readout", aria_live="polite")
    legend = tag(
        "p",
        tag("span", tag("i", class_="key chosen"), "chosen"),
        tag("span", tag("i", class_="key onfront"), "on the Pareto front"),
        tag("span", tag("i", class_="key beaten"), "beaten in both time and price"),
        class_="legend",
    )
    axis = tag("p", "price of the whole job against its time, both logarithmic", class_="soft note")
    return tag("figure", legend, area, axis, readout, class_="plot pareto")


def _option(id_: str, alternative: Json, x: Scale, y: Scale) -> Markup:
    kind = "beaten"
    if alternative["on_front"]:
        kind = "onfront"
    if alternative["chosen"]:
        kind = "chosen"
    return tag(
        "div",
        tag("span", describe(alternative), class_="hidden"),
        class_=f"point {kind}",
        role="option",
        id=id_,
        aria_selected="true" if alternative["chosen"] else "false",
        style=f"left:{x(alternative['seconds'])}%;bottom:{y(alternative['usd'])}%",
    )


def describe(alternative: Json) -> Markup:
    """One alternative in words: what, how long, how much, how sure, why or why not."""
    nodes = alternative["nodes"]
    facts = [
        tag("b", name(alternative["label"])),
        join([number(alternative["usd"], figures.usd), " for the job"]),
        number(alternative["seconds"], figures.seconds),
        join([number(nodes, figures.count), " × ", name(alternative["node"])]),
        alternative["capacity"],
        alternative["precision"],
    ]
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
