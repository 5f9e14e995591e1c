"""The top of the page: how the run ended, in one sentence and a few figures."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import charts, figures
from pipelines.reporting.deck import deck as sentence
from pipelines.reporting.markup import Markup, code, escape, join, name, number, tag
from pipelines.reporting.words import STATUS_WORDS, figure_of, kept_words, metric_name, worth_saying

Json = dict[str, Any]


def header(report: Json) -> Markup:
    """Status, headline, and the figures under it."""
    run = report["run"]
    failed = report["status"] != "succeeded"
    facts = [
        tag("b", name(run["name"])),
        escape(run["task"]),
        name(_model(report)),
        tag("time", _day(run["finished_at"]), datetime=run["finished_at"])
        if run["finished_at"]
        else None,
    ]
    badge = tag(
        "span",
        STATUS_WORDS.get(report["status"], report["status"]),
        class_="badge bad" if failed else "badge good",
    )
    return tag(
        "header",
        tag("p", *_spaced([badge, *facts]), class_="eyebrow"),
        failure(report) if report["error"] else headline(report),
        deck(report) or "",
        tiles(report),
        class_="verdict",
    )


def _spaced(parts: list[Markup | None]) -> list[Markup]:
    return [tag("span", part) for part in parts if part]


def _model(report: Json) -> str:
    model = report["spec"].get("model") or {}
    return str(model.get("id") or model.get("config") or "")


def _day(moment: str) -> str:
    return moment[:16].replace("T", " ") + " UTC"


def headline(report: Json) -> Markup:
    """The verdict in one sentence."""
    verdict, quality = report["verdict"], report["quality"]
    if verdict["selected"] is None:
        return tag("h1", "No model was selected.")
    if verdict["selected"] == verdict["reference"]:
        score = number(quality["selected"], figures.quality)
        return tag("h1", tag("b", name(report["selected"])), " stays: ", score,
                   f" {metric_name(report)}, and no smaller variant was kept.")  # fmt: skip
    verb, link = kept_words(report)
    parts = [tag("b", name(report["selected"])), f" {verb} "]
    parts += [number(quality["selected"], figures.quality), f" {link} "]
    parts += [
        number(quality["tuned"], figures.quality),
        " " + metric_name(report).replace(" ", "\u00a0"),
    ]
    gains = []
    if verdict["selected"] != verdict["reference"]:
        for key, word in (("times_smaller", "smaller"), ("times_faster", "faster")):
            if worth_saying(verdict[key]):
                gains.append(join([number(verdict[key], figures.ratio), f" {word}"]))
    if gains:
        parts += [", ", join(gains, " and ")]
    return tag("h1", *parts, ".")


FAILED_HEADLINES = {
    "gate_failed": "No variant passed the gate at ",
    "infeasible": "Nothing fits: stopped at ",
}


def failure(report: Json) -> Markup:
    """What went wrong and what to do."""
    error = report["error"]
    # A gate's message brings a table along; only its first line is a sentence.
    first, _, rest = str(error.get("message") or "no message").strip().partition("\n")
    if report["status"] == "gate_failed" and report["variants"]:
        rest = ""  # the section right below tells the same, variant by variant
    remedy = error.get("remedy")
    parts = [
        tag("p", escape(first), class_="message"),
        tag("pre", escape(rest.strip("\n"))) if rest.strip() else None,
        tag("p", tag("b", "What to do: "), escape(remedy)) if remedy else None,
    ]
    words = FAILED_HEADLINES.get(report["status"], "Stopped at ")
    box = tag("div", *(part for part in parts if part), class_="failure", role="group",
              aria_label="Error")  # fmt: skip
    return join([tag("h1", words, tag("b", name(error.get("step") or "the start")), "."), box])


def deck(report: Json) -> Markup | None:
    """The second sentence: time and money, and money against the naive plan."""
    parts = [part if isinstance(part, str) else number(*part) for part in sentence(report)]
    return tag("p", *parts, class_="deck") if parts else None


def tiles(report: Json) -> Markup:
    """Quality, size, speed, time and money: a figure, what it means, what it is compared with."""
    tile_list = [
        _quality_tile(report),
        _gain_tile(report, "Size", "times_smaller", "smaller", "size_bytes", figures.bytes_),
        _gain_tile(report, "Latency", "times_faster", "faster", "p50", figures.milliseconds),
        _time_tile(report),
        _money_tile(report),
    ]
    return tag("dl", *[tile for tile in tile_list if tile], class_="tiles")


def _tile(title: str, value: object, *notes: object) -> Markup:
    return tag(
        "div", tag("dt", title), tag("dd", value, class_="big"), *(tag("dd", n) for n in notes if n)
    )


def _quality_tile(report: Json) -> Markup | None:
    quality, verdict = report["quality"], report["verdict"]
    if not figures.is_number(quality.get("tuned")):
        return None
    if not figures.is_number(quality.get("selected")):
        value = number(quality["tuned"], figures.quality)
        split = f"{metric_name(report)}, tuned model, {quality.get('split')}"
        return _tile("Quality so far", value, split)
    kept = verdict["quality_kept"]
    value = number(kept, figures.percent) if kept else number(quality["selected"], figures.quality)
    notes: list[object] = [_loss(report)]
    chance = quality.get("p_drop_exceeds_budget")
    if figures.is_number(chance):
        sentence = ["chance that it lost more: ", number(chance, figures.percent)]
        notes.append(tag("span", *sentence, class_="soft"))
    if quality.get("ci95"):
        low, high = quality["ci95"]
        interval = [number(low, figures.quality), " – ", number(high, figures.quality)]
        notes.append(tag("span", "95 % interval ", *interval, class_="soft"))
    return _tile("Quality kept" if kept else metric_name(report), value, *notes)


def _loss(report: Json) -> Markup | None:
    """What was lost of what was allowed to be lost."""
    drop, budget = report["verdict"]["quality_drop"], report["quality"]["max_quality_drop"]
    if not figures.is_number(drop) or not figures.is_number(budget):
        return None
    allowed = number(budget, figures.quality)
    if drop <= 0:
        return tag("span", "nothing lost; ", allowed, " was allowed")
    return tag("span", "lost ", number(drop, figures.quality), "; ", allowed, " was allowed")


def _gain_tile(
    report: Json, title: str, gain: str, word: str, key: str, formatter: figures.Formatter
) -> Markup | None:
    verdict = report["verdict"]
    rows = {row["name"]: row for row in report["variants"]}
    chosen, reference = rows.get(verdict["selected"]), rows.get(verdict["reference"])
    if chosen is None or reference is None or not figures.is_number(verdict[gain]):
        return None
    own, base = figure_of(chosen, key), figure_of(reference, key)
    top = max(own, base) or 1
    pairs = [
        tag("span", number(own, formatter), charts.bar(own / top, "own"), class_="pair"),
        tag("span", number(base, formatter), charts.bar(base / top), " fp32", class_="pair soft"),
    ]
    if chosen is reference:
        return _tile(title, number(own, formatter), "fp32 was kept")
    words = word if worth_saying(verdict[gain]) else "of fp32"
    return _tile(title, join([number(verdict[gain], figures.ratio), f" {words}"]), *pairs)


def _time_tile(report: Json) -> Markup | None:
    prediction, cached = report["prediction"], report["progress"]
    if prediction["measured_seconds"] is None:
        return None
    value = number(prediction["measured_seconds"], figures.seconds)
    ending = " for these steps" if report["error"] else ""
    notes = [join(["predicted ", number(prediction["predicted_seconds"], figures.seconds), ending])]
    if prediction.get("measured_wait_seconds") is not None:
        words = [
            "and waits for nodes and pods ",
            number(prediction["measured_wait_seconds"], figures.seconds),
        ]
        words += [", predicted ", number(prediction["predicted_wait_seconds"], figures.seconds)]
        notes.append(tag("span", *words, class_="soft"))
    if cached["cached"]:
        reused = [number(cached["cached_seconds"], figures.seconds), " of it reused from "]
        reused += [number(cached["cached"], figures.count), " finished steps"]
        notes.append(tag("span", *reused, class_="soft"))
    return _tile("Time", value, *notes)


def _money_tile(report: Json) -> Markup | None:
    cost = report["cost"]
    predicted = number(cost["predicted_usd"], figures.usd)
    if cost["measured_usd"] is None:
        if cost["predicted_usd"] is not None:
            return _tile("Cost", predicted, "predicted")
        hint = join(["give ", code("here_usd_per_hour"), " in the spec"])
        return _tile("Cost", tag("span", "no price", class_="none"), hint)
    ending = " for the whole run" if report["error"] else ""
    notes = [join(["predicted ", predicted, ending])]
    if figures.is_number(cost["first_order_usd"]):
        first = number(cost["first_order_usd"], figures.usd)
        notes.append(tag("span", "first-order formula ", first, class_="soft"))
    naive = report["verdict"]["one_node_usd"]
    if figures.is_number(naive):
        words = ["one node throughout ", number(naive, figures.usd)]
        notes.append(tag("span", *words, class_="soft"))
    return _tile("Cost", number(cost["measured_usd"], figures.usd), *notes)
