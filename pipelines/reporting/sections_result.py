"""The first half of the page: how it ended, what was gained, and how good the result is."""

from __future__ import annotations

from typing import Any

from pipelines.reporting import charts, figures, tracks
from pipelines.reporting.markup import Markup, escape, join, name, number, plain, table, tag
from pipelines.reporting.words import METRIC_NAMES, figure_of, metric_name

Json = dict[str, Any]
MAX_HEAT_LABELS = 30
MAX_LABEL_ROWS = 40
MAX_PANELS = 9
AVERAGES = ("micro avg", "macro avg", "weighted avg")
MAX_CONFUSIONS = 15


def section(title: object, lead: object, *content: object, id_: str) -> Markup:
    """A section with its heading and one explaining sentence beside the content."""
    body = [part for part in content if part]
    if not body:
        return Markup()
    aside = tag("div", tag("h2", title), tag("p", lead, class_="lead"), class_="aside")
    return tag("section", aside, tag("div", *body, class_="content"), id=id_)


# -- variants --------------------------------------------------------------------------------------


def variants(report: Json) -> Markup:
    """One row a variant, then their latency on one axis."""
    measured = [row for row in report["variants"] if figures.is_number(row["quality_validation"])]
    if not measured:
        return Markup()
    largest = max(figure_of(row, "size_bytes") for row in measured) or 1
    rows, classes = [], []
    for row in report["variants"]:
        chosen = row["name"] == report["selected"]
        classes.append("chosen" if chosen else "accepted" if row["accepted"] else "refused")
        rows.append(_variant_row(row, chosen, largest))
    score = f"{metric_name(report)}, validation"
    heads = ["variant", score, "against fp32", "size", "parameters", "p50", "p99", "requests/s",
             "USD per million"]  # fmt: skip
    limit = (report["spec"].get("serving") or {}).get("p99_latency_ms")
    providers = sorted({plain(row["provider"]) for row in measured if row.get("provider")})
    lead = "Each was exported to ONNX, compared with PyTorch, and measured on the planned device."
    if providers:
        lead += f" Ran on {', '.join(providers)}."
    chart = tracks.latencies(measured, limit)
    title = tag("h3", "Latency of one request") if chart else None
    made = table("Variants", heads, rows, row_classes=classes, cards=True)
    return section("Variants", lead, made, _more(measured), title, chart, id_="variants")


def _more(measured: list[Json]) -> Markup:
    """What engineers ask next about each variant."""
    rows = []
    for row in measured:
        whole = row.get("latency_with_tokenisation_ms") or {}
        rows.append(
            [
                name(row["name"]),
                escape(row.get("provider") or figures.MISSING),
                number(row.get("parity_max_abs_diff"), figures.scientific),
                number(whole.get("p50"), figures.milliseconds),
                number(whole.get("p99"), figures.milliseconds),
                number(row.get("tokens_per_s"), figures.rate),
                number(row.get("peak_memory_bytes"), figures.bytes_),
            ]
        )
    heads = ["variant", "provider that ran", "largest difference to PyTorch",
             "p50 with tokenising", "p99 with tokenising", "tokens/s", "peak memory"]  # fmt: skip
    made = table("More about each variant", heads, rows, text=(0, 1), cards=True)
    return tag("details", tag("summary", "Every figure"), made)


def _variant_row(row: Json, chosen: bool, largest: float) -> list[object]:
    latency = row.get("latency_ms") or {}
    flag = tag("span", " selected", class_="flag") if chosen else ""
    reason = tag("span", escape(row.get("reason") or ""), class_="reason")
    size = number(row.get("size_bytes"), figures.bytes_)
    return [
        join([name(row["name"]), flag, reason]),
        number(row["quality_validation"], figures.quality),
        number(row.get("quality_change"), figures.signed_quality),
        join([size, charts.bar(figure_of(row, "size_bytes") / largest)]),
        number(row.get("parameters"), figures.short_count),
        number(latency.get("p50"), figures.milliseconds),
        number(latency.get("p99"), figures.milliseconds),
        number(row.get("throughput_per_s"), figures.rate),
        number(row.get("usd_per_million"), figures.usd),
    ]


# -- searches --------------------------------------------------------------------------------------


def searches(report: Json) -> Markup:
    """Each search for a structure: its candidates with the time planned for them and taken."""
    metric = metric_name(report)
    parts = [part for found in report["searches"] for part in _search(found, metric)]
    lead = (
        "Ways to cut are trained a little, the better half goes on, the last one to the end. "
        "Divergence is how far a candidate's answers are from the tuned model's, after each round."
    )
    return section("Searches", lead, *parts, id_="searches")


