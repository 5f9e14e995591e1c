"""The history page: a thousand runs, regressions marked, damaged receipts named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components.contract import DataError
from pipelines.report import history, history_html, load_reports
from tests.receipts import HOSTILE, many_receipts
from tests.unit.test_report_html import Page, leaves


def test_a_thousand_runs_are_quick_and_small() -> None:
    receipts = many_receipts(1000)
    start = time.process_time()
    text = history_html(receipts)
    assert time.process_time() - start < 5.0
    assert len(text.encode()) < 2 << 20
    page = Page(text)
    numbers = {float(x) for x in leaves(page.json) if isinstance(x, int | float)}
    assert len(page.numbers) > 5000
    assert set(page.numbers) <= numbers


def test_prediction_error_shrinks_and_totals_add_up() -> None:
    receipts = many_receipts(300)
    story = history(receipts)
    total = story["all"]
    assert total["last_error"] < total["first_error"] / 3
    assert total["usd"] == pytest.approx(sum(r["cost"]["measured_usd"] for r in receipts))
    assert total["runs"] == total["succeeded"] + total["failed"] == 300
    assert sum(group["runs"] for group in story["names"]) == 300


def receipt(index: int, **changes: object) -> dict:
    base = many_receipts(1)[0]
    run = {**base["run"], "started_at": f"2026-01-{index + 1:02}T00:00:00+00:00",
           "run_id": f"r{index}"}  # fmt: skip
    base["run"] = run
    for key, value in changes.items():
        section, _, name = key.partition("__")
        base[section] = {**base[section], name: value} if name else value
    return base


def test_regressions_are_marked_against_the_runs_before() -> None:
    runs = [receipt(index) for index in range(6)]
    runs += [
        receipt(6, quality__selected=0.40),
        receipt(7, cost__measured_usd=0.20),
        receipt(8, quality__selected=0.435),  # within the budget of 0.01
    ]
    found = [[item["what"] for item in row["regressions"]] for row in history(runs)["rows"]]
    assert found == [[]] * 6 + [["quality"], ["cost"], []]


def test_one_bad_run_does_not_make_the_next_look_good() -> None:
    runs = [receipt(index) for index in range(5)]
    runs += [receipt(5, quality__selected=0.30), receipt(6, quality__selected=0.40)]
    rows = history(runs)["rows"]
    assert rows[6]["regressions"][0]["usual"] == pytest.approx(0.44)


def test_another_spec_or_a_failed_run_is_no_measure() -> None:
    runs = [receipt(0), receipt(1, status="step_failed"), receipt(2, run__name="other")]
    runs[2]["quality"]["selected"] = 0.1
    assert [row["regressions"] for row in history(runs)["rows"]] == [[], [], []]


def test_order_of_the_receipts_does_not_matter() -> None:
    receipts = many_receipts(30)
    assert history(receipts) == history(receipts[::-1])


def test_hostile_names_stay_text() -> None:
    runs = [receipt(index, run__name=text) for index, text in enumerate(HOSTILE)]
    page = Page(history_html(runs, problems=HOSTILE))
    assert [name for name, _ in page.tags if name in ("img", "svg")] == []
    assert sum(name == "script" for name, _ in page.tags) == 2


def test_damaged_and_newer_receipts_are_named_and_left_out(tmp_path: Path) -> None:
    good = tmp_path / "newsroom-ner" / "run-0" / "report.json"
    for path, text in (
        (good, json.dumps(receipt(0))),
        (tmp_path / "a" / "half" / "report.json", '{"status": "succ'),
        (tmp_path / "a" / "newer" / "report.json", '{"schema_version": 99}'),
        (tmp_path / "store" / "hot" / "runs" / "run-0" / "report.json", json.dumps(receipt(0))),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    reports, problems = load_reports(tmp_path)
    assert len(reports) == 1
    assert [problem.split(":")[0] for problem in problems] == [
        "a/half/report.json",
        "a/newer/report.json",
    ]
    text = history_html(reports, problems)
    assert "a/newer/report.json" in text


def test_runs_link_to_their_pages_and_to_nothing_else(tmp_path: Path) -> None:
    for name in ("plain", "javascript:alert(1)", 'a b&c"d'):
        folder = tmp_path / "spec" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(receipt(0, run__run_id=name)))
        (folder / "report.html").write_text("x")
    reports, _ = load_reports(tmp_path, tmp_path / "history.html")
    page = Page(history_html(reports))
    links = [a["href"] for name, a in page.tags if name == "a"]
    assert sorted(links) == [
        "./spec/a%20b%26c%22d/report.html",
        "./spec/javascript%3Aalert%281%29/report.html",
        "./spec/plain/report.html",
    ]
    reports, _ = load_reports(tmp_path, tmp_path / "elsewhere" / "history.html")
    assert all(report["page"].startswith("./../spec/") for report in reports)


def test_a_run_without_a_receipt_is_named(tmp_path: Path) -> None:
    good, half = (tmp_path / "spec" / name for name in ("run-0", "run-1"))
    for folder in (good, half):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    (good / "report.json").write_text(json.dumps(receipt(0)))
    _, problems = load_reports(tmp_path)
    assert problems == ["spec/run-1: no receipt yet; `suanli report` makes one of what is there"]


def test_a_new_calibration_is_marked_where_it_began() -> None:
    runs = [receipt(index) for index in range(6)]
    for index, run in enumerate(runs):
        run["run"]["calibration"] = {"hash": "b" if index > 3 else "a", "observations": index}
        run["steps"][0]["predicted"]["seconds"] = 90.0
    rows = history(runs)["rows"]
    assert [row["recalibrated"] for row in rows] == [False] * 4 + [True, False]
    text = history_html(runs)
    assert text.count('class="learnt"') == 1
    assert "dashed: a new calibration" in text


def test_no_receipt_at_all_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable report\.json"):
        load_reports(tmp_path)
