"""Read, check and change ONNX graphs, with errors that name the operator or the file."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import DataError
from components.lib.onnx_file import save

# Opset 17 is the oldest with LayerNormalization: every ONNX Runtime since 1.12 loads it.
# com.microsoft holds the fused operators of the very runtime that serves the graph.
OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"

__all__ = ["as_fp32", "load", "operators", "opset", "save", "share_equal_weights", "size_bytes"]


def load(path: Path) -> Any:
    """Return the ModelProto at `path`, external data included.

    Raises:
        DataError: the file is missing or not an ONNX model.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no ONNX file", remedy="run export again") from None
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise DataError(
            f"{path}: corrupted ONNX file: {error}", remedy="run export again"
        ) from error
    if not model.graph.node:
        raise DataError(f"{path}: corrupted ONNX file: it has no nodes", remedy="run export again")
    return model


def operators(model: Any) -> dict[str, int]:
    """Count the graph's operators by type, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def opset(model: Any) -> int:
    """Return the version of the default operator set that the graph needs."""
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def size_bytes(folder: Path) -> int:
    """Return the size of ``model.onnx`` and its external data in `folder`."""
    return sum(path.stat().st_size for path in folder.glob("model.onnx*"))


def as_fp32(model: Any) -> Any:
    """Return the graph with its fp16 weights and casts in fp32: the same numbers up to the rounding
    of weights, on kernels that a CPU has."""
    from onnx import TensorProto, numpy_helper

    made = type(model)()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for node in made.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    for item in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        if item.type.tensor_type.elem_type == TensorProto.FLOAT16:
            item.type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def share_equal_weights(model: Any, minimum: int = 1024) -> int:
    """Let initializers with equal bytes be one (the tracer copies tied weights); returns the bytes
    saved.

    Args:
        minimum: tensors of fewer elements stay as they are.
    """
    from onnx import numpy_helper

    graph = model.graph
    first: dict[str, str] = {}
    renamed: dict[str, str] = {}
    saved = 0
    for tensor in list(graph.initializer):
        if int(np.prod(tensor.dims)) < minimum:
            continue
        array = numpy_helper.to_array(tensor)
        key = f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
        if key in first:
            renamed[tensor.name] = first[key]
            saved += array.nbytes
            graph.initializer.remove(tensor)
        else:
            first[key] = tensor.name
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    return saved
