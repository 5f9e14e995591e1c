"""The export step's refusals and fallbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.contract import DataError, SpecError
from components.export import encoder, torchscript
from components.export import step as export
from components.lib.dataset import read_manifest
from tests.inference_support import make_context, make_dataset, make_model, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A store with a tiny tagger and its data."""
    folder = tmp_path_factory.mktemp("export")
    store = make_store(folder / "store")
    dataset = make_dataset(store, folder, "token-classification", rows=20)
    labels = read_manifest(store.fetch(dataset, folder / "d"))["labels"]
    return store, dataset, make_model(store, folder / "m", "token-classification", labels)


def with_info(store, model: str, folder: Path, **changes: object) -> str:
    """Store the model again with other entries in suanli.json."""
    source = store.fetch(model, folder / "source")
    copy = folder / "copy"
    copy.mkdir(parents=True)
    for path in source.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    info = json.loads((source / "suanli.json").read_text())
    (copy / "suanli.json").write_text(json.dumps({**info, **changes}))
    return store.put_folder(copy, kind="model")


def run(store, model: str, dataset: str, folder: Path, **arguments: object) -> dict:
    context = make_context(store, "export", arguments, {"model": model, "dataset": dataset})
    uri = export.run(context)
    return json.loads((store.fetch(uri, folder / "onnx") / "export.json").read_text())


def test_falls_back_to_less_fused_graphs_and_says_so(tmp_path: Path, made, monkeypatch):
    store, dataset, model = made
    right = encoder.build

    def wrong(trained, *arguments, **options):
        """Write a layer's heads as the optimizer would: one count for all."""
        graph = right(trained, *arguments, **options)
        for node in graph.graph.node:
            if node.op_type == "Attention":
                node.attribute[0].i = 1
        return graph

    monkeypatch.setattr(encoder, "build", wrong)
    found = run(store, model, dataset, tmp_path)
    assert found["fusion"] == "optimizer"
    assert "encoder graph dropped: logits differ by" in found["fallbacks"][0]
    assert found["parity"]["passed"]


def test_a_precision_that_fails_its_gate_becomes_fp32(tmp_path: Path, made, monkeypatch):
    store, dataset, model = made
    small = with_info(store, model, tmp_path, onnx_precision="int8")
    monkeypatch.setitem(export.parity.TOLERANCE, "int8", 1e-9)
    found = run(store, small, dataset, tmp_path)
    assert found["precision"] == "fp32"
    assert "int8 given up" in found["fallbacks"][-1]


def test_names_the_operator_that_cannot_be_expressed(tmp_path: Path):
    class Odd(torch.nn.Module):
        class Config:
            vocab_size, is_decoder = 100, None

        config = Config()

        def forward(self, input_ids, attention_mask):
            from types import SimpleNamespace

            return SimpleNamespace(
                logits=torch.linalg.eigh(input_ids.float() @ input_ids.float().T)
            )

    with pytest.raises(DataError, match=r"Odd cannot be expressed.*eigh"):
        torchscript.trace(Odd(), "token-classification", tmp_path / "odd.onnx")


def test_static_quantisation_needs_training_data(tmp_path: Path, made):
    store, dataset, model = made
    source = store.fetch(dataset, tmp_path / "source")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in source.rglob("*"):
        if path.is_file() and "train" not in path.name:
            (empty / path.relative_to(source)).parent.mkdir(exist_ok=True)
            (empty / path.relative_to(source)).write_bytes(path.read_bytes())
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["splits"]["train"] = {**manifest["splits"]["train"], "shards": [], "rows": 0}
    (empty / "manifest.json").write_text(json.dumps(manifest))
    static = with_info(store, model, tmp_path / "static", onnx_precision="int8-static")
    with pytest.raises(DataError, match="calibration data is empty"):
        run(store, static, store.put_folder(empty, kind="dataset"), tmp_path)


def test_int8_on_a_gpu_is_refused(tmp_path: Path, made):
    store, dataset, model = made
    small = with_info(store, model, tmp_path, onnx_precision="int8")
    with pytest.raises(SpecError, match="TensorRT"):
        run(store, small, dataset, tmp_path, target="gpu")


def test_a_gpu_target_gets_fp16_and_a_packed_graph(tmp_path: Path, made):
    store, dataset, model = made
    half = with_info(store, model, tmp_path, onnx_precision="fp16")
    found = run(store, half, dataset, tmp_path, target="gpu")
    assert found["packed"]
    assert found["operators"]["SkipLayerNormalization"] == 4
    assert (tmp_path / "onnx" / "packed.onnx").is_file()
    if not torch.cuda.is_available():
        assert "no CUDA device here" in found["notes"][0]


def test_longer_than_the_model_is_refused(tmp_path: Path, made):
    store, dataset, model = made
    with pytest.raises(DataError, match="max_length 4096 is beyond the model's 512 positions"):
        run(store, model, dataset, tmp_path, max_length=4096)
