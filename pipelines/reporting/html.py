"""report.html: one self-contained page; nothing is fetched, nothing it shows can run."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from pipelines.reporting import sections_plan as plan
from pipelines.reporting import sections_result as result
from pipelines.reporting import verdict
from pipelines.reporting.charts import thin_out
from pipelines.reporting.markup import Markup, embedded_json, escape, join, tag
from pipelines.reporting.upgrade import completed

Json = dict[str, Any]
ASSETS = Path(__file__).parent / "assets"
LANGUAGE = "en"
MAX_CARRIED_LABELS = 200


def render_html(report: Json) -> str:
    """Return the page of `report`, of this schema version or an older one.

    Raises:
        DataError: not a receipt that this version can read.
    """
    report = completed(report)
    gained = [
        result.variants(report),
        result.searches(report),
        result.quality(report),
        result.learning(report),
    ]
    steps = plan.prediction(report)
    # After a failure the first question is how far it got, but a gate is about the variants.
    broken = report["error"] and report["status"] != "gate_failed"
    parts = [
        *([steps, *gained] if broken else [*gained, steps]),
        plan.decision(report),
        plan.storage(report),
        plan.rightsizing(report),
        plan.surroundings(report),
    ]
    title = f"{report['run']['name']} · {report['status']} · suanli"
    data = tag("script", embedded_json(_carried(report)), type="application/json", id="report")
    body = join([verdict.header(report), _contents(parts), *parts, data])
    return page(title, body)


def _carried(report: Json) -> Json:
    """The receipt that the page carries: report.json, but for what would make the page heavy.

    A curve has no more points than are drawn, and the matrix of very many labels stays in
    report.json: the page shows its most frequent confusions.
    """
    curves = [{**c, "points": thin_out(c["points"])} for c in report["learning_curve"]]
    confusion = report["confusion"]
    if confusion and len(confusion.get("labels") or []) > MAX_CARRIED_LABELS:
        confusion = {**confusion, "matrix": None}
    return {**report, "learning_curve": curves, "confusion": confusion}


def _contents(parts: list[Markup]) -> Markup:
    """Links to the sections that the page has."""
    links = []
    for part in parts:
        if part:
            anchor = part.split('id="', 1)[1].split('"', 1)[0]
            heading = Markup(part.split("<h2>", 1)[1].split("</h2>", 1)[0])
            links.append(tag("a", heading, href=f"#{anchor}"))
    return tag("nav", *links, aria_label="Sections")


def page(title: str, body: Markup, *, kind: str = "receipt") -> str:
    """Wrap `body` into a document that allows its own style and script and nothing else."""
    style, script = asset("page.css"), asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", escape(title)),
            tag("link", rel="icon", href="data:,"),
            tag("style", Markup(style)),
        ]
    )
    top = tag("p", tag("span", "算力", lang="zh", class_="mark"), f" suanli {kind}", class_="top")
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag("head", head),
            tag("body", top, tag("main", body), tag("script", Markup(script))),
            lang=LANGUAGE,
        )
        + "\n"
    )


@functools.cache
def asset(name: str) -> str:
    """Return a file of `assets`."""
    return (ASSETS / name).read_text(encoding="utf-8")
