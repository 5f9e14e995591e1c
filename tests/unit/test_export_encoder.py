"""Fused graphs written from weights compute what PyTorch computes, whatever was pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from components.contract import DataError
from components.export import encoder, parity, quantise, smooth
from components.lib import fusion, onnx_graph
from components.lib.calibrate import observe, ranges
from components.lib.modelling import new_model
from components.lib.sessions import PROVIDERS, open_session

LABELS = ["a", "b", "c"]


def make(task: str, model_type: str = "bert", **changes):
    """A random 2-layer model, 4 heads of 16."""
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers import AutoModelForTokenClassification as Tagger

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, vocab_size=300, max_position_embeddings=80,
        num_labels=1 if task == "text-pair-ranking" else 3, initializer_range=0.3, **changes,
    )  # fmt: skip
    kind = Tagger if task == "token-classification" else AutoModelForSequenceClassification
    return kind.from_config(config, attn_implementation="eager").eval()


def prune_heads(layer, keep: int) -> None:
    """Keep the first heads of a layer, as the compress step stores them."""
    attention = layer.attention
    size = attention.self.attention_head_size
    for part in (attention.self.query, attention.self.key, attention.self.value):
        part.weight = torch.nn.Parameter(part.weight[: keep * size].detach())
        part.bias = torch.nn.Parameter(part.bias[: keep * size].detach())
    dense = attention.output.dense
    dense.weight = torch.nn.Parameter(dense.weight[:, : keep * size].detach())
    attention.self.num_attention_heads = keep
    attention.self.all_head_size = keep * size


def feeds(task: str) -> list[dict[str, np.ndarray]]:
    """Padded batches; lengths 1 to 64."""
    dice = np.random.default_rng(0)
    made = []
    for lengths in ([64, 1, 17], [5, 5], [33], [2, 3, 4, 9]):
        width = max(lengths)
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
        # 1 is RoBERTa's padding token, which its positions are counted by.
        ids = np.where(mask, dice.integers(5, 300, mask.shape), 1)
        feed = {"input_ids": ids, "attention_mask": mask}
        if task == "text-pair-ranking":
            feed["token_type_ids"] = (np.arange(width) > width // 2) * mask
        made.append(feed)
    return made


def compare(model, graph, task: str, folder: Path, precision: str = "fp32") -> parity.Parity:
    path = folder / "graph.onnx"
    onnx_graph.save(graph, path)
    session = open_session(path, provider=PROVIDERS["cpu"], threads=1)
    per_token = task == "token-classification"
    expected = parity.torch_logits(model, feeds(task), per_token)
    found = parity.session_logits(session, feeds(task), per_token)
    return parity.compare(expected, found, np.array([1, 64]), precision)


TASKS = ["token-classification", "text-classification", "text-pair-ranking"]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_computes_what_pytorch_computes(tmp_path: Path, task: str, gpu: bool):
    model = make(task)
    found = compare(model, encoder.build(model, task, 64, gpu=gpu), task, tmp_path)
    assert found.passed
    assert found.max_abs_diff < 1e-4


@pytest.mark.parametrize("task", TASKS[:2])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_other_family_and_activations(tmp_path: Path, task: str, activation: str):
    model = make(task, "roberta", hidden_act=activation, pad_token_id=1)
    assert compare(model, encoder.build(model, task, 64), task, tmp_path).passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("task", TASKS[:2])
def test_unevenly_pruned_heads(tmp_path: Path, task: str, precision: str):
    model = make(task)
    prune_heads(model.bert.encoder.layer[0], 1)
    prune_heads(model.bert.encoder.layer[1], 3)
    graph = encoder.build(model, task, 64)
    if precision == "int8":
        graph = quantise.int8(graph)
    assert compare(model, graph, task, tmp_path, precision).passed


def test_a_layer_without_heads_or_neurons(tmp_path: Path):
    model = make("token-classification")
    first, second = model.bert.encoder.layer
    prune_heads(second, 0)
    first.intermediate.dense.weight = torch.nn.Parameter(torch.empty(0, 64))
    first.intermediate.dense.bias = torch.nn.Parameter(torch.empty(0))
    first.output.dense.weight = torch.nn.Parameter(torch.empty(64, 0))
    graph = encoder.build(model, "token-classification", 64)
    # PyTorch's attention refuses zero heads; what is left of the layer is its bias.
    bias = second.attention.output.dense.bias
    second.attention.self.forward = lambda hidden, *_, **__: (hidden * 0, None)
    second.attention.output.dense = torch.nn.Linear(64, 64)
    second.attention.output.dense.weight.data.zero_()
    second.attention.output.dense.bias = bias
    assert compare(model, graph, "token-classification", tmp_path).passed


def test_onnxruntime_optimizer_corrupts_uneven_heads_and_parity_sees_it(tmp_path: Path):
    from components.export import torchscript

    model = make("token-classification")
    prune_heads(model.bert.encoder.layer[0], 1)
    prune_heads(model.bert.encoder.layer[1], 3)
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    torchscript.trace(model, "token-classification", plain)
    task = "token-classification"
    assert compare(model, onnx_graph.load(plain), task, tmp_path).passed
    counts = fusion.fuse(plain, fused, model_type="bert", heads=4, hidden=64, gpu=False)
    if counts.get("Attention"):
        assert not compare(model, onnx_graph.load(fused), task, tmp_path).passed
    else:  # a later optimizer that leaves such attention alone must leave it right
        assert compare(model, onnx_graph.load(fused), task, tmp_path).passed


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("static", [False, True])
def test_int8_stays_close(tmp_path: Path, task: str, static: bool):
    model = make(task)
    graph = encoder.build(model, task, 64)
    measured = None
    if static:
        measured = ranges(graph, quantise.activations(graph), feeds(task))
    small = quantise.int8(graph, measured)
    operators = onnx_graph.operators(small)
    assert operators["QAttention"] == 2
    assert "MatMul" not in operators
    found = compare(model, small, task, tmp_path, "int8-static" if static else "int8")
    assert found.passed
    assert found.max_abs_diff > 0


def test_static_int8_does_not_depend_on_the_batch(tmp_path: Path):
    task = "token-classification"
    model = make(task)
    graph = encoder.build(model, task, 64)
    measured = ranges(graph, quantise.activations(graph), feeds(task))
    onnx_graph.save(quantise.int8(graph, measured), tmp_path / "s.onnx")
    session = open_session(tmp_path / "s.onnx", provider=PROVIDERS["cpu"], threads=1)
    feed = feeds(task)[0]
    together = session.run(None, feed)[0]
    for row, length in enumerate(feed["attention_mask"].sum(axis=1)):
        alone = {name: value[row : row + 1, :length] for name, value in feed.items()}
        np.testing.assert_allclose(
            session.run(None, alone)[0][0], together[row, :length], atol=1e-4
        )


def test_evening_out_changes_nothing_in_fp32_and_helps_int8(tmp_path: Path):
    task = "token-classification"
    model = make(task)
    with torch.no_grad():  # two channels are large, and their weights small, as in tuned BERTs
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight[:2] *= 50
            layer.intermediate.dense.weight[:, :2] /= 50
    graph = encoder.build(model, task, 64)
    seen = observe(graph, quantise.activations(graph), feeds(task))
    even = smooth.smooth(graph, seen)
    assert onnx_graph.operators(even)["Mul"] >= 2
    assert compare(model, even, task, tmp_path).passed
    # Without the large residual the head would not show what the feed-forward lost.
    rough, fine = (
        feed_forward_error(model, quantise.int8(one), graph, tmp_path) for one in (graph, even)
    )
    assert fine < 0.5 * rough


def feed_forward_error(model, quantised, exact, folder: Path) -> float:
    """Mean error of what the first layer's wide product gives after its activation."""
    values = []
    for graph in (exact, quantised):
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info("layer0.active", onnx.TensorProto.FLOAT, None)
        )
        path = folder / "watched.onnx"
        onnx_graph.save(graph, path)
        graph.graph.output.pop()
        session = open_session(path, provider=PROVIDERS["cpu"], threads=1)
        values.append(session.run(["layer0.active"], feeds("token-classification")[2])[0])
    return float(np.abs(values[0] - values[1]).mean())


