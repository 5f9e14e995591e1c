"""The first half of the page: how it ended, what was gained, and how good the result is."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import charts, figures
from pipelines.reporting.markup import Markup, code, escape, join, name, number, plain, table, tag

Json = dict[str, Any]
METRIC_NAMES = {
    "entity_f1": "entity F1",
    "accuracy": "accuracy",
    "ndcg@10": "NDCG@10",
    "negative_loss": "negative loss",
}
STATUS_WORDS = {
    "succeeded": "succeeded",
    "step_failed": "a step failed",
    "bad_input": "bad input",
    "infeasible": "infeasible",
    "gate_failed": "gate failed",
}
MAX_HEAT_LABELS = 30
MAX_CONFUSIONS = 15


def section(title: str, lead: object, *content: object, id_: str) -> Markup:
    """A section with its heading and one explaining sentence beside the content."""
    body = [part for part in content if part]
    if not body:
        return Markup()
    aside = tag("div", tag("h2", title), tag("p", lead, class_="lead"), class_="aside")
    return tag("section", aside, tag("div", *body, class_="content"), id=id_)


def metric_name(report: Json) -> str:
    metric = str(report["quality"].get("metric") or "quality")
    return METRIC_NAMES.get(metric, metric)


# -- verdict ---------------------------------------------------------------------------------------


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
    parts = [tag("b", name(report["selected"])), " keeps "]
    parts += [number(quality["selected"], figures.quality), " of "]
    parts += [number(quality["tuned"], figures.quality), f" {metric_name(report)}"]
    gains = []
    if verdict["selected"] != verdict["reference"]:
        for key, word in (("times_smaller", "smaller"), ("times_faster", "faster")):
            if figures.is_number(verdict[key]):
                gains.append(join([number(verdict[key], figures.ratio), f" {word}"]))
    if gains:
        parts += [", ", join(gains, " and ")]
    return tag("h1", *parts, ".")


def failure(report: Json) -> Markup:
    """What went wrong, what to do, how far it got, what is not lost."""
    error, done = report["error"], report["progress"]
    kept = join(
        [
            number(done["done"], figures.count),
            " of ",
            number(done["steps"], figures.count),
            " steps finished; a new run of the same spec takes them over and repeats none.",
        ]
    )
    return join(
        [
            tag("h1", "Stopped at ", tag("b", name(error["step"])), "."),
            tag(
                "div",
                tag("p", escape(error["message"]), class_="message"),
                tag("p", tag("b", "What to do: "), escape(error["remedy"]))
                if error.get("remedy")
                else None,
                tag("p", kept, class_="soft"),
                class_="failure",
                role="group",
                aria_label="Error",
            ),
        ]
    )


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
    notes = [f"of the tuned model's {metric_name(report)}"] if kept else [metric_name(report)]
    if quality.get("ci95"):
        low, high = quality["ci95"]
        interval = [number(low, figures.quality), "–", number(high, figures.quality)]
        notes.append(tag("span", "95 % interval ", *interval, class_="soft"))
    chance = quality.get("p_drop_exceeds_budget")
    if figures.is_number(chance):
        budget = number(quality.get("max_quality_drop"), figures.quality)
        sentence = ["chance that more than ", budget, " was lost: "]
        sentence.append(number(chance, figures.percent))
        notes.append(tag("span", *sentence, class_="soft"))
    return _tile("Quality kept", value, *notes)


def _gain_tile(
    report: Json, title: str, gain: str, word: str, key: str, formatter: figures.Formatter
) -> Markup | None:
    verdict = report["verdict"]
    rows = {row["name"]: row for row in report["variants"]}
    chosen, reference = rows.get(verdict["selected"]), rows.get(verdict["reference"])
    if chosen is None or reference is None or not figures.is_number(verdict[gain]):
        return None
    own, base = _figure(chosen, key), _figure(reference, key)
    top = max(own, base) or 1
    pairs = [
        tag("span", number(own, formatter), charts.bar(own / top, "own"), class_="pair"),
        tag("span", number(base, formatter), charts.bar(base / top), " fp32", class_="pair soft"),
    ]
    if chosen is reference:
        return _tile(title, number(own, formatter), "fp32 was kept")
    return _tile(title, join([number(verdict[gain], figures.ratio), f" {word}"]), *pairs)


def _figure(row: Json, key: str) -> float:
    value = (row.get("latency_ms") or {}).get(key) if key == "p50" else row.get(key)
    return float(value) if figures.is_number(value) else 0.0  # type: ignore[arg-type]


def _time_tile(report: Json) -> Markup | None:
    prediction, cached = report["prediction"], report["progress"]
    if prediction["measured_seconds"] is None:
        return None
    value = number(prediction["measured_seconds"], figures.seconds)
    notes = [join(["predicted ", number(prediction["predicted_seconds"], figures.seconds)])]
    if cached["cached"]:
        reused = [number(cached["cached_seconds"], figures.seconds), " of it reused from "]
        reused += [number(cached["cached"], figures.count), " finished steps"]
        notes.append(tag("span", *reused, class_="soft"))
    return _tile("Time", value, *notes)


def _money_tile(report: Json) -> Markup | None:
    cost, verdict = report["cost"], report["verdict"]
    if cost["measured_usd"] is None:
        if cost["predicted_usd"] is not None:
            return _tile("Cost", number(cost["predicted_usd"], figures.usd), "predicted")
        hint = join([code("objective.here_usd_per_hour"), " prices this machine"])
        return _tile("Cost", tag("span", "no price", class_="none"), hint)
    notes = [join(["predicted ", number(cost["predicted_usd"], figures.usd)])]
    if verdict["cost_of_first_order"] is not None:
        first = number(cost["first_order_usd"], figures.usd)
        notes.append(tag("span", "first-order formula: ", first, class_="soft"))
    return _tile("Cost", number(cost["measured_usd"], figures.usd), *notes)


# -- variants --------------------------------------------------------------------------------------


def variants(report: Json) -> Markup:
    rows, classes = [], []
    largest = max((_figure(v, "size_bytes") for v in report["variants"]), default=0) or 1
    for row in report["variants"]:
        latency = row.get("latency_ms") or {}
        chosen = row["name"] == report["selected"]
        classes.append("chosen" if chosen else "accepted" if row["accepted"] else "refused")
        size = _figure(row, "size_bytes")
        rows.append(
            [
                join(
                    [name(row["name"]), tag("span", " selected", class_="flag") if chosen else ""]
                ),
                number(row["quality_validation"], figures.quality),
                number(row.get("quality_change"), figures.signed_quality),
                join([number(row.get("size_bytes"), figures.bytes_), charts.bar(size / largest)]),
                number(row.get("parameters"), figures.count),
                number(latency.get("p50"), figures.milliseconds),
                number(latency.get("p99"), figures.milliseconds),
                number(row.get("throughput_per_s"), figures.rate),
                number(row.get("usd_per_million"), figures.usd),
                tag("span", escape(row.get("reason") or ""), class_="reason"),
            ]
        )
    heads = ["variant", f"{metric_name(report)}, validation", "against fp32", "size", "parameters",
             "p50", "p99", "requests/s", "USD per million", "verdict"]  # fmt: skip
    body = table("Variants", heads, rows, row_classes=classes, class_="variants") if rows else None
    limit = (report["spec"].get("serving") or {}).get("p99_latency_ms")
    providers = sorted({plain(v["provider"]) for v in report["variants"] if v.get("provider")})
    lead = "Each variant was exported to ONNX, checked against PyTorch, and measured."
    if providers:
        lead += f" Ran on {', '.join(providers)}."
    chart = charts.latencies(report["variants"], limit)
    title = tag("h3", "Latency of one request") if chart else None
    return section("Variants", lead, body, title, chart, id_="variants")


# -- quality ---------------------------------------------------------------------------------------


def quality(report: Json) -> Markup:
    split = report["quality"].get("split") or "test"
    content = [
        _entities(report["entities"]),
        _label_table(report["classification_report"]),
        _confusion(report["confusion"]),
    ]
    lead = f"On {split}, scored once, after the choice was made on validation."
    if split != "test":
        lead = f"On {split}; the run did not get as far as test."
    return section("Quality", lead, *content, id_="quality")


def _entities(entities: Json | None) -> Markup | None:
    if not entities:
        return None
    rows = []
    for mode in ("default", "strict"):
        found = entities.get(mode) or {}
        scores = [number(found.get(k), figures.quality) for k in ("precision", "recall", "f1")]
        if found:
            rows.append([mode, *scores])
    heads = ["entities", "precision", "recall", "F1"]
    return table("Entity-level quality", heads, rows, class_="narrow") if rows else None


def _label_table(scores: Json | None) -> Markup | None:
    if not scores:
        return None
    rows, classes = [], []
    for label, row in scores.items():
        if not isinstance(row, dict):
            continue
        f1 = row.get("f1", row.get("f1-score"))
        classes.append("total" if label.endswith(" avg") else "")
        rows.append(
            [
                name(label),
                number(row.get("precision"), figures.quality),
                number(row.get("recall"), figures.quality),
                join([number(f1, figures.quality), charts.bar(f1 or 0.0, "own")]),
                number(row.get("support"), figures.count),
            ]
        )
    heads = ["label", "precision", "recall", "F1", "support"]
    made = table("Precision, recall and F1 of each label", heads, rows, row_classes=classes)
    return join([tag("h3", "By label"), made])


def _confusion(confusion: Json | None) -> Markup | None:
    if not confusion or not confusion.get("labels"):
        return None
    labels, matrix = [str(label) for label in confusion["labels"]], confusion["matrix"]
    if len(labels) <= MAX_HEAT_LABELS:
        shown = charts.heat(labels, matrix)
        return join([tag("h3", "Confusion"), shown])
    wrong = [
        (matrix[i][j], i, j)
        for i in range(len(labels))
        for j in range(len(labels))
        if i != j and matrix[i][j]
    ]
    wrong.sort(reverse=True)
    rows = [[name(labels[i]), name(labels[j]), number(n, figures.count)]
            for n, i, j in wrong[:MAX_CONFUSIONS]]  # fmt: skip
    made = table("Most frequent confusions", ["true", "predicted", "times"], rows, text_columns=2)
    return join([tag("h3", "Most frequent confusions"), made])


def learning(report: Json) -> Markup:
    panels = []
    for series in report["learning_curve"]:
        panels += _panels(series)
    grid = tag("div", *panels, class_="panels") if panels else None
    return section("Learning", "How the loss and the scores went.", grid, id_="learning")


def _panels(series: Json) -> list[Markup]:
    points = [p for p in series["points"] if isinstance(p, dict)]
    keys = {key for point in points for key in point}
    x_name = next((key for key in ("epoch", "step", "x") if key in keys), None)
    if len(points) < 2 or x_name is None:
        return []
    made = []
    for key in sorted(keys - {"step", "epoch", "x", "time"}):
        line = [(p[x_name], p[key]) for p in points
                if figures.is_number(p.get(x_name)) and figures.is_number(p.get(key))]  # fmt: skip
        if len(line) > 1:
            label = key.replace("_", " ")
            title = series["name"] if key in ("value", "y") else f"{series['name']}: {label}"
            title = label if series["name"] == key else title
            made.append(charts.curve(f"{series['step']} · {plain(title)}", line, x_name))
    return made
