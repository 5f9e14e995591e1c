"""INT8 and INT4 weights for a fused graph.

Weights become signed 8 bits with one scale a column, activations unsigned 8 bits with one scale a
tensor: VNNI multiplies exactly these. On two Zen 4 cores u8 x s8 is twice as fast as u8 x u8, and
a scale a column costs nothing over one a matrix while it cuts the error of a product by a sixth.

Dynamic: every product measures its input's range. Static: ranges come from training data, a
sequence's result does not depend on what else is in its batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import DataError
from components.export.compact import LEAST_SCALE, compact, scales_above
from components.export.weights import Weights
from components.lib import onnx_graph

# MatMulNBits: 4-bit weights in blocks of 32 with one scale each (llama.cpp's Q4_0 layout).
INT4_BLOCK = 32
# GatherBlockQuantized: rows of 4-bit values, a scale for so many of them.
TABLE_BLOCK = 32
STANDARD = ("Cast", "DynamicQuantizeLinear", "Gather", "Mul", "QuantizeLinear")
Ranges = dict[str, tuple[float, float]]


@dataclass(slots=True)
class Rewrite:
    """A graph on its way to 8 bits."""

    weights: Weights
    ranges: Ranges | None
    table_bits: int = 8
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)
    quantised: dict[str, list[str]] = field(default_factory=dict)

    def tensor(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        standard = operator in STANDARD
        domain = "" if standard else onnx_graph.MICROSOFT
        node = helper.make_node(
            operator, inputs, outputs, name=outputs[0], domain=domain, **attributes
        )
        self.nodes.append(node)

    def weight8(self, name: str) -> list[str]:
        """Add the 8-bit form of a (rows, columns) weight; returns names of value and scale (its
        zero point is 0, which operators assume)."""
        value, scale = columns_to_int8(self.weights[name])
        return [self.tensor(f"{name}.int8", value), self.tensor(f"{name}.scale", scale)]

    def activation8(self, name: str) -> list[str]:
        """Add the 8-bit form of an activation, once; returns names of value, scale, zero."""
        if name in self.quantised:
            return self.quantised[name]
        made = [f"{name}.u8", f"{name}.u8.scale", f"{name}.u8.zero"]
        if self.ranges is None:
            self.add("DynamicQuantizeLinear", [name], made)
        else:
            scale, zero = affine_u8(*self.ranges[name])
            self.tensor(made[1], np.float32(scale))
            self.tensor(made[2], np.uint8(zero))
            self.add("QuantizeLinear", [name, made[1], made[2]], made[:1])
        self.quantised[name] = made
        return made


def columns_to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise (rows, columns) symmetrically, one scale a column.

    Returns:
        int8 values in -127..127 and float32 scales (columns) that take few bytes.
    """
    scale = scales_above(np.abs(weight).max(axis=0) / 127)
    return np.rint(weight / scale).astype(np.int8), scale


def half_above(values: np.ndarray) -> np.ndarray:
    """Round up to the next number that fp16 holds; returns float32."""
    half = values.astype(np.float16)
    half = np.where(half < values, np.nextafter(half, np.float16(np.inf)), half)
    return half.astype(np.float32)


