"""Even out channels before quantising (after SmoothQuant, Xiao et al. 2022).

A tuned BERT has a few channels with values of 30 where the rest stay below 2. One scale for the
tensor then leaves the rest seven levels of 255. Dividing each channel by a factor and multiplying
the weight's rows by it changes nothing in exact arithmetic and can give the levels back, at the
price of rougher weights. On WNUT-17 it halves the error of static 8-bit logits. How much to shift
is chosen for each activation by the error that the products are expected to have; where shifting
gains little nothing is done, because the division is a Mul of its own (the residual reads the same
tensor). Only an attention's output is divided for free, in the projection of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.export.compact import MOST_CODE, short_above
from components.export.quantise import product_kind
from components.lib import onnx_file
from components.lib.calibrate import Observed
from components.lib.evening import best_factors


def smooth(model: Any, observed: Mapping[str, Observed]) -> Any:
    """Return the graph with activations divided channel by channel where that helps.

    Args:
        model: a fused fp32 graph.
        observed: what `calibrate.observe` saw of the activations that enter products.
    """
    from onnx import helper, numpy_helper

    made = onnx_file.without(model, "graph")
    made.graph.MergeFrom(onnx_file.without(model.graph, "initializer"))
    # Weights join at the end: protobuf keeps the memory of what is overwritten.
    tensors = {t.name: t for t in model.graph.initializer}
    shapes = {name: tensor.dims for name, tensor in tensors.items()}
    readers: dict[str, list[Any]] = {}
    for node in made.graph.node:
        if product_kind(node, shapes) in ("MatMul", "Attention") and node.input[0] in observed:
            readers.setdefault(node.input[0], []).append(node)
    evened = {}
    makers = {name: node for node in made.graph.node for name in node.output}
    for source, products in readers.items():
        weights = [numpy_helper.to_array(tensors[node.input[1]]) for node in products]
        factors = best_factors(observed[source], np.concatenate(weights, axis=1), normalised)
        if factors is None:
            continue
        inverse = (1 / factors).astype(np.float32)
        maker, uses = makers[source], sum(source in n.input for n in made.graph.node)
        if maker.op_type == "Attention" and uses == len(products) and len(maker.output) == 1:
            divide_values(maker, tensors, inverse)
        else:
            evener = numpy_helper.from_array(inverse, f"{source}.evener")
            tensors[evener.name] = evener
            name = f"{source}.even"
            evened[source] = helper.make_node("Mul", [source, evener.name], [name], name=name)
        for node, weight in zip(products, weights, strict=True):
            scaled = (weight * factors[:, None]).astype(np.float32)
            tensors[node.input[1]] = numpy_helper.from_array(scaled, node.input[1])
    nodes, placed = [], set()
    for node in made.graph.node:
        source = node.input[0] if node.input else ""
        if source in evened and any(node is reader for reader in readers[source]):
            if source not in placed:
                nodes.append(evened[source])
                placed.add(source)
            node.input[0] = f"{source}.even"
        nodes.append(node)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    made.graph.initializer.extend(tensors.values())
    return made


def divide_values(attention: Any, tensors: dict[str, Any], inverse: np.ndarray) -> None:
    """Divide an attention's outputs without a node: they are averages of its values, the last
    columns of its projection, and columns have scales of their own."""
    from onnx import numpy_helper

    for name in attention.input[1:3]:
        value = numpy_helper.to_array(tensors[name]).copy()
        value[..., -len(inverse) :] *= inverse
        tensors[name] = numpy_helper.from_array(value, name)


def normalised(factors: np.ndarray) -> np.ndarray:
    """Scale factors to a geometric mean of 1 (only their proportions matter), with inverses that
    the file holds in 8 bits: which factor exactly matters little, as long as the weights get the
    same."""
    inverse = np.exp(np.log(factors).mean()) / factors.astype(np.float64)
    unit = short_above(inverse.max() / MOST_CODE)
    return 1 / (np.clip(np.rint(inverse / unit), 1, MOST_CODE) * unit)