def _search(found: Json, metric: str) -> list[Markup]:
    rows = [_candidate(one) for one in found["candidates"]]
    classes = ["chosen" if one.get("won") else "" for one in found["candidates"]]
    before, after = (number(found.get(k), figures.quality) for k in ("tuned", "compressed"))
    said = [metric, " on validation ", before, " tuned, ", after, " cut and trained"]
    if figures.is_number(found.get("compressed_in_8_bits")):
        said += [", ", number(found["compressed_in_8_bits"], figures.quality), " in 8 bits"]
    said += [
        "; ",
        number(found.get("removed_share"), figures.percent),
        " of the layers removed in ",
    ]
    said += [number(found.get("seconds"), figures.seconds), ", "]
    said += [number(found.get("predicted_s"), figures.seconds), " predicted."]
    heads = ["candidate", "layers", "parameters in them", "one batch, by the table", "steps",
             "predicted", "measured", "divergence"]  # fmt: skip
    made = table(f"Candidates of {plain(found.get('variant'))}", heads, rows, row_classes=classes,
                 cards=True)  # fmt: skip
    return [tag("h3", name(found.get("variant"))), tag("p", *said), made]


def _candidate(one: Json) -> list[object]:
    flag: object = ""
    if one.get("won"):
        words = " chosen" if one.get("trained", True) else " chosen as mended"
        flag = tag("span", words, class_="flag")
    layers = [layer for layer in one.get("layers") or [] if len(layer) == 2]
    cut = tag("span", number(one.get("depth"), figures.count), title=_heads_and_neurons(layers))
    rounds = [r.get("divergence") for r in one.get("rounds") or []]
    steps_down = join([number(value, figures.three_digits) for value in rounds], " → ")
    return [
        join([name(one.get("name")), flag]),
        cut,
        number(one.get("encoder_parameters"), figures.short_count),
        number(one.get("table_ms"), figures.milliseconds),
        number(one.get("steps"), figures.count),
        number(one.get("predicted_s"), figures.seconds),
        number(one.get("seconds"), figures.seconds),
        steps_down,
    ]


def _heads_and_neurons(layers: list[list[int]]) -> str:
    """Each layer's heads and feed-forward neurons, for who points at their number."""
    return "; ".join(f"{heads} heads, {neurons} neurons" for heads, neurons in layers)


# -- quality ---------------------------------------------------------------------------------------


def quality(report: Json) -> Markup:
    split = report["quality"].get("split") or "test"
    content = [
        _entities(report["entities"]),
        _label_table(report["classification_report"], report["confusion"]),
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


def _in_order(scores: Json, confusion: Json | None) -> list[str]:
    """Labels as the model has them (JSON objects may have lost the order), averages last."""
    known = [str(label) for label in (confusion or {}).get("labels") or []]
    labels = [
        label for label in scores if label not in AVERAGES and isinstance(scores[label], dict)
    ]
    labels.sort(key=lambda label: known.index(label) if label in known else len(known))
    return labels + [average for average in AVERAGES if average in scores]


def _label_table(scores: Json | None, confusion: Json | None) -> Markup | None:
    if not scores:
        return None
    rows, classes = [], []
    for label in _in_order(scores, confusion):
        row = scores[label]
        f1 = row.get("f1", row.get("f1-score"))
        classes.append("total" if label in AVERAGES else "")
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
    if len(rows) <= MAX_LABEL_ROWS:
        return join([tag("h3", "By label"), made])
    totals = [row for row, class_ in zip(rows, classes, strict=True) if class_]
    short = table("Averages over labels", ["average", *heads[1:]], totals)
    every = tag("details", tag("summary", "Each label"), made)
    return join([tag("h3", "By label"), short, every])


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
    made = table("Most frequent confusions", ["true", "predicted", "times"], rows, text=(0, 1))
    return join([tag("h3", "Most frequent confusions"), made])


def learning(report: Json) -> Markup:
    """A panel for each figure that a training step followed, the main metric first."""
    panels = [panel for series in report["learning_curve"] for panel in _panels(series)]
    main = report["quality"].get("metric")
    panels.sort(key=lambda panel: (panel[0] != main, panel[0] != "loss"))
    drawn = [charts.curve(*panel[1:]) for panel in panels[:MAX_PANELS]]
    grid = tag("div", *drawn, class_="panels") if drawn else None
    return section("Learning", "How the loss and the scores went.", grid, id_="learning")


Panel = tuple[str, str, str, list[tuple[float, float]]]


def _panels(series: Json) -> list[Panel]:
    """Return (figure, its name, step and axis, points) of each figure that the series holds."""
    points = [p for p in series["points"] if isinstance(p, dict)]
    keys = {key for point in points for key in point}
    x_name = next((key for key in ("epoch", "step", "x") if key in keys), None)
    if len(points) < 2 or x_name is None:
        return []
    made: list[Panel] = []
    for key in sorted(keys - {"step", "epoch", "x", "time"}):
        line = [(p[x_name], p[key]) for p in points
                if figures.is_number(p.get(x_name)) and figures.is_number(p.get(key))]  # fmt: skip
        if len(line) > 1:
            words = METRIC_NAMES.get(key, plain(key).replace("_", " "))
            made.append((key, words, f"{plain(series['step'])}, by {x_name}", line))
    return made
