"""The second half of the page: the decision, the predictions, the money, how to do it again."""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.reporting import charts, figures, pareto, tracks
from pipelines.reporting.markup import Markup, code, escape, join, name, number, table, tag
from pipelines.reporting.sections_result import section
from pipelines.reporting.words import sentence

Json = dict[str, Any]
# How people write a spec: who, what, then how.
SPEC_KEYS = ("schema_version", "name", "task", "model", "data", "training", "compression",
             "serving", "objective", "storage", "tracking")  # fmt: skip
# Artifacts named by their content: the same bytes again, or not.
OUTPUTS = {"ingest": "Dataset", "select": "Selected model", "publish": "Published folder"}
SPEC_ORDER = {key: index for index, key in enumerate(SPEC_KEYS)}


def prediction(report: Json) -> Markup:
    """Predicted against measured, by step."""
    steps, found = report["steps"], report["prediction"]
    lead: list[object] = ["What the cost model promised before the run, and what happened."]
    if found["compared_steps"]:
        lead = [number(found["within_interval"], figures.count), " of "]
        lead += [number(found["compared_steps"], figures.count), " steps fell inside their 80 % "]
        lead += ["interval; the median error was "]
        lead += [number(found["median_seconds_error"], figures.percent), " in time and "]
        lead += [number(found["median_memory_error"], figures.percent), " in memory."]
    rows = [_step_row(step) for step in steps]
    heads = ["step", "predicted", "80 % interval", "measured", "error", "memory predicted",
             "memory measured", "predicted USD", "measured USD"]  # fmt: skip
    details = tag(
        "details",
        tag("summary", "Every figure"),
        table("Predicted and measured", heads, rows, cards=True),
    )
    chart = tracks.intervals(steps)
    return section("Predicted, measured", join(lead), chart, details, _phases(steps), id_="steps")


def _step_row(step: Json) -> list[object]:
    predicted, measured = step["predicted"], step["measured"] or {}
    comparison = step["comparison"] or {}
    low, high = (number(predicted[key], figures.seconds) for key in ("low", "high"))
    state = "" if step["state"] == "done" else tag("span", f" {step['state']}", class_="flag")
    state = tag("span", " reused", class_="flag") if step["cached"] else state
    return [
        join([name(step["name"]), state]),
        number(predicted["seconds"], figures.seconds),
        join([low, " – ", high]),
        number(measured.get("seconds"), figures.seconds),
        number(comparison.get("seconds_error"), figures.signed_percent),
        number(predicted["peak_memory_bytes"], figures.bytes_),
        number(measured.get("peak_memory_bytes"), figures.bytes_),
        number(predicted.get("usd"), figures.usd),
        number(measured.get("usd"), figures.usd),
    ]


def _phases(steps: list[Json]) -> Markup | None:
    rows = []
    for step in steps:
        phases = (step["measured"] or {}).get("phases") or {}
        longest = sorted(phases.items(), key=lambda item: -item[1])
        if longest:
            parts = [join([escape(k.replace("_", " ")), " ", number(v, figures.seconds)])
                     for k, v in longest]  # fmt: skip
            rows.append([name(step["name"]), join(parts, " · ")])
    if not rows:
        return None
    made = table("Phases of each step", ["step", "wall time by phase"], rows, text=(0, 1))
    return tag("details", tag("summary", "Where the time went"), made)


def decision(report: Json) -> Markup:
    """What was chosen and, for a run tied to a machine, what would have been otherwise."""
    made, free = report["decision"], report["unrestricted"]
    content = _decided(made, "front")
    lead: list[object] = ["Chosen: ", _where(made), ". ", _considered(made)]
    if free is not None:
        content += [
            tag("h3", "With any hardware"),
            tag("p", _where(free), ". ", _considered(free), class_="why"),
        ]
        content += _decided(free, "free-front")
    return section("Decision", join(lead), *content, id_="decision")


