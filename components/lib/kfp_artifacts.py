"""Show a step's result in the KFP UI: metrics, confusion matrix, curves, HTML, Markdown.

The artifacts hold small figures only; models and data stay in the store.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.storage import Store, Tiers

# KFP stores a confusion matrix as one row a class; beyond this the UI is unreadable.
MAX_CONFUSION_LABELS = 100


def log_evaluation(store: str, uri: str, metrics: Any) -> None:
    """Log the evaluation at `uri` as KFP Metrics."""
    document = _document(store, uri, "evaluation.json")
    metrics.log_metric(document["metric"], float(document["value"]))
    metrics.log_metric("size_mib", round(document["size_bytes"] / 2**20, 2))
    metrics.log_metric("throughput_per_s", round(document["throughput_per_s"], 1))
    for quantile, value in document["latency_ms"].items():
        metrics.log_metric(f"latency_{quantile}_ms", round(value, 3))


def log_selection(store: str, uri: str, metrics: Any, confusion: Any) -> None:
    """Log the selection at `uri` as KFP Metrics and ClassificationMetrics."""
    document = _document(store, uri, "selection.json")
    quality = document["quality"]
    metrics.metadata["selected"] = document["selected"]
    metrics.log_metric(f"tuned_{quality['metric']}", float(quality["tuned"]))
    metrics.log_metric(f"selected_{quality['metric']}", float(quality["selected"]))
    chosen = next(row for row in document["variants"] if row["name"] == document["selected"])
    metrics.log_metric("selected_size_mib", round(chosen["size_bytes"] / 2**20, 2))
    metrics.log_metric("selected_latency_p99_ms", round(chosen["latency_ms"]["p99"], 3))
    table = document.get("confusion")
    if table and len(table["labels"]) <= MAX_CONFUSION_LABELS:
        confusion.log_confusion_matrix(table["labels"], table["matrix"])


def copy_report(store: str, uri: str, html: Any, summary: Any) -> None:
    """Copy report.html and report.md of the report at `uri` to the KFP artifacts' paths."""
    with tempfile.TemporaryDirectory() as folder:
        files = Store(Tiers.from_json(store)).fetch(uri, Path(folder))
        for name, artifact in (("report.html", html), ("report.md", summary)):
            Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files / name, artifact.path)


def show_curves(store: str, uri: str, curves: Any, ui_metadata: Any) -> None:
    """Copy the TensorBoard files of the model at `uri` to the KFP artifact `curves`, and tell the
    KFP UI to offer a TensorBoard of it (an artifact called mlpipeline_ui_metadata does)."""
    folder = Path(curves.path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        found = Store(Tiers.from_json(store)).fetch_part(uri, "tensorboard/", Path(aside))
        for path in found:
            shutil.copyfile(path, folder / path.name)
    plots = [{"type": "tensorboard", "source": curves.uri}] if found else []
    target = Path(ui_metadata.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"outputs": plots}))


def _document(store: str, uri: str, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = Store(Tiers.from_json(store)).fetch(uri, Path(folder))
        document: dict[str, Any] = json.loads((files / name).read_text())
        return document
