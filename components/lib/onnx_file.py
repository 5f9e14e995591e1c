"""Write ONNX files with one weight in memory at a time.

``SerializeToString`` of a ModelProto takes up to four times its size while it works (its buffer
doubles, then is copied), and ``ByteSize`` is the same call. A message's wire format needs neither:
fields follow each other, so what surrounds the weights is serialised as usual and each weight's
bytes are put between.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.contract import StepError

# protobuf refuses messages of 2 GiB; larger weights go to a file of their own beside the graph.
EXTERNAL_DATA_BYTES = 1_500_000_000
# Smaller tensors stay in the graph: shapes and axes must be there when it is optimised.
LEAST_EXTERNAL_BYTES = 1024
# Wire tags (field number, type 2: length-delimited) of ModelProto.graph, GraphProto.initializer and
# TensorProto.raw_data in onnx.proto.
GRAPH_TAG, INITIALIZER_TAG, RAW_TAG = (bytes([number << 3 | 2]) for number in (7, 5, 9))


def save(model: Any, path: Path) -> None:
    """Write `model` to `path`; weights beyond protobuf's limit go to ``<name>.data``.

    Raises:
        StepError: the disk is full or the folder cannot be written.
    """
    data = None
    if weights_bytes(model) > EXTERNAL_DATA_BYTES:
        data = path.with_name(f"{path.name}.data")
    try:
        if data is not None:
            with data.open("wb") as file:
                file.writelines(t.raw_data for t in model.graph.initializer if _external(t))
        with path.open("wb") as file:
            file.writelines(_pieces(model, data))
    except OSError as error:
        raise StepError(f"cannot write {path}: {error}", remedy="free disk space") from error


def weights_bytes(model: Any) -> int:
    """Return the bytes of the graph's weights, counted one at a time."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _external(tensor: Any) -> bool:
    return len(tensor.raw_data) >= LEAST_EXTERNAL_BYTES


def _pieces(model: Any, data: Path | None) -> Iterator[bytes]:
    """Yield the parts of the serialised message."""
    starts, sizes, offset = [], [], 0
    for tensor in model.graph.initializer:
        head, size = without(tensor, "raw_data"), len(tensor.raw_data)
        if data is not None and _external(tensor):
            head.data_location = type(head).EXTERNAL
            places = {"location": data.name, "offset": str(offset), "length": str(size)}
            for key, value in places.items():
                head.external_data.add(key=key, value=value)
            offset, size = offset + size, 0
        start = head.SerializeToString(deterministic=True)
        if size:
            start += RAW_TAG + _varint(size)
        starts.append(INITIALIZER_TAG + _varint(len(start) + size) + start)
        sizes.append(size)
    graph = without(model.graph, "initializer").SerializeToString(deterministic=True)
    yield without(model, "graph").SerializeToString(deterministic=True)
    yield GRAPH_TAG + _varint(len(graph) + sum(map(len, starts)) + sum(sizes))
    yield graph
    for start, size, tensor in zip(starts, sizes, model.graph.initializer, strict=True):
        yield start
        if size:
            yield tensor.raw_data


def without(message: Any, name: str) -> Any:
    """Return a copy of the message that lacks the field `name`."""
    made = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(made, field.name).MergeFrom(value)
        else:
            setattr(made, field.name, value)
    return made


def _varint(value: int) -> bytes:
    """Encode as protobuf does: seven bits a byte, the lowest first."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
