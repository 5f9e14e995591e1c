"""How heavy a receipt's page is, how quickly a browser shows it, and pictures of it.

    python benchmarks/report_page.py RUNDIR [--failed RUNDIR] [--pictures docs/images]

Prints bytes, time to render the HTML, time to load it in Chromium (best of five), console
problems and requests, for a run's report.json and for a history of 1,000 runs made of it. Needs
Debian's ``chromium``. The pictures in README and docs come from here.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.report import history_html, render_html
from tests.browser import Browser

LOADS = 5
RUNS = 1000
NAIVE = ".point.naive"
COLOURS = 256  # a palette keeps flat pages sharp and below 300 KB
# name -> (width, dark, what of the page: its first pixels, or an element)
PICTURES: dict[str, tuple[int, bool, int | str]] = {
    "report-light": (1440, False, 1180),
    "report-dark": (1440, True, 1180),
    "report-phone": (390, False, 1500),
    "report-decision": (1440, False, "#decision"),
}
FAILED: dict[str, tuple[int, bool, int | str]] = {"report-failed": (1440, False, 900)}
LOAD_MS = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("rundir", type=Path)
    arguments.add_argument("--failed", type=Path, help="a failed run, to be pictured too")
    arguments.add_argument("--pictures", type=Path)
    given = arguments.parse_args()
    report = json.loads((given.rundir / "report.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        with Browser(folder / "profile") as browser:
            page = measure(browser, folder / "report.html", lambda: render_html(report))
            measure(browser, folder / "history.html", lambda: history_html(many(report)))
            failed = given.failed and page_of(given.failed, folder / "failed.html")
            if given.pictures:
                take(browser, page, given.pictures, PICTURES)
            if given.pictures and failed:
                take(browser, failed, given.pictures, FAILED)


def page_of(rundir: Path, path: Path) -> Path:
    """Write the page of the run in `rundir` to `path`."""
    report = json.loads((rundir / "report.json").read_text(encoding="utf-8"))
    path.write_text(render_html(report), encoding="utf-8")
    return path


def measure(browser: Browser, path: Path, render: Any) -> Path:
    """Write the page, load it, print one row of figures."""
    start = time.perf_counter()
    text = render()
    rendered = time.perf_counter() - start
    path.write_text(text, encoding="utf-8")
    browser.problems.clear()
    browser.requests.clear()
    loads = []
    for _ in range(LOADS):
        browser.open(path)
        loads.append(browser.evaluate(LOAD_MS))
    foreign = {url for url in browser.requests if not url.startswith(("file:", "data:"))}
    print(
        f"{path.name:14} {len(text.encode()):>9,} bytes  rendered in {rendered * 1000:.0f} ms  "
        f"loaded in {min(loads):.0f} ms  {len(browser.problems)} problems  "
        f"{len(foreign)} foreign requests"
    )
    return path


def many(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A thousand receipts of the same run, an hour apart."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    receipts = []
    for index in range(RUNS):
        receipt = copy.copy(report)
        moment = (start + timedelta(hours=index)).isoformat()
        receipt["run"] = {**report["run"], "run_id": f"run-{index:04}", "started_at": moment}
        receipts.append(receipt)
    return receipts


def take(
    browser: Browser, page: Path, folder: Path, pictures: dict[str, tuple[int, bool, int | str]]
) -> None:
    """Save the pictures as small PNG files; a pictured plot has the mouse on the naive plan."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, dark, part) in pictures.items():
        path = folder / f"{name}.png"
        browser.open(page, width=width, dark=dark)
        if isinstance(part, str) and browser.evaluate(f"!!document.querySelector('{NAIVE}')"):
            browser.hover(NAIVE)
        browser.screenshot(path, part=part)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
