"""Receipts written by other versions, by hand, or not receipts at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.contract import REPORT_VERSION, DataError
from pipelines.report import collect_report, completed, render_html, render_markdown
from tests.receipts import Receipts

# The first published shape: only what the design promises, no schema_version.
OLD: dict[str, Any] = {
    "status": "succeeded",
    "plan_hash": "a" * 64,
    "spec": {"name": "old-run", "task": "text-classification", "model": {"id": "minilm-l6"}},
    "hardware": {"cpu_model": "Xeon", "cpu_count": 8, "memory_bytes": 1 << 34},
    "quality": {"metric": "accuracy", "split": "test", "tuned": 0.9, "selected": 0.89},
    "classification_report": {"a": {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 10}},
    "variants": [
        {"name": "fp32", "quality_validation": 0.9, "size_bytes": 100, "accepted": True},
        {"name": "int8", "quality_validation": 0.89, "size_bytes": 25, "accepted": True},
    ],
    "selected": "int8",
    "steps": [
        {"name": "train", "predicted": {"seconds": 10.0}, "measured": {"seconds": 12.0}},
        {"name": "export-int8", "predicted": {}, "measured": None},
    ],
    "cost": {"predicted_usd": 1.0, "measured_usd": 1.2, "first_order_usd": 0.5},
}


def test_old_receipt_renders_with_its_figures() -> None:
    report = completed(OLD)
    assert report["schema_version"] == REPORT_VERSION
    assert report["verdict"]["times_smaller"] == 4.0
    page = render_html(OLD)
    assert "old-run" in page
    assert ">0.890<" in page
    assert "keeps 0.890 of 0.900 accuracy" in render_markdown(OLD)


def test_completing_a_present_receipt_changes_nothing(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before(None)
    report = collect_report(run.store, run.run_id, run.plan, "succeeded")
    report_again = completed(report)
    assert {key: report_again[key] for key in report} == report


def test_an_empty_object_is_a_receipt_of_nothing() -> None:
    assert "No model was selected" in render_html({})


@pytest.mark.parametrize("version", [REPORT_VERSION + 1, "1", 1.5, True])
def test_newer_and_odd_versions_are_refused_with_a_remedy(version: object) -> None:
    with pytest.raises(DataError, match="schema_version") as caught:
        render_html({**OLD, "schema_version": version})
    assert "newer" in caught.value.remedy


@pytest.mark.parametrize(
    "broken",
    [[], "report", {"steps": [1]}, {"variants": {"a": 1}}, {"quality": 3}, {"spec": None}],
)
def test_what_is_not_a_receipt_is_a_data_error(broken: object) -> None:
    with pytest.raises(DataError, match="receipt"):
        completed(broken, source="x/report.json")


def test_negative_scores_stand_side_by_side_instead_of_as_a_share() -> None:
    quality = {"metric": "negative_loss", "split": "test", "tuned": -2.30, "selected": -2.31}
    report = {**OLD, "quality": {**quality, "max_quality_drop": 0.02}, "selected": "int8"}
    found = completed(report)["verdict"]
    assert found["quality_kept"] is None
    assert found["quality_drop"] == pytest.approx(0.01)
    assert "reaches -2.310 against -2.300 negative loss" in render_markdown(report)
    page = render_html(report)
    assert "Quality kept" not in page
    assert "was allowed" in page


def test_a_choice_without_fp32_to_compare_with_claims_no_gain() -> None:
    report = {**OLD, "variants": [OLD["variants"][1]]}
    assert completed(report)["verdict"]["times_smaller"] is None
    assert "smaller" not in render_markdown(report)
    assert "smaller and" not in render_html(report)
