"""Store numbers in fewer bytes; the session restores them to fp32 once, when it loads.

Whoever quantises may choose scales freely, so `scales_above` chooses some that take few bytes and
no error: multiples of a unit by 1 to 255, or numbers that fp16 holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Tensors of fewer elements stay as they are: a cast's own description takes as many bytes.
SMALL = 64
# Least scale: fp16 still holds it to a sixteenth.
LEAST_SCALE = 2.0**-20
MOST_CODE = 255
HALF_MOST = 65504.0  # what fp16 holds
# Scales become multiples of a unit if half of them are this many units or more: rounding them up
# then adds at most 3 % to the error power of the weights (measured on a tuned MiniLM).
LEAST_CODE = 24


def scales_above(wanted: np.ndarray) -> np.ndarray:
    """Return float32 scales, none below `wanted` (positive or 0), that are stored in one or two
    bytes each."""
    wanted = np.maximum(wanted, LEAST_SCALE)
    unit = short_above(wanted.max() / MOST_CODE)
    codes = np.ceil(wanted / unit)
    if np.median(codes) >= LEAST_CODE:
        return (codes * unit).astype(np.float32)
    if wanted.max() > HALF_MOST:
        return np.nextafter(wanted.astype(np.float32), np.float32(np.inf))
    half = wanted.astype(np.float16)
    half = np.where(half < wanted, np.nextafter(half, np.float16(np.inf)), half)
    return half.astype(np.float32)


def short_above(value: float) -> float:
    """Round up to 11 bits, so that a product with 8 bits is exact in fp32."""
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.ceil(mantissa * 2**11), exponent - 11))


def codes_of(values: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return 8-bit codes and a unit whose products are exactly `values`, None if there are none."""
    unit = float(values.max(initial=0.0)) / MOST_CODE
    if unit <= 0 or short_above(unit) != unit:
        return None
    codes = np.rint(values / unit)
    if codes.min() < 1 or not np.array_equal((codes * unit).astype(np.float32), values):
        return None
    return codes.astype(np.uint8), unit


def compact(model: Any) -> Any:
    """Put the graph's fp32 weights in fp16, scales in 8 bits where that is exact, and return it.
    CPU kernels compute in fp32: this makes the file smaller, not the time. What fp16 cannot hold
    stays.
    """
    from onnx import TensorProto, helper, numpy_helper

    restoring = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < SMALL:
            continue
        name, value = tensor.name, numpy_helper.to_array(tensor)
        short = f"{name}.short"
        if (coded := codes_of(value)) is not None:
            codes, unit = coded
            tensor.CopyFrom(numpy_helper.from_array(codes, short))
            scalar = numpy_helper.from_array(np.float32(unit), f"{name}.unit")
            model.graph.initializer.append(scalar)
            whole = f"{name}.codes"
            restoring.append(helper.make_node("Cast", [short], [whole], to=TensorProto.FLOAT))
            restoring.append(helper.make_node("Mul", [whole, scalar.name], [name]))
        elif np.abs(value).max() <= HALF_MOST:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), short))
            restoring.append(helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
    nodes = [*restoring, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
