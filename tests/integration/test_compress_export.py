"""Unevenly pruned models of every family export to graphs that compute the same: the runtime's own
optimizer stamps one head count on all layers, and the parity gate must not let that through."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.export import step as export
from components.lib import pruned
from components.lib.modelling import (
    load_model,
    read_info,
    read_labels,
    resolve_tokenizer,
    save_model,
)
from tests.inference_support import MINILM, make_context, make_dataset, make_model, make_store

LABELS = {
    "token-classification": ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"],
    "image-classification": ["bright", "dark"],
    "causal-lm": [],
}


@pytest.mark.parametrize("task", sorted(LABELS))
def test_uneven_layers_export_with_parity(task: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (tmp_path / "data").mkdir()
    dataset = make_dataset(store, tmp_path / "data", task, rows=16)
    whole = store.fetch(make_model(store, tmp_path / "whole", task, LABELS[task]), tmp_path / "m")
    model = load_model(whole, task)
    sizes = pruned.sizes_of(model)
    pruned.shrink(
        model,
        # One head less in every other layer; queries that share heads keep them.
        [np.arange(s.heads - (i % 2 if task != "causal-lm" else 0)) for i, s in enumerate(sizes)],
        [np.arange(32 + 16 * i) for i in range(len(sizes))],
    )
    cut = tmp_path / "cut"
    cut.mkdir()
    info = {
        **{k: v for k, v in read_info(whole).items() if k != "parameters"},
        "labels": read_labels(whole),
        "pruning": pruned.description(model),
    }
    text = task != "image-classification"
    save_model(model, cut, tokenizer=resolve_tokenizer(MINILM) if text else None, info=info)
    inputs = {"model": store.put_folder(cut, kind="model"), "dataset": dataset}
    arguments = {"task": task, "variant": "prune50", "target": "cpu", "max_length": 64}
    uri = export.run(make_context(store, "export", arguments, inputs))
    exported = json.loads((store.fetch(uri, tmp_path / "onnx") / "export.json").read_text())
    assert exported["parity"]["passed"], exported
    assert exported["parity"]["max_abs_diff"] <= exported["parity"]["tolerance"]
    if task == "token-classification":
        assert exported["fusion"] == "encoder"
        assert exported["operators"]["Attention"] == len(sizes)