def test_quantising_leaves_the_source_graph_alone():
    graph = encoder.build(make("text-classification"), "text-classification", 64)
    before = graph.SerializeToString(deterministic=True)
    quantise.int8(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_packed_graph_has_no_padded_attention():
    for task in TASKS[:2]:
        graph = encoder.build(make(task), task, 64, gpu=True, half=True, packed=True)
        operators = onnx_graph.operators(graph)
        assert operators["PackedAttention"] == 2
        assert operators["RemovePadding"] == 1
        assert "Attention" not in operators
        # A classifier needs no padding back: it reads each sequence's first token.
        assert operators.get("RestorePadding", 0) == (task == "token-classification")


def test_half_graph_agrees_when_raised_to_fp32(tmp_path: Path):
    task = "text-classification"
    model = make(task)
    graph = onnx_graph.as_fp32(encoder.build(model, task, 64, gpu=True, half=True))
    assert compare(model, graph, task, tmp_path, "fp16").passed


def test_refuses_what_it_does_not_know():
    vit = new_model({"config": "vit-tiny"}, "image-classification", LABELS)
    with pytest.raises(DataError, match="vit"):
        encoder.build(vit, "image-classification", 64)
    with pytest.raises(DataError, match="max_length 512 is beyond the model's 80 positions"):
        encoder.build(make("token-classification"), "token-classification", 512)
