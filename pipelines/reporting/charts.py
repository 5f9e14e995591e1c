"""Charts as HTML and SVG: lines stretch with the page while every word keeps its size.

Marks are placed in percent, so the same chart reads at 390 and at 1440 pixels. Colours come from
the style sheet. Each chart has a figure caption, and its figures also stand in a table or a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.markup import Markup, escape, join, name, number, tag
from pipelines.reporting.scale import Scale, linear, logarithmic

Json = dict[str, Any]
MAX_LINE_POINTS = 400


def axes(x: Scale, y: Scale, x_format: figures.Formatter, y_format: figures.Formatter) -> Markup:
    """Grid lines and tick labels of a plot."""
    parts = []
    for value in y.ticks(4):
        style = f"bottom:{y(value)}%"
        parts.append(tag("span", y_format(value), class_="tick y", style=style, aria_hidden="true"))
        parts.append(tag("i", class_="rule", style=style))
    for value in x.ticks(5):
        style = f"left:{x(value)}%"
        parts.append(tag("span", x_format(value), class_="tick x", style=style, aria_hidden="true"))
    return join(parts)


def line(points: Sequence[tuple[float, float]], x: Scale, y: Scale, class_: str) -> Markup:
    """A polyline in an SVG that stretches over the plot."""
    where = " ".join(f"{x(a)},{round(100 - y(b), 2)}" for a, b in points)
    drawn = tag("polyline", points=where, class_=class_, vector_effect="non-scaling-stroke")
    return tag("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def curve(title: str, points: Sequence[tuple[float, float]], x_name: str) -> Markup:
    """One panel of a learning curve, with its last and best value written out."""
    shown = thin_out(points)
    x = linear([a for a, _ in shown], margin=0.0)
    y = linear([b for _, b in shown], margin=0.12)
    last = shown[-1]
    dot = tag("i", class_="dot", style=f"left:{x(last[0])}%;bottom:{y(last[1])}%")
    marks = join(
        tag("i", class_="dot small", style=f"left:{x(a)}%;bottom:{y(b)}%") for a, b in shown[:-1]
    )
    plot = tag(
        "div",
        axes(x, y, figures.count, _short),
        line(shown, x, y, "series"),
        marks if len(shown) <= 20 else Markup(),
        dot,
        class_="area",
    )
    text = join(
        [
            tag("b", title),
            " · from ",
            number(points[0][1], _short),
            " to ",
            number(last[1], _short),
            tag("span", f" by {x_name} ", class_="soft"),
            number(last[0], figures.count),
        ]
    )
    return tag("figure", tag("figcaption", text), plot, class_="plot panel")


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep at most `MAX_LINE_POINTS`, always the last."""
    stride = -(-len(points) // MAX_LINE_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _short(value: float) -> str:
    return f"{value:.3g}"


def intervals(steps: list[Json]) -> Markup:
    """Predicted interval, predicted value and measured value of each step on one time axis."""
    values = [s["predicted"][key] for s in steps for key in ("low", "high", "seconds")]
    values += [s["measured"]["seconds"] for s in steps if s["measured"]]
    values = [value for value in values if figures.is_number(value) and value > 0]
    if not values:
        return Markup()
    scale = logarithmic(values, margin=0.03)
    rows = [_interval_row(step, scale) for step in steps]
    ticks = [
        tag("span", figures.seconds(t), class_="tick x", style=f"left:{scale(t)}%")
        for t in scale.ticks(5)
    ]
    axis = tag("div", tag("div", *ticks, class_="track"), class_="row axis", aria_hidden="true")
    legend = tag(
        "p",
        tag("span", tag("i", class_="key band"), "predicted, 80 % interval"),
        tag("span", tag("i", class_="key pin"), "predicted"),
        tag("span", tag("i", class_="key dot"), "measured"),
        tag("span", tag("i", class_="key dot miss"), "measured, outside the interval"),
        class_="legend",
    )
    return tag("figure", legend, *rows, axis, class_="intervals")


def _interval_row(step: Json, scale: Scale) -> Markup:
    predicted, measured, comparison = step["predicted"], step["measured"], step["comparison"]
    low, high = scale(predicted["low"]), scale(predicted["high"])
    marks = [
        tag("i", class_="band", style=f"left:{low}%;width:{round(max(high - low, 0.4), 2)}%"),
        tag("i", class_="pin", style=f"left:{scale(predicted['seconds'])}%"),
    ]
    if comparison:
        state = "dot" if comparison["within_interval"] else "dot miss"
        state += " cached" if step["cached"] else ""
        marks.append(tag("i", class_=state, style=f"left:{scale(measured['seconds'])}%"))
    words = [
        number(measured["seconds"], figures.seconds) if measured else tag("i", step["state"]),
        tag("span", " of ", number(predicted["seconds"], figures.seconds), class_="soft"),
    ]
    if step["cached"]:
        words.append(tag("span", " reused", class_="soft"))
    return tag(
        "div",
        tag("span", name(step["name"]), class_="who"),
        tag("div", *marks, class_="track", aria_hidden="true"),
        tag("span", *words, class_="words"),
        class_="row",
    )


def latencies(variants: list[Json], limit_ms: float | None) -> Markup:
    """p50, p90 and p99 of each variant on one axis, with the limit that the spec sets."""
    rows = [v for v in variants if (v.get("latency_ms") or {}).get("p50") is not None]
    if not rows:
        return Markup()
    values = [v["latency_ms"][q] for v in rows for q in ("p50", "p90", "p99")]
    near = limit_ms is not None and limit_ms <= 4 * max(values)
    scale = linear([0.0, *values, *([limit_ms] if near and limit_ms else [])], from_zero=True)
    body = [_latency_row(row, scale, limit_ms if near else None) for row in rows]
    ticks = [
        tag("span", f"{t:g} ms", class_="tick x", style=f"left:{scale(t)}%") for t in scale.ticks(5)
    ]
    axis = tag("div", tag("div", *ticks, class_="track"), class_="row axis", aria_hidden="true")
    legend = [
        tag("span", tag("i", class_="key dot"), "p50"),
        tag("span", tag("i", class_="key ring"), "p90"),
        tag("span", tag("i", class_="key pin"), "p99"),
    ]
    if limit_ms is not None:
        wording = tag("span", "p99 limit ", number(limit_ms, figures.milliseconds))
        legend.append(tag("span", tag("i", class_="key limit"), wording))
        if not near:
            legend[-1] = tag("span", wording, ", beyond this axis")
    return tag("figure", tag("p", *legend, class_="legend"), *body, axis, class_="intervals")


def _latency_row(row: Json, scale: Scale, limit_ms: float | None) -> Markup:
    p50, p90, p99 = (row["latency_ms"][q] for q in ("p50", "p90", "p99"))
    left, right = scale(p50), scale(p99)
    marks = [
        tag("i", class_="band", style=f"left:{left}%;width:{round(right - left, 2)}%"),
        tag("i", class_="pin", style=f"left:{right}%"),
        tag("i", class_="ring", style=f"left:{scale(p90)}%"),
        tag("i", class_="dot", style=f"left:{left}%"),
    ]
    if limit_ms is not None:
        marks.append(tag("i", class_="limit", style=f"left:{scale(limit_ms)}%"))
    words = join([number(v, figures.milliseconds) for v in (p50, p90, p99)], " · ")
    return tag(
        "div",
        tag("span", name(row["name"]), class_="who"),
        tag("div", *marks, class_="track", aria_hidden="true"),
        tag("span", words, class_="words"),
        class_="row",
    )


def pareto(alternatives: list[Json]) -> Markup:
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
    options = [_option(index, a, x, y) for index, a in enumerate(points)]
    chosen = next((i for i, a in enumerate(points) if a["chosen"]), 0)
    area = tag(
        "div",
        axes(x, y, figures.seconds, figures.usd),
        line(_staircase(front), x, y, "front") if len(front) > 1 else Markup(),
        *options,
        class_="area",
        role="listbox",
        tabindex="0",
        aria_label="Alternatives by time and price; arrow keys walk through them",
        aria_activedescendant=f"alternative-{chosen}",
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
    return tag("figure", legend, area, axis, readout, class_="plot pareto", id="pareto")


def _option(index: int, alternative: Json, x: Scale, y: Scale) -> Markup:
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
        id=f"alternative-{index}",
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


def bar(fraction: float, class_: str = "") -> Markup:
    """A thin bar filled to `fraction`."""
    width = round(100 * min(max(fraction, 0.0), 1.0), 1)
    return tag("span", tag("i", style=f"width:{width}%"), class_=f"bar {class_}".strip())


def heat(labels: list[str], matrix: list[list[float]]) -> Markup:
    """A confusion matrix as a table tinted by the share of each true label."""
    head = [tag("th", tag("span", "true \\ predicted", class_="soft"), scope="col")]
    head += [tag("th", tag("span", name(label)), scope="col") for label in labels]
    rows = []
    for index, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        total = sum(counts) or 1
        cells = [tag("th", name(label), scope="row")]
        for column, value in enumerate(counts):
            share = value / total
            cells.append(
                tag(
                    "td",
                    number(value, figures.count) if value else tag("span", "·", class_="none"),
                    class_="hit" if column == index else "error",
                    style=f"--share:{round(share**0.5, 3)}" if value else None,
                )
            )
        rows.append(tag("tr", *cells))
    grid = tag(
        "table",
        tag("caption", "Confusion matrix: rows are true labels, columns predictions",
            class_="hidden"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        class_="heat",
    )  # fmt: skip
    return tag(
        "div", grid, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix"
    )
