"""The report step under the runtime: what it leaves in the store, after success and failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from components.contract import StepError
from components.runtime import execute
from pipelines.control.report import step
from pipelines.dag import step_config
from pipelines.report import render_html
from pipelines.schemas import schema
from tests.receipts import Receipts
from tests.support import suanli


def run_step(run: Receipts, state: str) -> tuple[dict[str, Any], Path]:
    """Run the step as the exit handler does; returns its receipt and the artifact's folder."""
    uri = execute(
        "report",
        step.run,
        config=step_config(run.plan, "report"),
        inputs={"state": state},
        store=run.store.tiers.to_json(),
        run_id=run.run_id,
        resumable=False,
    )
    folder = run.store.fetch(uri, run.folder / f"fetched-{state}")
    return json.loads((folder / "report.json").read_text(encoding="utf-8")), folder


def test_receipt_of_a_success_has_a_measure_for_every_step(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before(None)
    report, folder = run_step(run, "SUCCEEDED")
    jsonschema.validate(report, schema("report"))
    assert report["status"] == "succeeded"
    assert all(row["measured"]["seconds"] > 0 for row in report["steps"])
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html", "report.md"}
    assert (folder / "report.html").read_text(encoding="utf-8") == render_html(report)
    assert run.store.get_json(f"runs/{run.run_id}/report.json") == report
    assert run.store.get_json(f"runs/{run.run_id}/steps/report.json")["kind"] == "report"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMED_OUT"])
def test_failure_has_a_receipt_too(tmp_path: Path, state: str) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before("train")
    run.fail("train", StepError("out of memory", remedy="use a smaller micro-batch"))
    report, folder = run_step(run, state)
    assert report["status"] == "step_failed"
    assert "smaller micro-batch" in (folder / "report.html").read_text(encoding="utf-8")
    assert "out of memory" in (folder / "report.md").read_text(encoding="utf-8")


def test_state_without_an_error_document_is_told_as_broken_off(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before("train")
    run.start("train")
    report, _ = run_step(run, "FAILED")
    assert report["error"]["step"] == "train"
    assert "not repeated" in report["error"]["remedy"]


def test_step_runs_anew_each_time(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    first, _ = run_step(run, "FAILED")
    run.finish_before(None)
    second, _ = run_step(run, "SUCCEEDED")
    assert (first["status"], second["status"]) == ("step_failed", "succeeded")


def test_history_command_writes_one_page(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before(None)
    report, _ = run_step(run, "SUCCEEDED")
    folder = tmp_path / "runs" / run.plan.name / run.run_id
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    done = suanli("history", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "History" in (tmp_path / "runs" / "history.html").read_text(encoding="utf-8")
    figures = json.loads(suanli("history", tmp_path / "runs", "--json").stdout)
    assert figures["all"]["runs"] == 1


def test_history_of_nothing_is_bad_input(tmp_path: Path) -> None:
    done = suanli("history", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "history.html").exists()
