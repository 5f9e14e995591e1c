"""Rows on one axis: predicted and measured time of each step, latency of each variant."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.markup import Markup, name, number, tag
from pipelines.reporting.scale import Scale, linear, logarithmic, time_ticks

Json = dict[str, Any]


def intervals(steps: list[Json]) -> Markup:
    """Predicted interval, predicted value and measured value of each step on one time axis."""
    values = [s["predicted"][key] for s in steps for key in ("low", "high", "seconds")]
    values += [s["measured"]["seconds"] for s in steps if s["measured"]]
    values = [value for value in values if figures.is_number(value) and value > 0]
    if not values:
        return Markup()
    scale = logarithmic(values, margin=0.03)
    rows = [_heads("measured", "predicted"), *(_interval_row(step, scale) for step in steps)]
    ticks = [
        tag("span", figures.brief_seconds(t), class_="tick x", style=f"left:{scale(t)}%")
        for t in time_ticks(scale)
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
    return tag("figure", legend, *rows, axis, class_="intervals two")


def _heads(*names: str) -> Markup:
    """What the figures at the end of each row are."""
    cells = [tag("span", name, class_="words soft") for name in names]
    return tag("div", tag("span", class_="who"), *cells, class_="row heads", aria_hidden="true")


def _said(value: object, word: str, class_: str = "") -> Markup:
    """One figure at the end of a row; its column's name is read out with it."""
    hidden = tag("span", f" {word} ", class_="hidden")
    return tag("span", value, hidden, class_=f"words {class_}".strip())


def _interval_row(step: Json, scale: Scale) -> Markup:
    predicted, measured, comparison = step["predicted"], step["measured"], step["comparison"]
    marks = []
    if figures.is_number(predicted["low"]) and figures.is_number(predicted["high"]):
        low, high = scale(predicted["low"]), scale(predicted["high"])
        width = round(max(high - low, 0.4), 2)
        marks.append(tag("i", class_="band", style=f"left:{low}%;width:{width}%"))
    if figures.is_number(predicted["seconds"]):
        marks.append(tag("i", class_="pin", style=f"left:{scale(predicted['seconds'])}%"))
    if comparison:
        state = "dot" if comparison["within_interval"] else "dot miss"
        state += " cached" if step["cached"] else ""
        marks.append(tag("i", class_=state, style=f"left:{scale(measured['seconds'])}%"))
    reused = tag("span", " reused", class_="state") if step["cached"] else ""
    took = number(measured["seconds"], figures.seconds) if measured else None
    ending = tag("span", step["state"], class_="state")
    return tag(
        "div",
        tag("span", name(step["name"]), reused, class_="who"),
        tag("div", *marks, class_="track", aria_hidden="true"),
        _said(took or ending, "measured"),
        _said(number(predicted["seconds"], figures.seconds), "predicted", "soft"),
        class_=f"row {_row_class(step)}".strip(),
    )


def _row_class(step: Json) -> str:
    return {"done": "", "failed": "failed", "broken off": "failed"}.get(step["state"], "later")


def latencies(variants: list[Json], limit_ms: float | None) -> Markup:
    """p50, p90 and p99 of each variant on one axis, with the limit that the spec sets."""
    rows = [v for v in variants if all(map(figures.is_number, _quantiles(v)))]
    if not rows:
        return Markup()
    values = [value for row in rows for value in _quantiles(row)]
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
    heads = _heads("p50", "p90", "p99")
    words = tag("p", *legend, class_="legend")
    return tag("figure", words, heads, *body, axis, class_="intervals three")


def _quantiles(row: Json) -> list[Any]:
    latency = row.get("latency_ms") or {}
    return [latency.get(quantile) for quantile in ("p50", "p90", "p99")]


def _latency_row(row: Json, scale: Scale, limit_ms: float | None) -> Markup:
    p50, p90, p99 = _quantiles(row)
    left, right = scale(p50), scale(p99)
    marks = [
        tag("i", class_="band", style=f"left:{left}%;width:{round(right - left, 2)}%"),
        tag("i", class_="pin", style=f"left:{right}%"),
        tag("i", class_="ring", style=f"left:{scale(p90)}%"),
        tag("i", class_="dot", style=f"left:{left}%"),
    ]
    if limit_ms is not None:
        marks.append(tag("i", class_="limit", style=f"left:{scale(limit_ms)}%"))
    return tag(
        "div",
        tag("span", name(row["name"]), class_="who"),
        tag("div", *marks, class_="track", aria_hidden="true"),
        *(
            _said(number(value, figures.milliseconds), word)
            for word, value in (("p50", p50), ("p90", p90), ("p99", p99))
        ),
        class_="row",
    )
