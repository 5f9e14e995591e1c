"""Charts as HTML and SVG: lines stretch with the page while every word keeps its size.

Marks are placed in percent, so the same chart reads at 390 and at 1440 pixels. Colours come from
the style sheet. Each chart has a caption, and its figures also stand in a table or a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pipelines.reporting import figures
from pipelines.reporting.markup import Markup, join, name, number, tag
from pipelines.reporting.scale import Scale, linear

MAX_LINE_POINTS = 400
Point = TypeVar("Point")


def axes(
    x: Scale,
    y: Scale,
    x_format: figures.Formatter,
    y_format: figures.Formatter,
    x_ticks: Sequence[float] | None = None,
) -> Markup:
    """Grid lines and tick labels of a plot."""
    parts = []
    for value in y.ticks(4):
        style = f"bottom:{y(value)}%"
        parts.append(tag("span", y_format(value), class_="tick y", style=style, aria_hidden="true"))
        parts.append(tag("i", class_="rule", style=style))
    for value in x.ticks(5) if x_ticks is None else x_ticks:
        style = f"left:{x(value)}%"
        parts.append(tag("span", x_format(value), class_="tick x", style=style, aria_hidden="true"))
    return join(parts)


def line(points: Sequence[tuple[float, float]], x: Scale, y: Scale, class_: str) -> Markup:
    """A polyline in an SVG that stretches over the plot."""
    where = " ".join(f"{x(a)},{round(100 - y(b), 2)}" for a, b in points)
    drawn = tag("polyline", points=where, class_=class_, vector_effect="non-scaling-stroke")
    return tag("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def dots(points: Sequence[tuple[float, float]], x: Scale, y: Scale, class_: str) -> Markup:
    """Many dots as one path of zero-length strokes: they stay round however the plot stretches."""
    where = "".join(f"M{x(a)} {round(100 - y(b), 2)}h0" for a, b in points)
    drawn = tag("path", d=where, class_=class_, vector_effect="non-scaling-stroke")
    return tag("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def curve(title: str, source: str, points: Sequence[tuple[float, float]]) -> Markup:
    """One panel of a learning curve: what, from where, its first and its last value."""
    shown = thin_out(points)
    x = linear([a for a, _ in shown], margin=0.0, least=1.0)
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
    first = number(points[0][1], _short)
    values = tag("span", f" {source}: ", first, " → ", number(last[1], _short), class_="sub")
    return tag("figure", tag("figcaption", tag("b", title), values), plot, class_="plot panel")


def thin_out(points: Sequence[Point]) -> list[Point]:
    """Keep at most `MAX_LINE_POINTS`, and always the last."""
    if not points:
        return []
    stride = -(-len(points) // MAX_LINE_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _short(value: float) -> str:
    return f"{value:.3g}"


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
