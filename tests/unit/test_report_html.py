"""The page: every number comes from report.json and nothing it shows can break out."""

from __future__ import annotations

import html.parser
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from components.contract import DataError
from pipelines.report import collect_report, render_html, render_markdown, with_own_step
from pipelines.reporting.markup import Markup, embedded_json, escape, tag
from tests.receipts import HOSTILE, Receipts, hostile_run, rich_plan
from tests.support import SHARED, needs_shared

VOID = {"meta", "link", "br", "hr", "img", "path", "line", "rect", "circle", "polyline"}
# Digits that belong to a word: quantiles, levels of intervals, the name of a score or a variant.
WORDS = re.compile(r"\bp(50|90|99)\b|80 %|95 %|\bF1\b|fp32|utf-8")


class Page(html.parser.HTMLParser):
    """Takes a page apart: its tree must close properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[float] = []
        self.texts: list[str] = []
        self.json: Any = None
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "data":
            self.numbers.append(float(attributes["value"] or "nan"))
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened, _ = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        names = [name for name, _ in self.open]
        classes = " ".join(attributes.get("class") or "" for _, attributes in self.open)
        if names[-1:] == ["script"] and self.open[-1][1].get("type") == "application/json":
            self.json = json.loads(data)
        if not {"script", "style", "data", "time"} & set(names) and "tick" not in classes:
            self.texts.append(data)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in [key, *leaves(item)]]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def page_of(run: Receipts, status: str = "succeeded") -> tuple[dict[str, Any], str]:
    report = collect_report(run.store, run.run_id, run.plan, status)
    plan = run.plan.to_json()
    report = with_own_step(report, "report", seconds=0.2, peak_memory_bytes=90 << 20, plan=plan)
    return report, render_html(report)


@pytest.fixture
def run(tmp_path: Path) -> Receipts:
    return Receipts(folder=tmp_path)


@pytest.mark.parametrize("until", [None, "train", "export-int8", "select", "ingest"])
def test_every_number_in_the_page_is_in_report_json(run: Receipts, until: str | None) -> None:
    run.finish_before(until)
    run.store.put_json(f"runs/{run.run_id}/unrestricted_plan.json", rich_plan().to_json())
    if until:
        run.fail(until, DataError("line 7: 3 columns, 2 expected", remedy="use 2"))
    report, text = page_of(run)
    page, found = Page(text), leaves(report)
    numbers = {float(x) for x in found if isinstance(x, int | float)}
    strings = sorted({x for x in found if isinstance(x, str) and x}, key=len, reverse=True)
    assert len(page.numbers) > 60
    assert set(page.numbers) <= numbers
    for piece in page.texts:
        rest = piece
        for string in strings:
            rest = rest.replace(string, "")
        for token in re.findall(r"\d[\d.,]*", WORDS.sub("", rest)):
            assert float(token.strip(".,")) in numbers, f"{token!r} of {piece!r}"


def test_page_embeds_the_report_and_asks_for_nothing(run: Receipts) -> None:
    run.finish_before(None)
    report, text = page_of(run)
    page = Page(text)
    assert page.json["quality"] == report["quality"]
    for name, attributes in page.tags:
        assert name not in ("img", "iframe", "object", "embed", "form", "base")
        assert not attributes.get("src")
        href = attributes.get("href") or "#"
        assert href.startswith(("#", "data:,"))
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_page_is_small_and_quick(run: Receipts) -> None:
    run.finish_before(None)
    report, text = page_of(run)
    start = time.process_time()
    render_html(report)
    assert time.process_time() - start < 0.5
    assert len(text.encode()) < 300_000


def test_page_of_many_labels_and_a_long_training_stays_small(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path, labels=[f"a label of some length {i}" for i in range(500)])
    for name in ("train", "select"):
        run.finish(name)
    key = f"runs/{run.run_id}/steps/train.json"
    train = run.store.get_json(key)
    train["series"]["loss"] = [{"step": i, "loss": 2.0 / (i + 1)} for i in range(60_000)]
    run.store.put_json(key, train)
    report, text = page_of(run)
    assert len(text.encode()) < 2 << 20
    page = Page(text)
    assert set(page.numbers) <= {float(x) for x in leaves(report) if isinstance(x, int | float)}
    assert page.json["learning_curve"][0]["points"][-1] == train["series"]["loss"][-1]
    assert "Most frequent confusions" in text


def test_failed_run_puts_error_and_remedy_first(run: Receipts) -> None:
    run.finish_before("train")
    run.fail("train", DataError("train.conll:7: three columns", remedy="give two"))
    _, text = page_of(run, "step_failed")
    main = text[text.index("<main>") :]
    assert main.index("three columns") < main.index("give two") < main.index('id="steps"')
    assert main.index('id="steps"') < main.index('id="decision"')
    assert 'id="variants"' not in main  # nothing was evaluated: no table of dashes


def test_receipt_of_a_failure_has_every_part_that_its_steps_reached(run: Receipts) -> None:
    run.finish_before(None)
    _, whole = page_of(run)
    sections = re.findall(r'<section id="([a-z]+)"', whole)
    assert len(sections) == 9
    failed = Receipts(folder=run.folder / "failed")
    failed.finish_before("publish")
    failed.fail("publish", DataError("disk full", remedy="free some"))
    _, text = page_of(failed, "step_failed")
    assert sorted(re.findall(r'<section id="([a-z]+)"', text)) == sorted(sections)
    assert "14</data> of " in text
    assert "takes them over and repeats none" in text


def test_each_candidate_of_a_search_has_its_planned_and_its_measured_time(run: Receipts) -> None:
    run.finish_before(None)
    report, text = page_of(run)
    (found,) = report["searches"]
    assert found["step"] == "compress-prune50-int8"
    assert found["predicted_s"] == run.plan.step(found["step"]).seconds.value
    section = text.split('id="searches"')[1].split("</section>")[0]
    for one in found["candidates"]:
        assert f">{one['name']}<" in section
        assert f'value="{json.dumps(one["predicted_s"])}"' in section
        assert f'value="{json.dumps(one["seconds"])}"' in section
    assert section.count("chosen</span>") == 1
    assert "6 heads, 650 neurons" in section


def test_time_and_money_stand_under_the_headline(run: Receipts) -> None:
    run.finish_before(None)
    _, text = page_of(run)
    header = re.sub(r"<[^>]*>", "", text[text.index("<h1>") : text.index("<nav")])
    sentence = header.replace("\u00a0", " ")
    assert "Made in 9 min 38 s for $0.048, 3.4× cheaper than one node kept throughout" in sentence


def test_naive_plan_budget_and_deadline_stand_in_the_plot(run: Receipts) -> None:
    run.finish_before(None)
    report, _ = page_of(run)
    made = report["decision"]
    near = {**made, "deadline_s": made["alternatives"][0]["seconds"] * 1.5, "budget_usd": 0.1}
    text = render_html({**report, "decision": near})
    assert text.count('class="point naive"') == 1
    assert 'class="bound deadline"' in text
    assert 'class="bound budget"' in text
    far = render_html({**report, "decision": {**made, "deadline_s": 9e6, "budget_usd": 5000}})
    assert 'class="bound' not in far


def test_a_loss_of_speed_is_not_told_as_a_gain(run: Receipts) -> None:
    run.finish_before(None)
    report, _ = page_of(run)
    for row in report["variants"]:
        if row["name"] == "int8":
            row["latency_ms"] = {"p50": 14.0, "p90": 15.0, "p99": 16.0}
    text = render_html(report)
    headline = text[text.index("<h1>") : text.index("</h1>")]
    assert "faster" not in headline
    assert "smaller" in headline
    assert "faster" not in render_markdown(report)


def assert_harmless(text: str) -> None:
    page = Page(text)  # fails where a tag was opened or closed by a string
    scripts = [attributes for name, attributes in page.tags if name == "script"]
    assert len(scripts) == 2
    allowed = {"html", "head", "meta", "title", "link", "style", "body", "p", "span", "main",
               "header", "b", "bdi", "h1", "h2", "h3", "div", "dl", "dt", "dd", "nav", "a",
               "section", "table", "caption", "thead", "tbody", "tr", "th", "td", "data", "i",
               "figure", "figcaption", "svg", "polyline", "details", "summary", "pre", "code",
               "ul", "li", "time", "script"}  # fmt: skip
    for name, attributes in page.tags:
        assert name in allowed
        assert not any(key.startswith("on") for key in attributes)
    assert "\u202e" not in text
    assert "\x1b" not in text
    text.encode()


def test_hostile_strings_never_break_out(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, [s for s in HOSTILE if s != "\ud800"])
    report, text = page_of(run, "step_failed")
    assert_harmless(text)
    assert Page(text).json["confusion"]["labels"] == report["confusion"]["labels"]


@needs_shared
def test_naughty_strings_never_break_out(tmp_path: Path) -> None:
    strings = json.loads((SHARED / "data" / "badinput-blns" / "blns.json").read_text())
    run = hostile_run(tmp_path, strings)
    _, text = page_of(run, "step_failed")
    assert_harmless(text)
    summary = render_markdown(page_of(run)[0])
    assert "<script" not in summary.replace("\\<", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_escape_leaves_no_live_character(text: str) -> None:
    element = str(tag("p", text, title=text))
    assert re.fullmatch(r'<p title="[^"<>]*">[^<>]*</p>', element)
    element.encode()
    assert "<" not in embedded_json({"x": text})
    assert json.loads(embedded_json({"x": text})) == {"x": text}


def test_markup_is_not_escaped_twice() -> None:
    assert escape(Markup("<b>1</b>")) == "<b>1</b>"
    assert escape("a & b") == "a &amp; b"


def test_markdown_says_verdict_steps_and_cost(run: Receipts) -> None:
    run.finish_before(None)
    report, _ = page_of(run)
    summary = render_markdown(report)
    assert "**int8** keeps 0.438 of 0.441 entity F1, 4.0× smaller, 3.1× faster" in summary
    for row in (*report["variants"], *report["steps"]):
        assert row["name"].replace("-", "\\-").replace("+", "\\+") in summary
    assert "Cost: $0.048 measured" in summary
    assert "Made in 9 min 38 s for $0\\.048, 3\\.4× cheaper than one node" in summary