def _where(made: Json) -> Markup:
    if made["node"] is None:
        return tag("span", "nothing", class_="none")
    if made["node"] == "here":
        return tag("b", "this machine")
    nodes = number(made["nodes"], figures.count)
    return tag("b", nodes, " × ", name(made["node"]), f", {made['capacity']}")


def _considered(made: Json) -> Markup:
    found = made["candidates"]
    if not found.get("considered"):
        return Markup()
    ways, fit = (number(found.get(key), figures.count) for key in ("considered", "feasible"))
    return join([ways, " ways to run were considered, ", fit, " of them feasible."])


def _decided(made: Json, id_: str) -> list[Markup | None]:
    """Reason, plot, table and first-order formula of one decision."""
    why = tag("p", escape(sentence(made["why"])), class_="why") if made["why"] else None
    rows = [_alternative_row(a) for a in made["alternatives"]]
    classes = ["chosen" if a["chosen"] else "" for a in made["alternatives"]]
    heads = ["way to run", "capacity", "time", "USD", "risk", "why, or why not"]
    caption = "Alternatives" if id_ == "front" else "Alternatives with any hardware"
    listed = (
        table(caption, heads, rows, row_classes=classes, text=(0, 1, 5), cards=True)
        if rows
        else None
    )
    plot = pareto.pareto(made, id_)
    if listed and plot:
        listed = tag("details", tag("summary", "The same as a table"), listed)
    return [why, _naive(made), plot or None, listed, _first_order(made)]


def _naive(made: Json) -> Markup | None:
    """The decision against keeping the training node for the whole job."""
    if not figures.is_number(made["one_node_usd"]) or not figures.is_number(made["times_cheaper"]):
        return None
    words = [
        "Predicted ",
        number(made["usd"]["value"], figures.usd),
        "; keeping the training node on demand from start to end would cost ",
        number(made["one_node_usd"], figures.usd),
        ", ",
        number(made["times_cheaper"], figures.ratio),
        " as much.",
    ]
    return tag("p", *words, class_="why")


def _alternative_row(alternative: Json) -> list[object]:
    return [
        name(alternative["label"]),
        alternative["capacity"],
        number(alternative["seconds"], figures.seconds),
        number(alternative["usd"], figures.usd),
        number(alternative.get("risk"), figures.percent),
        tag("span", escape(alternative["reason"]), class_="reason"),
    ]


def _first_order(made: Json) -> Markup | None:
    first, model = made["first_order"], made.get("seconds") or {}
    if not figures.is_number(first.get("seconds")):
        return None
    words = [
        "The first-order formula says ",
        number(first["seconds"], figures.seconds),
        "; the full model ",
        number(model.get("value"), figures.seconds),
        " (",
        number(model.get("low"), figures.seconds),
        " – ",
        number(model.get("high"), figures.seconds),
        ").",
    ]
    text = tag("pre", escape(first["text"])) if first.get("text") else None
    return tag("div", tag("p", *words), text, class_="first-order")


def storage(report: Json) -> Markup:
    rows = [
        [
            name(row.get("artifact")),
            escape(row.get("tier")),
            number(row.get("bytes"), figures.bytes_),
            number(row.get("usd_per_month"), figures.usd),
            tag("span", escape(row.get("reason") or ""), class_="reason"),
        ]
        for row in report["storage"]
    ]
    heads = ["artifact", "tier", "size", "USD a month", "why there"]
    lead: list[object] = ["Where each artifact is kept, chosen by how often it is read."]
    if figures.is_number(report["storage_usd_per_month"]):
        lead += [" ", number(report["storage_usd_per_month"], figures.usd), " a month in all."]
    made = table("Storage", heads, rows, text=(0, 1, 4), cards=True) if rows else None
    return section("Storage", join(lead), made, id_="storage")


UNITS: dict[str, figures.Formatter] = {"bytes": figures.bytes_, "cores": figures.cores}


