"""The page in a real browser: no error, no request, no overflow, readable by everyone.

Needs Debian's ``chromium``; the accessibility test also needs npm and a registry for axe-core.
Both skip visibly otherwise.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.contract import DataError, GateError
from pipelines.report import collect_report, history_html, render_html
from tests.browser import CHROMIUM, Browser
from tests.receipts import HOSTILE, Receipts, hostile_run, many_receipts, rich_plan

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
    pytest.mark.slow,
]
AXE = "axe-core@4.14.1"
PAGES = ("finished", "failed", "broken-off", "gate-failed", "long-names", "hostile", "history")
RENDER_SECONDS = 1.0


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    texts = {
        "history": history_html(many_receipts(60)),
        "long-history": history_html(many_receipts(1000)),
    }
    for name, until, error in (
        ("finished", None, None),
        ("failed", "train", DataError("train.conll:7: 3 columns", remedy="give two")),
        ("broken-off", "export-int8", None),
        ("gate-failed", "select", GateError("none will do\nfp32  0.4", remedy="allow more")),
        ("long-names", None, None),
    ):
        run = Receipts(folder=folder / name)
        if name == "long-names":
            plan = dataclasses.replace(rich_plan(("fp32", "x" * 60)), name="a-long-name" * 12)
            run = Receipts(folder=folder / name, plan=plan, labels=["O", *("y" * 70, "w " * 40)])
        run.finish_before(until)
        if error and until:
            run.fail(until, error)
        status = "step_failed" if until else "succeeded"
        texts[name] = render_html(collect_report(run.store, run.run_id, run.plan, status))
    run = hostile_run(folder / "hostile", [text for text in HOSTILE if text != "\ud800"])
    texts["hostile"] = render_html(collect_report(run.store, run.run_id, run.plan, "step_failed"))
    paths = {}
    for name, text in texts.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text, encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    fetched = subprocess.run(
        [npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, timeout=120
    )
    archive = next(folder.glob("axe-core-*.tgz"), None)
    if fetched.returncode or archive is None:
        pytest.skip(f"npm cannot fetch {AXE}")
    with tarfile.open(archive) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("page", [*PAGES, "long-history"])
def test_page_loads_quickly_without_error_request_or_overflow(
    browser: Browser, pages: dict[str, Path], page: str, width: int
) -> None:
    browser.problems.clear()
    browser.requests.clear()
    before = browser.render_seconds()
    browser.open(pages[page], width=width)
    after = browser.render_seconds()  # counts from 0 again where the page got a new process
    assert (after - before if after > before else after) < RENDER_SECONDS
    assert browser.problems == []
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}
    assert len([url for url in browser.requests if url.startswith("file:")]) == 1
    assert browser.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert pages[page].stat().st_size < 2 << 20


@pytest.mark.parametrize(("dark", "width"), [(False, 1440), (True, 390)], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_page_has_no_serious_accessibility_violation(
    browser: Browser, pages: dict[str, Path], axe: str, page: str, dark: bool, width: int
) -> None:
    browser.open(pages[page], dark=dark, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.evaluate(f"{axe}; 1")
    found = browser.evaluate(
        "axe.run().then((r) => r.violations.map((v) => [v.id, v.impact,"
        " v.nodes.slice(0, 3).map((n) => n.html + ' ' + n.failureSummary)]))"
    )
    assert [f for f in found if f[1] in ("serious", "critical")] == []


def test_scheme_follows_the_reader(browser: Browser, pages: dict[str, Path]) -> None:
    colours = []
    for dark in (False, True):
        browser.open(pages["finished"], dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_front_can_be_walked_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["finished"])
    readout = "document.querySelector('.readout').textContent"
    assert "cheapest inside deadline and budget" in browser.evaluate(readout)
    browser.evaluate("document.querySelector('[role=listbox]').focus()")
    browser.key("Home")
    first = browser.evaluate(readout)
    browser.key("ArrowRight")
    second = browser.evaluate(readout)
    assert "node-0" in first
    assert first != second
    active = "document.querySelector('[role=listbox]').getAttribute('aria-activedescendant')"
    assert browser.evaluate(active) == "front-1"
    browser.key("End")
    browser.key("ArrowRight")
    assert "beaten by" in browser.evaluate(readout)


def test_the_mouse_finds_the_nearest_point(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["finished"])
    assert browser.evaluate("document.querySelector('.tip').hidden")
    browser.hover(".point.naive", dx=14, dy=9)  # beside it: nobody has to hit the dot
    readout = browser.evaluate("document.querySelector('.readout').textContent")
    assert "one node kept throughout" in readout
    assert "the naive plan" in readout
    tip = browser.evaluate("document.querySelector('.tip').textContent")
    assert tip.startswith("one node kept throughout · $")
    assert not browser.evaluate("document.querySelector('.tip').hidden")


def test_hostile_strings_run_nothing(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    assert browser.evaluate("document.querySelectorAll('img, iframe, [onload]').length") == 0
    assert browser.evaluate("document.scripts.length") == 2
