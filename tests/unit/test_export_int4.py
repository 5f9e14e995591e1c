"""Decoders with 4-bit weights: small, and nothing but their weights rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.contract import DataError
from components.export import encoder, parity, quantise, torchscript
from components.lib import fusion, onnx_graph
from components.lib.sessions import PROVIDERS, open_session
from tests.unit.test_export_encoder import make

LAYERS, HIDDEN, VOCABULARY = 2, 64, 2000


@pytest.fixture
def decoder():
    """A random llama-like decoder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=128, vocab_size=VOCABULARY, initializer_range=0.2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Round a linear layer's weight as the graph must: blocks of 32 inputs, the value of largest
    magnitude is level -8 of -8..7."""
    blocks = weight.reshape(len(weight), -1, quantise.INT4_BLOCK)
    largest = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scale = largest / -8
    return ((blocks / scale).round().clip(-8, 7) * scale).reshape(weight.shape)


def test_four_bits_are_small_and_round_weights_only(tmp_path: Path, decoder):
    plain, fused, small, eight = (tmp_path / f"{n}.onnx" for n in ("plain", "fused", "4", "8"))
    torchscript.trace(decoder, "causal-lm", plain)
    fusion.fuse(plain, fused, model_type="llama", heads=4, hidden=HIDDEN, gpu=False)
    quantise.int4_weights(fused, small)
    onnx_graph.save(quantise.int8(onnx_graph.load(fused)), eight)
    counts = onnx_graph.operators(onnx_graph.load(small))
    assert counts["MatMulNBits"] == 7 * LAYERS + 1
    assert small.stat().st_size < eight.stat().st_size
    mask = (np.arange(24) < np.array([24, 9])[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, VOCABULARY, mask.shape)
    feeds = [{"input_ids": ids, "attention_mask": mask}]
    session = open_session(small, provider=PROVIDERS["cpu"], threads=1)
    found = parity.session_logits(session, feeds, per_token=True)
    plainly = parity.torch_logits(decoder, feeds, per_token=True)[0]
    with torch.no_grad():
        for layer in decoder.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(rounded(layer.weight))
    wanted = parity.torch_logits(decoder, feeds, per_token=True)[0]
    assert relative_error(found[0], wanted) < 0.05  # activations have 8 bits
    assert relative_error(found[0], wanted) < relative_error(found[0], plainly) / 3


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def test_a_graph_without_products_is_refused(tmp_path: Path):
    graph = encoder.build(make("token-classification"), "token-classification", 8)
    kept = [node for node in graph.graph.node if node.op_type != "MatMul"]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
    onnx_graph.save(graph, tmp_path / "odd.onnx")
    with pytest.raises(DataError, match="int4: the graph has no matrix product"):
        quantise.int4_weights(tmp_path / "odd.onnx", tmp_path / "small.onnx")