def rows_to_int4(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise (rows, columns) to -7..7 with one scale for `TABLE_BLOCK` columns of a row.

    Returns:
        uint8 (rows, columns / 2), the earlier value in the low half, 8 for zero; float32 scales
        (rows, blocks) that are exact in fp16.
    """
    blocks = table.reshape(len(table), -1, TABLE_BLOCK)
    # A little less than a seventh: a table that was rounded before finds its own scales again.
    least = np.abs(blocks).max(axis=2) * np.float32((1 - 1e-5) / 7)
    scale = half_above(np.maximum(least, LEAST_SCALE))
    value = np.clip(np.rint(blocks / scale[..., None]), -7, 7) + 8
    flat = value.astype(np.uint8).reshape(len(table), -1)
    return flat[:, 0::2] | (flat[:, 1::2] << 4), scale


def affine_u8(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point that map [low, high], widened to hold 0, to 0..255."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, int(np.clip(round(-low / scale), 0, 255))


def int8(model: Any, ranges: Ranges | None = None, *, table_bits: int = 8) -> Any:
    """Return the graph with 8-bit products and embeddings.

    Args:
        model: a fused fp32 graph.
        ranges: (low, high) of each activation that enters a product (see `activations`); None
            measures at run time.
        table_bits: 8, or 4 for word embeddings that were trained with that rounding
            (components.lib.fake_quant.rounded_table).
    """
    from onnx import helper

    nodes = type(model.graph)()
    nodes.node.MergeFrom(model.graph.node)  # a copy: they are renamed below
    weights = Weights(model)
    rewrite = Rewrite(weights, ranges, table_bits)
    for node, bias in with_biases(list(nodes.node), weights):
        quantise_node(rewrite, node, bias)
    used = {name for node in rewrite.nodes for name in node.input}
    made = type(model)(ir_version=model.ir_version)
    versions = {item.domain: item.version for item in model.opset_import}
    versions[onnx_graph.MICROSOFT] = 1
    for domain, version in versions.items():
        made.opset_import.append(helper.make_opsetid(domain, version))
    made.graph.name = model.graph.name
    made.graph.node.extend(rewrite.nodes)
    made.graph.input.extend(model.graph.input)
    made.graph.output.extend(model.graph.output)
    made.graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    made.graph.initializer.extend(t for name, t in rewrite.tensors.items() if name in used)
    return compact(made)


def with_biases(nodes: list[Any], weights: Any) -> list[tuple[Any, str | None]]:
    """Join every MatMul with the bias added to it: 8-bit products add it while they scale sums.

    Returns:
        Nodes in order with the bias to add or None; a joined MatMul yields the sum's name.
    """
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    joined: dict[str, tuple[Any, str]] = {}
    for node in nodes:
        if node.op_type != "MatMul" or product_kind(node, weights) is None:
            continue
        after = readers.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type in ("Add", "Sum"):
            other = [name for name in after[0].input if name != node.output[0]]
            if len(other) == 1 and other[0] in weights and np.ndim(weights[other[0]]) == 1:
                joined[node.output[0]] = (after[0], other[0])
    swallowed = {id(add) for add, _ in joined.values()}
    result: list[tuple[Any, str | None]] = []
    for node in nodes:
        if id(node) in swallowed:
            continue
        add, bias = joined.get(node.output[0], (None, None))
        if add is not None:
            node.output[0] = add.output[0]
        result.append((node, bias))
    return result


def activations(model: Any) -> list[str]:
    """Return the activations whose ranges a static graph needs."""
    weights = {t.name: t.dims for t in model.graph.initializer}
    return list(
        dict.fromkeys(
            node.input[0] for node in model.graph.node if product_kind(node, weights) is not None
        )
    )


def product_kind(node: Any, weights: Any) -> str | None:
    """Return the operator's name if it multiplies an activation with a 2-D weight."""
    if node.op_type not in ("MatMul", "Gemm", "Attention") or node.input[0] in weights:
        return None
    weight = weights.get(node.input[1])
    shape = getattr(weight, "shape", weight)
    return node.op_type if shape is not None and len(shape) == 2 else None


def quantise_node(rewrite: Rewrite, node: Any, bias: str | None) -> None:
    """Write the 8-bit form of `node` (with `bias` added), or the node itself."""
    kind = product_kind(node, rewrite.weights)
    if kind == "MatMul":
        multiply(rewrite, node.input[0], node.input[1], bias, node.output[0])
    elif kind == "Gemm" and plain_gemm(node):
        name = node.input[1]
        if attribute(node, "transB", 0):
            name = f"{name}.transposed"
            rewrite.weights[name] = rewrite.weights[node.input[1]].T
        bias = node.input[2] if len(node.input) > 2 else None
        multiply(rewrite, node.input[0], name, bias, node.output[0])
    elif kind == "Attention" and plain_attention(node):
        attend(rewrite, node)
    elif node.op_type == "Gather" and is_table(rewrite.weights.get(node.input[0]), node):
        look_up(rewrite, node)
    elif node.op_type == "Slice" and is_table(rewrite.weights.get(node.input[0]), node):
        shrink(rewrite, node)
    elif node.op_type == "EmbedLayerNormalization":
        embed(rewrite, node)
    else:
        rewrite.nodes.append(node)


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return an attribute of a node."""
    from onnx import helper

    found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def plain_gemm(node: Any) -> bool:
    return (
        attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
        and not attribute(node, "transA", 0)
    )


def multiply(rewrite: Rewrite, source: str, weight: str, bias: str | None, output: str) -> None:
    """Write an 8-bit product with an optional bias."""
    value, scale = rewrite.weight8(weight)
    last = ["", bias] if bias else []  # "": the weight's zero point
    if rewrite.ranges is None:
        rewrite.add("DynamicQuantizeMatMul", [source, value, scale, *last], [output])
        return
    a, a_scale, a_zero = rewrite.activation8(source)
    inputs = [a, value, a_scale, scale, a_zero, *last]
    rewrite.add("MatMulIntegerToFloat", inputs, [output])


def plain_attention(node: Any) -> bool:
    """QAttention takes a 1-D or 2-D mask, no past and no bias of the scores."""
    return not any(list(node.input)[4:]) and len(node.output) == 1


def attend(rewrite: Rewrite, node: Any) -> None:
    """Write an Attention whose projections are 8-bit; scores and softmax stay fp32."""
    source, weight, bias = node.input[:3]
    mask = node.input[3] if len(node.input) > 3 else ""
    a, a_scale, a_zero = rewrite.activation8(source)
    value, scale = rewrite.weight8(weight)
    rewrite.add(
        "QAttention",
        [a, value, bias, a_scale, scale, mask, a_zero],
        [node.output[0]],
        num_heads=attribute(node, "num_heads", 1),
        unidirectional=attribute(node, "unidirectional", 0),
    )


def is_table(weight: np.ndarray | None, node: Any) -> bool:
    """True for an embedding table whose rows are picked."""
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return False
    return attribute(node, "axis", 0) == 0


def look_up(rewrite: Rewrite, node: Any) -> None:
    """Pick 8-bit (or 4-bit) rows and their scales."""
    from onnx import TensorProto

    name, out = node.input[0], node.output[0]
    if rewrite.table_bits == 4 and rewrite.weights[name].shape[1] % TABLE_BLOCK == 0:
        packed, scale = rows_to_int4(rewrite.weights[name])
        tables = [
            rewrite.tensor(f"{name}.int4", packed),
            node.input[1],
            rewrite.tensor(f"{name}.scale", scale),
        ]
        rewrite.add("GatherBlockQuantized", tables, [out], gather_axis=0, quantize_axis=1,
                    block_size=TABLE_BLOCK, bits=4)  # fmt: skip
        return
    value, scale = columns_to_int8(rewrite.weights[name].T)
    rows = [
        rewrite.tensor(f"{name}.int8", value.T),
        rewrite.tensor(f"{name}.scale", scale[:, None]),
    ]
    for table, picked in zip(rows, (f"{out}.int8", f"{out}.scale"), strict=True):
        rewrite.add("Gather", [table, node.input[1]], [picked], axis=0)
    rewrite.add("Cast", [f"{out}.int8"], [f"{out}.float"], to=TensorProto.FLOAT)
    rewrite.add("Mul", [f"{out}.float", f"{out}.scale"], [out])


def shrink(rewrite: Rewrite, node: Any) -> None:
    """Store a table in 8 bits; the session computes its fp32 form once, when it loads."""
    from onnx import TensorProto

    name = node.input[0]
    value, scale = columns_to_int8(rewrite.weights[name].T)
    table = rewrite.tensor(f"{name}.int8", value.T)
    scales = rewrite.tensor(f"{name}.scale", scale[:, None])
    rewrite.add("Cast", [table], [f"{name}.float"], to=TensorProto.FLOAT)
    rewrite.add("Mul", [f"{name}.float", scales], [f"{name}.restored"])
    node.input[0] = f"{name}.restored"
    rewrite.nodes.append(node)


def embed(rewrite: Rewrite, node: Any) -> None:
    """Write the embeddings with 8-bit tables."""
    ids, types, word, position, segment, gamma, beta = node.input[:7]
    mask = node.input[7] if len(node.input) > 7 else ""
    scales, zeros, tables = [], [], []
    for name in (word, position, segment, gamma, beta):
        if not name:
            tables.append(""), scales.append(""), zeros.append("")
            continue
        table = rewrite.weights[name]
        scale, zero = affine_u8(float(table.min()), float(table.max()))
        value = np.clip(np.rint(table / scale) + zero, 0, 255).astype(np.uint8)
        tables.append(rewrite.tensor(f"{name}.u8", value))
        scales.append(rewrite.tensor(f"{name}.u8.scale", np.float32(scale)))
        zeros.append(rewrite.tensor(f"{name}.u8.zero", np.uint8(zero)))
    rewrite.add(
        "QEmbedLayerNormalization",
        [ids, types, *tables, mask, *scales, *zeros],
        list(node.output)[:2],
        epsilon=attribute(node, "epsilon", 1e-12),
    )


def int4_weights(source: Path, target: Path) -> None:
    """Store the weights of matrix products in 4 bits (decoders: they are bound by reading weights),
    embedding tables in 8.

    Raises:
        DataError: the graph has nothing to store in 4 bits.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    model = onnx_graph.load(source)
    quantizer: Any = MatMulNBitsQuantizer(
        model, block_size=INT4_BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    made = quantizer.model.model
    if "MatMulNBits" not in onnx_graph.operators(made):
        raise DataError(
            "int4: the graph has no matrix product with a constant weight",
            remedy="use int8 for this model",
        )
    onnx_graph.save(int8(made), target)  # no product with a plain weight is left: tables only
