"""What the KFP UI shows of a step, checked with KFP's own artifact types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp import dsl

from components.lib import kfp_artifacts
from tests.receipts import HOSTILE, Receipts, evaluation, selection


@pytest.fixture
def run(tmp_path: Path) -> Receipts:
    return Receipts(folder=tmp_path)


def put(run: Receipts, kind: str, document: dict) -> tuple[str, str]:
    """Store `document` as the step would; returns the store and the artifact's URI."""
    folder = run.folder / kind
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.json").write_text(json.dumps(document))
    return run.store.tiers.to_json(), run.store.put_folder(folder, kind=kind)


def test_evaluation_is_shown_as_metrics(run: Receipts) -> None:
    metrics = dsl.Metrics(name="metrics", uri="", metadata={})
    kfp_artifacts.log_evaluation(*put(run, "evaluation", evaluation("int8")), metrics)
    assert metrics.metadata["entity_f1"] == evaluation("int8")["value"]
    assert metrics.metadata["latency_p99_ms"] == pytest.approx(6.774)
    assert all(isinstance(value, float) for value in metrics.metadata.values())


@pytest.mark.parametrize("labels", [["O", "B-x"], [f"{i}{text}" for i, text in enumerate(HOSTILE)]])
def test_selection_is_shown_as_metrics_and_confusion_matrix(
    run: Receipts, labels: list[str]
) -> None:
    metrics = dsl.Metrics(name="metrics", uri="", metadata={})
    confusion = dsl.ClassificationMetrics(name="confusion", uri="", metadata={})
    document = selection(labels=labels)
    kfp_artifacts.log_selection(*put(run, "selection", document), metrics, confusion)
    assert metrics.metadata["selected"] == "int8"
    assert metrics.metadata["selected_entity_f1"] == 0.4377
    assert metrics.metadata["selected_size_mib"] == 22.6
    matrix = confusion.metadata["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == labels
    assert [row["row"] for row in matrix["rows"]] == document["confusion"]["matrix"]


def test_confusion_of_too_many_labels_is_left_to_the_page(run: Receipts) -> None:
    metrics = dsl.Metrics(name="metrics", uri="", metadata={})
    confusion = dsl.ClassificationMetrics(name="confusion", uri="", metadata={})
    document = selection(labels=[f"intent {i}" for i in range(151)])
    kfp_artifacts.log_selection(*put(run, "selection", document), metrics, confusion)
    assert confusion.metadata == {}


def test_page_and_summary_are_copied_to_where_kfp_looks(run: Receipts, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for name in ("report.html", "report.md", "report.json"):
        (folder / name).write_text(f"{name} ü", encoding="utf-8")
    uri = run.store.put_folder(folder, kind="report")
    html = dsl.HTML(name="html", uri=str(tmp_path / "out" / "a" / "html"))
    summary = dsl.Markdown(name="summary", uri=str(tmp_path / "out" / "b" / "summary"))
    kfp_artifacts.copy_report(run.store.tiers.to_json(), uri, html, summary)
    assert Path(html.path).read_text(encoding="utf-8") == "report.html ü"
    assert Path(summary.path).read_text(encoding="utf-8") == "report.md ü"
