"""Compress, export, evaluate, select and publish, on tiny models of every task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from components.compress import step as compress
from components.contract import MAIN_METRIC
from components.evaluate import step as evaluate
from components.export import step as export
from components.lib.dataset import read_manifest
from components.publish import step as publish
from components.select import step as select
from tests.inference_support import make_context, make_dataset, make_model, make_store

TASKS = [
    "token-classification",
    "text-classification",
    "text-pair-ranking",
    "causal-lm",
    "image-classification",
]
# What predict.py says it needs, and nothing else of this environment.
STANDALONE = ("onnxruntime", "tokenizers", "numpy", "numpy.libs")


def flow(
    folder: Path, task: str, variants: list[str], *, config: str | None = None
) -> SimpleNamespace:
    """Run everything between train and report."""
    store = make_store(folder / "store")
    rows = 10 if task == "image-classification" else 60
    dataset = make_dataset(store, folder, task, rows=rows)
    labels = read_manifest(store.fetch(dataset, folder / "dataset"))["labels"]
    model = make_model(store, folder / "model", task, labels, config=config)
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


def check_flow(made: SimpleNamespace, task: str) -> None:
    assert made.selection["selected"] in ("fp32", "int8")
    fp32, int8 = made.evaluations
    assert int8["size_bytes"] < 0.3 * fp32["size_bytes"]
    assert fp32["provider"] == int8["provider"] == "CPUExecutionProvider"
    assert fp32["latency_ms"]["p50"] <= fp32["latency_ms"]["p99"]
    assert fp32["metric"] == MAIN_METRIC[task]
    low, high = fp32["ci95"]
    assert low <= fp32["value"] <= high
    assert np.isfinite(made.selection["quality"]["p_drop_exceeds_budget"])
    for scenarios in made.selection["load"].values():
        assert scenarios["SingleStream"]["queries"] > 0
        assert scenarios["Offline"]["samples_per_second"] > 0
    model = made.published / "tiny" / "1"
    assert {"model.onnx", "labels.json", "predict.py", "model-card.md", "SHA256SUMS"} <= {
        path.name for path in model.iterdir()
    }
    card = (model / "model-card.md").read_text()
    assert f"{made.selection['quality']['selected']:.4f}" in card


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS[1:])
def test_every_task(tmp_path: Path, task: str):
    check_flow(flow(tmp_path, task, ["fp32", "int8"]), task)


@pytest.mark.slow
def test_a_model_of_stages_goes_the_same_way(tmp_path: Path):
    made = flow(tmp_path, "image-classification", ["fp32", "int8"], config="levit-micro")
    fp32, int8 = made.evaluations
    assert int8["size_bytes"] < 0.5 * fp32["size_bytes"]  # its convolutions stay in fp32
    for graph in made.graphs:
        document = json.loads(
            (made.store.fetch(graph, tmp_path / graph[-9:]) / "export.json").read_text()
        )
        assert document["parity"]["passed"], document["parity"]


@pytest.mark.slow
def test_published_model_reproduces_its_score_standalone(tmp_path: Path):
    task = "token-classification"
    made = flow(tmp_path, task, ["fp32", "int8"])
    check_flow(made, task)
    words, tags = read_conll(tmp_path / f"{task}-test")
    found = predict_standalone(made.published / "tiny" / "1", words, tmp_path)
    assert [row["words"] for row in found] == words
    score = f1_score(tags, [row["labels"] for row in found])
    assert score == pytest.approx(made.selection["quality"]["selected"], abs=0.001)
    strict = made.selection["entities"]["strict"]["f1"]
    again = f1_score(tags, [row["labels"] for row in found], mode="strict", scheme=IOB2)
    assert again == pytest.approx(strict, abs=0.001)
    report = made.selection["classification_report"]
    assert "O" in report
    assert report["micro avg"]["support"] == sum(map(len, words))


def predict_standalone(model: Path, words: list[list[str]], folder: Path) -> list[dict]:
    """Run predict.py where only onnxruntime, tokenizers and numpy can be imported."""
    site = folder / "site"
    site.mkdir()
    packages = Path(np.__file__).parents[1]
    for name in STANDALONE:
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    lines = "".join(json.dumps(sentence) + "\n" for sentence in words)
    blocked = "import torch"
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    command = [sys.executable, "-S"]
    refused = subprocess.run([*command, "-c", blocked], env=environment, capture_output=True)
    assert refused.returncode != 0
    done = subprocess.run(
        [*command, str(model / "predict.py"), "--threads", "2"],
        input=lines, text=True, capture_output=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_conll(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    blocks = [block for block in path.read_text().split("\n\n") if block.strip()]
    rows = [[line.split("\t") for line in block.strip().splitlines()] for block in blocks]
    return [[w for w, _ in b] for b in rows], [[t for _, t in b] for b in rows]
