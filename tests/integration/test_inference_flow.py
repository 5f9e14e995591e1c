"""Compress, export, evaluate, select and publish, on tiny models of every task."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from components.compress import step as compress
from components.evaluate import step as evaluate
from components.export import step as export
from components.lib.dataset import read_manifest
from components.publish import step as publish
from components.select import step as select
from tests.inference_support import make_context, make_dataset, make_model, make_store

TASKS = ["token-classification", "text-classification"]


def flow(folder: Path, task: str, variants: list[str]) -> SimpleNamespace:
    """Run everything between train and report."""
    store = make_store(folder / "store")
    dataset = make_dataset(store, folder, task)
    labels = read_manifest(store.fetch(dataset, folder / "dataset"))["labels"]
    model = make_model(store, folder / "model", task, labels)
    graphs, evaluations = [], []
    for variant in variants:
        arguments = {"variant": variant, "target": "cpu", "task": task, "screening_s": 0.05}
        made = compress.run(
            make_context(store, "compress", arguments, {"model": model, "dataset": dataset})
        )
        inputs = {"model": made, "dataset": dataset}
        graphs.append(export.run(make_context(store, "export", arguments, inputs)))
        inputs = {"onnx": graphs[-1], "dataset": dataset}
        evaluations.append(evaluate.run(make_context(store, "evaluate", arguments, inputs)))
    arguments = {"variants": variants, "max_quality_drop": 1.0, "load_s": 0.1}
    inputs = {"evaluations": evaluations, "onnx": graphs, "dataset": dataset}
    selection = select.run(make_context(store, "select", arguments, inputs))
    inputs = {"selection": selection, "dataset": dataset}
    published = publish.run(make_context(store, "publish", {"name": "tiny"}, inputs))
    return SimpleNamespace(
        store=store,
        dataset=dataset,
        model=model,
        selection=json.loads((store.fetch(selection, folder / "s") / "selection.json").read_text()),
        evaluations=[
            json.loads((store.fetch(uri, folder / f"e{i}") / "evaluation.json").read_text())
            for i, uri in enumerate(evaluations)
        ],
        published=store.fetch(published, folder / "published"),
        graphs=graphs,
    )


@pytest.mark.parametrize("task", TASKS)
def test_flow(tmp_path: Path, task: str):
    made = flow(tmp_path, task, ["fp32", "int8"])
    assert made.selection["selected"] in ("fp32", "int8")
    fp32, int8 = made.evaluations
    assert int8["size_bytes"] < 0.26 * fp32["size_bytes"]
    assert fp32["provider"] == int8["provider"] == "CPUExecutionProvider"
    assert fp32["latency_ms"]["p50"] <= fp32["latency_ms"]["p99"]
    low, high = fp32["ci95"]
    assert low <= fp32["value"] <= high
    assert np.isfinite(made.selection["quality"]["p_drop_exceeds_budget"])
    model = made.published / "tiny" / "1"
    assert {"model.onnx", "tokenizer.json", "labels.json", "predict.py", "model-card.md"} <= {
        path.name for path in model.iterdir()
    }