def rightsizing(report: Json) -> Markup:
    """Requests worth changing; those that fit stand folded below them."""
    lead = "What each step asked for, what it used, and what to ask for next time."
    rows = report["rightsizing"]
    wrong = [row for row in rows if not row["fits"]]
    fitting = [row for row in rows if row["fits"]]
    parts = []
    if wrong:
        parts.append(_sizes("Rightsizing", wrong))
    elif fitting:
        parts.append(tag("p", "Every request fits what was used."))
    if fitting:
        table_ = _sizes("Requests that fit", fitting)
        parts.append(tag("details", tag("summary", "Requests that fit"), table_))
    return section("Rightsizing", lead, *parts, id_="rightsizing")


def _sizes(caption: str, found: list[Json]) -> Markup:
    rows, classes = [], []
    for row in found:
        unit = UNITS.get(row["unit"], figures.count)
        fraction = row["used_fraction"]
        classes.append("warn" if row["unit"] == "bytes" and fraction > 1 else "")
        rows.append(
            [
                name(row["step"]),
                escape(row["resource"]),
                number(row["requested"], unit),
                number(row["used"], unit),
                join([number(fraction, figures.percent), charts.bar(fraction)]),
                number(row["suggested"], unit),
                tag("span", escape(row["advice"]), class_="reason"),
            ]
        )
    heads = ["step", "what", "asked", "used", "of the request", "next time", "because"]
    return table(caption, heads, rows, row_classes=classes, text=(0, 1, 6), cards=True)


def surroundings(report: Json) -> Markup:
    """Hardware, versions, notes, how to do it again."""
    hardware = report["hardware"]
    facts: list[tuple[str, object]] = []
    if hardware:
        cores = [
            number(hardware.get("cpu_count"), figures.count),
            " × ",
            name(hardware["cpu_model"]),
        ]
        facts.append(("CPU", join(cores)))
        facts.append(("Memory", number(hardware.get("memory_bytes"), figures.bytes_)))
        if hardware.get("gpu_model"):
            gpus = [
                number(hardware["gpu_count"], figures.count),
                " × ",
                name(hardware["gpu_model"]),
            ]
            facts.append(("GPU", join(gpus)))
        versions = hardware.get("versions") or {}
        versions = {"suanli": report["run"]["suanli"], **versions}
        facts.append(("Versions", ", ".join(f"{k} {v}" for k, v in versions.items() if v)))
    facts.append(("Plan", code(report["plan_hash"])))
    facts.append(("Run", code(report["run"]["run_id"])))
    catalog = report["run"]["catalog"]
    if catalog.get("date"):
        facts.append(("Prices of", escape(catalog["date"])))
    facts += [
        (OUTPUTS[step["kind"]], code(step["output"]))
        for step in report["steps"]
        if step["output"] and step["kind"] in OUTPUTS
    ]
    facts += [(key, code(path)) for key, path in _artifact_rows(report)]
    listed = tag("dl", *(join([tag("dt", k), tag("dd", v)]) for k, v in facts), class_="facts")
    notes = [
        tag("li", tag("span", name(n["step"]), ": ", class_="soft"), escape(n["text"]))
        for n in report["notes"]
    ]
    noted = join([tag("h3", "Notes"), tag("ul", *notes, class_="notes")]) if notes else None
    return section(
        "Do it again", "Where it ran, with what, and how to get the same.", listed,
        _commands(report), noted, id_="again",
    )  # fmt: skip


def _artifact_rows(report: Json) -> list[tuple[str, str]]:
    words = {
        "model": "Model folder",
        "onnx": "ONNX model",
        "pipeline_yaml": "Pipeline",
        "plan": "Plan file",
    }
    return [(words[k], v) for k, v in report["artifacts"].items() if v and k in words]


def _commands(report: Json) -> Markup | None:
    commands = report["reproduce"]
    if not commands:
        return None
    last = len(SPEC_ORDER)
    ordered = sorted(report["spec"].items(), key=lambda item: SPEC_ORDER.get(item[0], last))
    spec = yaml.safe_dump(dict(ordered), sort_keys=False, allow_unicode=True)
    shown = tag("details", tag("summary", "The spec, every default filled in"), tag("pre", spec))
    return join([tag("h3", "Commands"), tag("pre", "\n".join(commands)), shown])
