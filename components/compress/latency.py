"""What a layer's heads and neurons cost on the runtime that will serve: a measured table.

Each entry is one 8-bit (or fp32) attention block or feed-forward block, written as the exporter
writes them, run by ONNX Runtime on one thread on a batch of the data's own size. Between entries
the table is linear.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components.lib import onnx_graph
from components.lib.pruned import Sizes, head_width, layout_of, sizes_of

# The runner's batches on a CPU: so many padded tokens on one thread (components/lib/runner.py).
BATCH_TOKENS = 512
REPEATS = 15
SECONDS_AN_ENTRY = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Milliseconds of a batch by size: ((size, ms), ...), ascending; `measured` False for a model
    by counting operations where the target is not at hand. `last_share` is what the last layer's
    neurons cost of another layer's: a classifier runs them for the first token alone."""

    heads: tuple[tuple[int, float], ...]
    neurons: tuple[tuple[int, float], ...]
    measured: bool
    setting: str
    last_share: float = 1.0

    def of_heads(self, count: float) -> float:
        """Milliseconds of an attention block with `count` heads."""
        return _interpolate(self.heads, count)

    def of_neurons(self, count: float) -> float:
        """Milliseconds of a feed-forward block with `count` neurons."""
        return _interpolate(self.neurons, count)

    def of_layers(self, sizes: Sequence[Sizes]) -> float:
        """Milliseconds of all layers."""
        shares = [1.0] * (len(sizes) - 1) + [self.last_share]
        return sum(
            self.of_heads(s.heads) + share * self.of_neurons(s.neurons)
            for s, share in zip(sizes, shares, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "heads_ms": [list(entry) for entry in self.heads],
            "neurons_ms": [list(entry) for entry in self.neurons],
            "measured": self.measured,
            "setting": self.setting,
            "last_share": self.last_share,
        }


def _interpolate(entries: tuple[tuple[int, float], ...], size: float) -> float:
    if not entries:
        return 0.0
    sizes, values = zip(*entries, strict=True)
    return float(np.interp(size, sizes, values))


def measure(
    model: torch.nn.Module, *, precision: str, target: str, length: int, first_only: bool = False
) -> Table:
    """Return the table for `model`'s layers.

    Args:
        model: whole; only its sizes are read.
        precision: int8, int8-static or anything else for fp32.
        target: ``cpu`` is measured here; ``gpu`` counts operations.
        length: typical sequence length in tokens.
        first_only: the task reads the first token only, and so does the graph's last layer.
    """
    last_share = 1 / length if first_only else 1.0
    whole = sizes_of(model)
    heads, neurons = max(s.heads for s in whole), max(s.neurons for s in whole)
    head_sizes = sorted({1, heads, *(max(1, heads * i // 4) for i in (1, 2, 3))})
    neuron_sizes = sorted({neurons, *(max(1, neurons * i // 8) for i in (1, 2, 4, 6))})
    can_measure = target == "cpu" and len(layout_of(model).wide) == 1
    if not can_measure or not layout_of(model).projections:
        return counted(model, head_sizes, neuron_sizes, length, last_share)
    hidden, width = model.config.hidden_size, head_width(model)
    eight_bits = precision.startswith("int8")
    rows = max(1, BATCH_TOKENS // length)
    graphs = [attention_graph(hidden, width, size, eight_bits) for size in head_sizes]
    graphs += [feed_forward_graph(hidden, size, eight_bits) for size in neuron_sizes]
    found = time_graphs(graphs, (rows, length, hidden))
    # A larger block is never faster: what says so is noise.
    split = len(head_sizes)
    attention = np.maximum.accumulate(found[:split]).tolist()
    feed_forward = np.maximum.accumulate(found[split:]).tolist()
    return Table(
        heads=tuple(zip(head_sizes, attention, strict=True)),
        neurons=tuple(zip(neuron_sizes, feed_forward, strict=True)),
        measured=True,
        setting=f"onnxruntime CPU, {'int8' if eight_bits else 'fp32'}, {rows} x {length} tokens, "
        "one thread",
        last_share=last_share,
    )


def counted(
    model: torch.nn.Module,
    heads: Sequence[int],
    neurons: Sequence[int],
    length: int,
    last_share: float = 1.0,
) -> Table:
    """Return a table from multiplications alone, in arbitrary units."""
    hidden, width = model.config.hidden_size, head_width(model)
    matrices = len(layout_of(model).wide) + 1
    unit = 1e-9 * BATCH_TOKENS
    return Table(
        heads=tuple((h, unit * h * width * (4 * hidden + 2 * length)) for h in heads),
        neurons=tuple((n, unit * n * matrices * hidden) for n in neurons),
        measured=False,
        setting="counted multiplications: the target is not here",
        last_share=last_share,
    )


def time_graphs(graphs: Sequence[Any], shape: tuple[int, int, int]) -> list[float]:
    """Return the least milliseconds of each graph on an input of `shape`: on a shared machine the
    least time is the one without other work in it. They run in turns, so that a slow moment hits
    all of them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        ort.InferenceSession(g.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for g in graphs
    ]
    feed = {
        "x": np.random.default_rng(0).standard_normal(shape).astype(np.float32),
        "lengths": np.full(shape[0], shape[1], np.int32),
    }
    feeds = [{i.name: feed[i.name] for i in session.get_inputs()} for session in sessions]
    taken: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + SECONDS_AN_ENTRY * len(sessions)
    for repeat in range(REPEATS + 1):
        for session, own, times in zip(sessions, feeds, taken, strict=True):
            start = time.perf_counter()
            session.run(None, own)
            if repeat:  # the first run sizes the arena
                times.append(time.perf_counter() - start)
        if time.perf_counter() > end and repeat >= 3:
            break
    return [min(times) * 1e3 for times in taken]


def attention_graph(hidden: int, width: int, heads: int, eight_bits: bool) -> Any:
    """Attention with `heads` heads, its output projection, residual and norm."""
    made = _Block(hidden, eight_bits)
    inner = heads * width
    qkv, bias = made.matrix("qkv", hidden, 3 * inner), made.vector("qkv.bias", 3 * inner)
    if eight_bits:
        made.node("DynamicQuantizeLinear", ["x"], ["x8", "x8.scale", "x8.zero"])
        value, scale, zero = qkv
        inputs = ["x8", value, bias, "x8.scale", scale, "lengths", "x8.zero", zero]
        made.node("QAttention", inputs, ["mixed"], num_heads=heads)
    else:
        made.node("Attention", ["x", *qkv, bias, "lengths"], ["mixed"], num_heads=heads,
                  qkv_hidden_sizes=[inner] * 3)  # fmt: skip
    made.multiply("mixed", "out", inner, hidden)
    return made.finish("out", ("x", "lengths"))


def feed_forward_graph(hidden: int, neurons: int, eight_bits: bool) -> Any:
    """Feed-forward with `neurons` neurons, residual and norm."""
    made = _Block(hidden, eight_bits)
    made.multiply("x", "wide", hidden, neurons)
    made.node("Gelu", ["wide"], ["active"])
    made.multiply("active", "out", neurons, hidden)
    return made.finish("out", ("x",))


class _Block:
    """Collects the nodes of one block with random weights."""

    def __init__(self, hidden: int, eight_bits: bool) -> None:
        self.hidden, self.eight_bits = hidden, eight_bits
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.random = np.random.default_rng(0)

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        standard = operator in ("DynamicQuantizeLinear", "MatMul", "Sum", "LayerNormalization")
        domain = "" if standard else onnx_graph.MICROSOFT
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))

    def tensor(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def vector(self, name: str, size: int) -> str:
        return self.tensor(name, self.random.standard_normal(size).astype(np.float32))

    def matrix(self, name: str, rows: int, columns: int) -> list[str]:
        """A weight: (value), or (int8 value, scales, zeros)."""
        if not self.eight_bits:
            value = self.random.standard_normal((rows, columns)).astype(np.float32) * 0.05
            return [self.tensor(name, value)]
        value = self.random.integers(-127, 128, (rows, columns)).astype(np.int8)
        scale = np.full(columns, 1e-3, np.float32)
        return [
            self.tensor(name, value),
            self.tensor(f"{name}.scale", scale),
            self.tensor(f"{name}.zero", np.zeros(columns, np.int8)),
        ]

    def multiply(self, source: str, output: str, rows: int, columns: int) -> None:
        """A product with a bias."""
        weight, bias = (
            self.matrix(f"{output}.w", rows, columns),
            self.vector(f"{output}.b", columns),
        )
        if self.eight_bits:
            self.node("DynamicQuantizeMatMul", [source, *weight, bias], [output])
            return
        self.node("MatMul", [source, *weight], [f"{output}.product"])
        self.node("Sum", [f"{output}.product", bias], [output])

    def finish(self, source: str, inputs: tuple[str, ...]) -> Any:
        """Add residual and norm and return the model."""
        from onnx import TensorProto, helper

        self.node("Sum", [source, "x"], ["sum"])
        scale, shift = self.vector("scale", self.hidden), self.vector("shift", self.hidden)
        self.node("LayerNormalization", ["sum", scale, shift], ["y"], axis=-1)
        shape = ["batch", "length", self.hidden]
        known = {
            "x": helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            "lengths": helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        }
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self.nodes, "block", [known[n] for n in inputs], [output], self.tensors
        )
        opsets = [
            helper.make_opsetid("", onnx_graph.OPSET),
            helper.make_opsetid(onnx_graph.MICROSOFT, 1),
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=onnx_graph.IR_VERSION)
