"""Fewer bytes in the file, the same numbers in the session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from components.export import encoder, quantise, smooth
from components.export.compact import LEAST_SCALE, codes_of, compact, scales_above
from components.lib import evening, onnx_graph
from components.lib.sessions import PROVIDERS, open_session
from tests.unit.test_export_encoder import make

TASK = "token-classification"


@given(st.lists(st.floats(0, 2**20, width=32), min_size=1, max_size=200))
def test_scales_are_large_enough_small_enough_and_short(wanted: list[float]):
    needed = np.maximum(wanted, LEAST_SCALE)
    scales = scales_above(np.array(wanted))
    assert (scales >= needed).all()
    if (coded := codes_of(scales)) is not None:
        codes, unit = coded
        np.testing.assert_array_equal((codes * unit).astype(np.float32), scales)
        assert (scales <= needed + 1.001 * unit).all()
    elif needed.max() < 6e4:
        np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
        assert (scales <= 1.07 * needed).all()


def test_alike_scales_take_a_byte_each_unlike_ones_two():
    dice = np.random.default_rng(0)
    alike, unlike = 1e-3 * dice.uniform(0.3, 1, 300), np.append(1.0, 1e-3 * dice.uniform(0, 1, 300))
    assert codes_of(scales_above(alike)) is not None
    assert codes_of(scales_above(unlike)) is None


def test_ordinary_weights_are_no_codes():
    assert codes_of(np.random.default_rng(0).normal(size=500).astype(np.float32)) is None
    assert codes_of(np.zeros(500, np.float32)) is None


def test_restored_weights_are_the_stored_ones():
    """Compacting loses what fp16 loses and nothing of scales; what fp16 cannot hold stays."""
    graph = encoder.build(make(TASK), TASK, 64)
    scales = scales_above(np.random.default_rng(0).uniform(0.5, 1, 300))
    wide = np.linspace(1, 1e6, 300, dtype=np.float32)
    for name, value in (("scales", scales), ("wide", wide)):
        graph.graph.initializer.append(numpy_helper.from_array(value, name))
    made = {t.name: numpy_helper.to_array(t) for t in compact(graph).graph.initializer}
    assert made["scales.short"].dtype == np.uint8
    restored = made["scales.short"].astype(np.float32) * made["scales.unit"]
    np.testing.assert_array_equal(restored, scales)
    np.testing.assert_array_equal(made["wide"], wide)
    assert made["word.short"].dtype == np.float16


def test_an_8_bit_encoder_takes_a_quarter(tmp_path: Path):
    """MiniLM's shape, with every activation evened out (the worst case for size), against the bytes
    of its fp32 weights."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.for_model(
        "bert", hidden_size=384, num_hidden_layers=6, num_attention_heads=12, num_labels=13,
        intermediate_size=1536, vocab_size=30522, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    graph = encoder.build(model, TASK, 128)
    names = quantise.activations(graph)
    dice = np.random.default_rng(0)
    widths = {name: width_of(graph, name) for name in names}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evening, "WORTH", np.inf)
        even = smooth.smooth(graph, {name: observed(dice, w) for name, w in widths.items()})
    ranges = dict.fromkeys(quantise.activations(even), (-1.0, 1.0))
    for kind, small in (("static", quantise.int8(even, ranges)), ("dynamic", quantise.int8(even))):
        path = tmp_path / f"{kind}.onnx"
        onnx_graph.save(small, path)
        whole = 4 * sum(parameter.numel() for parameter in model.parameters())
        assert path.stat().st_size <= 0.25 * whole
    session = open_session(path, provider=PROVIDERS["cpu"], threads=1)
    ids = dice.integers(1000, 30000, (1, 9))
    logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    with torch.no_grad():
        exact = model(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(logits - exact).max() < 0.5 * exact.std()


def width_of(graph, name: str) -> int:
    """Return how many channels an activation that enters a product has."""
    shapes = {t.name: t.dims for t in graph.graph.initializer}
    reader = next(n for n in graph.graph.node if n.input and n.input[0] == name
                  and len(n.input) > 1 and len(shapes.get(n.input[1], ())) == 2)  # fmt: skip
    return int(shapes[reader.input[1]][0])


def observed(dice: np.random.Generator, channels: int) -> smooth.Observed:
    high = np.exp(dice.normal(size=channels)).astype(np.float32)
    return smooth.Observed(
        low=-float(high.max()), high=float(high.max()), lows=-high, highs=high, power=high**2 / 3
    )
