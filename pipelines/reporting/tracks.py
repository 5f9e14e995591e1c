"""Rows on one axis: predicted and measured time of each step, latency of each variant."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.markup import Markup, join, name, number, tag
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
    rows = [_interval_row(step, scale) for step in steps]
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
    return tag("figure", legend, *rows, axis, class_="intervals")


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
    return tag("figure", tag("p", *legend, class_="legend"), *body, axis, class_="intervals")


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
    words = join([number(v, figures.milliseconds) for v in (p50, p90, p99)], " · ")
    return tag(
        "div",
        tag("span", name(row["name"]), class_="who"),
        tag("div", *marks, class_="track", aria_hidden="true"),
        tag("span", words, class_="words"),
        class_="row",
    )
