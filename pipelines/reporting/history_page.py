"""history.html: the page over many runs, as self-contained as the receipt of one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from pipelines.reporting import figures
from pipelines.reporting.charts import axes, dots, line, thin_out
from pipelines.reporting.history import WINDOW, history
from pipelines.reporting.html import page
from pipelines.reporting.markup import Markup, embedded_json, escape, join, name, number, table, tag
from pipelines.reporting.scale import Scale, linear
from pipelines.reporting.sections_result import section
from pipelines.reporting.words import METRIC_NAMES, STATUS_WORDS

Json = dict[str, Any]
SMOOTHED_PARTS = 40  # the line of a long history is a median over this share of it
SHOWN_REGRESSIONS = 8
SHOWN_CALIBRATIONS = 30  # more rules than that would be a hatching
SHOWN_NAMES = 6  # specs with charts of their own; the table has every run
PANELS: tuple[tuple[str, str, figures.Formatter], ...] = (
    ("usd", "cost of a run", figures.usd),
    ("seconds", "time of a run", figures.seconds),
    ("prediction_error", "prediction error", figures.percent),
    ("quality", "quality kept", figures.quality),
)


AXIS: dict[figures.Formatter, figures.Formatter] = {figures.percent: figures.brief_percent}


def history_html(reports: Iterable[Json], problems: Iterable[str] = ()) -> str:
    """Return the page over `reports` (report.json documents, any readable version, any order)."""
    story = history(reports, problems)
    parts = [_header(story), _worse(story["rows"])]
    for index, group in enumerate(story["names"][:SHOWN_NAMES]):
        rows = [row for row in story["rows"] if row["name"] == group["name"]]
        parts.append(_group(group, rows, f"spec-{index}"))
    parts.append(_runs(story["rows"]))
    if story["problems"]:
        noted = tag("ul", *(tag("li", text) for text in story["problems"]), class_="notes")
        parts.append(section("Not read", "Files that are no receipt.", noted, id_="problems"))
    parts.append(tag("script", embedded_json(story), type="application/json", id="history"))
    return page("History · suanli", join(parts), kind="history")


def _header(story: Json) -> Markup:
    total = story["all"]
    words = [*_plural(total["runs"], "run"), ", "]
    words += [number(total["succeeded"], figures.count), "\u00a0succeeded"]
    if total["usd"] is not None:
        words += [", ", number(total["usd"], figures.usd), "\u00a0spent"]
    tiles = []
    if total["first_error"] is not None:
        value = number(total["last_error"], figures.percent)
        note = join(["was ", number(total["first_error"], figures.percent), " in the first runs"])
        tiles.append(_tile("Prediction error now", value, note))
    if total["median_usd"] is not None:
        tiles.append(_tile("A run costs", number(total["median_usd"], figures.usd), "median"))
    worse = f"worse than the {WINDOW} runs before"
    tiles.append(_tile("Regressions", number(total["regressed"], figures.count), worse))
    failed = number(total["failed"], figures.count)
    tiles.append(_tile("Failed", failed, "did not end with a model"))
    return tag(
        "header",
        tag("h1", *words, "."),
        tag("dl", *tiles, class_="tiles"),
        class_="verdict",
    )


def _plural(count: int, noun: str) -> list[object]:
    return [number(count, figures.count), f" {noun}" if count == 1 else f" {noun}s"]


def _worse(rows: list[Json]) -> Markup:
    """The newest regressions, before any chart."""
    found = [row for row in reversed(rows) if row["regressions"]][:SHOWN_REGRESSIONS]
    items = []
    for row in found:
        words = join([_change(item) for item in row["regressions"]], "; ")
        items.append(tag("li", _run(row), " of ", name(row["name"]), ": ", words))
    listed = tag("ul", *items, class_="notes") if items else None
    lead = "The newest runs that did worse than those before them."
    return section("Got worse", lead, listed, id_="worse")


def _change(item: Json) -> Markup:
    unit = _unit(item["what"])
    value, usual = (number(item[key], unit) for key in ("value", "usual"))
    return join([item["what"], " ", value, tag("span", ", usually ", usual, class_="soft")])


def _run(row: Json) -> Markup:
    """A run by number and id, with a link to its own page where there is one."""
    words = join([number(row["number"], figures.count), " ", name(row["run_id"] or "")])
    return tag("a", words, href=row["page"]) if row["page"] else words


def _tile(title: str, value: object, note: object) -> Markup:
    return tag("div", tag("dt", title), tag("dd", value, class_="big"), tag("dd", note))


def _group(group: Json, rows: list[Json], id_: str) -> Markup:
    lead = [*_plural(group["runs"], "run"), ", ", *_plural(group["regressed"], "regression"), "."]
    panels = []
    for key, title, formatter in PANELS:
        if key == "seconds" and group["usd"] is not None:
            continue  # money already tells it
        if key == "quality":
            metric = next((row["metric"] for row in rows if row["metric"]), None)
            title = METRIC_NAMES.get(str(metric), str(metric or title))
        panels.append(_panel(rows, key, title, formatter))
    grid = tag("div", *[panel for panel in panels if panel], class_="panels")
    return section(name(group["name"]), join(lead), grid, id_=id_)


def _panel(rows: list[Json], key: str, title: str, formatter: figures.Formatter) -> Markup | None:
    """Every run as a dot, regressions as diamonds, the running median as a line."""
    points = [(row["number"], row[key], row) for row in rows if row[key] is not None]
    if len(points) < 2:
        return None
    x = linear([point[0] for point in points], margin=0.0)
    y = linear([point[1] for point in points], from_zero=key != "quality", margin=0.08)
    what = {"usd": "cost", "seconds": "time"}.get(key, key)
    usual: list[tuple[float, float]] = []
    worse: list[tuple[float, float]] = []
    for run_number, value, row in points:
        marked = any(item["what"] == what for item in row["regressions"])
        (worse if marked else usual).append((run_number, value))
    marks = _calibrations(rows, x) if key == "prediction_error" else []
    smooth = thin_out(_running_median([(a, b) for a, b, _ in points]))
    plot = tag(
        "div",
        axes(x, y, figures.count, AXIS.get(formatter, formatter)),
        *marks,
        dots(usual, x, y, "runs"),
        line(smooth, x, y, "series"),
        dots(worse, x, y, "runs worse"),
        class_="area",
    )
    last = number(points[-1][1], formatter)
    first = number(points[0][1], formatter)
    learnt = "; dashed: a new calibration" if marks else ""
    values = tag("span", " ", first, " → ", last, learnt, class_="sub")
    caption = tag("figcaption", tag("b", title), values)
    return tag("figure", caption, plot, class_="plot panel")


def _calibrations(rows: list[Json], x: Scale) -> list[Markup]:
    """A rule where the runs began to use another calibration."""
    moments = [row["number"] for row in rows if row["recalibrated"]]
    return [
        tag("i", class_="learnt", style=f"left:{x(moment)}%")
        for moment in moments[-SHOWN_CALIBRATIONS:]
    ]


def _running_median(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    half = max(WINDOW // 2, len(points) // SMOOTHED_PARTS)
    return [
        (x, statistics.median(value for _, value in points[max(0, i - half) : i + half + 1]))
        for i, (x, _) in enumerate(points)
    ]


def _runs(rows: list[Json]) -> Markup:
    heads = ["run", "of", "ended", "cost", "time", "prediction error", "quality", "selected",
             "worse than usual"]  # fmt: skip
    buttons = [tag("button", head, type="button") for head in heads]
    lines = [_line(row) for row in reversed(rows)]
    classes = ["warn" if row["regressions"] else "" for row in reversed(rows)]
    made = table("Every run, newest first", buttons, lines, row_classes=classes,
                 text=(0, 1, 2, 7, 8), sortable=True)  # fmt: skip
    lead = "Newest first; a column's head sorts by it."
    return section("Every run", lead, made, id_="runs")


def _line(row: Json) -> list[object]:
    ended = str(STATUS_WORDS.get(row["status"], row["status"]))
    if row["failed_step"]:
        ended += f" at {row['failed_step']}"
    worse = [join([item["what"], " (usually ", number(item["usual"], _unit(item["what"])), ")"])
             for item in row["regressions"]]  # fmt: skip
    return [
        _run(row),
        name(row["name"]),
        escape(ended),
        number(row["usd"], figures.usd),
        number(row["seconds"], figures.seconds),
        number(row["prediction_error"], figures.percent),
        number(row["quality"], figures.quality),
        name(row["selected"]) if row["selected"] else tag("span", "–", class_="none"),
        join(worse, ", "),
    ]


def _unit(what: str) -> figures.Formatter:
    return {"cost": figures.usd, "time": figures.seconds}.get(what, figures.quality)
