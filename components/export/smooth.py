"""Even out channels before quantising (SmoothQuant, Xiao et al. 2022).

A tuned BERT has a few channels with values of 30 where the rest stay below 2. One scale for the
tensor then leaves the rest seven levels of 255. Dividing each channel by a factor and multiplying
the weight's rows by it changes nothing in exact arithmetic and gives the levels back. The division
is a Mul of its own, because the residual reads the same tensor: 0.05 ms of 500 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.export.quantise import product_kind
from components.lib.calibrate import Observed

# Share of the difficulty that moves from activations to weights; 0.5 is the paper's.
ALPHA = 0.5
# Channels' largest magnitude over their median from which evening out is worth a node.
WORTH = 4.0


def smooth(model: Any, observed: Mapping[str, Observed], *, worth: float = WORTH) -> Any:
    """Return the graph with uneven activations divided channel by channel.

    Args:
        model: a fused fp32 graph.
        observed: what `calibrate.observe` saw of the activations that enter products.
        worth: see `WORTH`.
    """
    from onnx import helper, numpy_helper

    made = type(model)()
    made.CopyFrom(model)
    tensors = {t.name: t for t in made.graph.initializer}
    shapes = {name: tensor.dims for name, tensor in tensors.items()}
    nodes, done = [], {}
    for node in made.graph.node:
        source = node.input[0] if node.input else ""
        kind = product_kind(node, shapes)
        seen = observed.get(source)
        if kind in ("MatMul", "Attention") and seen is not None and uneven(seen.channels, worth):
            weight = numpy_helper.to_array(tensors[node.input[1]])
            if source not in done:
                done[source] = factors(seen.channels, weight)
                inverse = numpy_helper.from_array(1 / done[source], f"{source}.evener")
                made.graph.initializer.append(inverse)
                name = f"{source}.even"
                nodes.append(helper.make_node("Mul", [source, inverse.name], [name], name=name))
            scaled = weight * done[source][:, None]
            tensors[node.input[1]].CopyFrom(numpy_helper.from_array(scaled, node.input[1]))
            node.input[0] = f"{source}.even"
        nodes.append(node)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def uneven(channels: np.ndarray, worth: float) -> bool:
    """True when a few channels are far larger than the rest."""
    return bool(channels.max() > worth * np.median(channels))


def factors(channels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return what each channel is divided by: max|x|^a / max|w|^(1-a), 1 on geometric average."""
    activation = np.maximum(channels, 1e-5)
    rows = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    raw = activation**ALPHA / rows ** (1 - ALPHA)
    return (raw / np.exp(np.log(raw).mean())).astype(np.float32)
