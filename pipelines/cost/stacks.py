"""Software stacks of workloads, and coefficients looked up by such names for many at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.cost.columns import Columns, Floats

Coefficients = Mapping[str, float]


def stacks(columns: Columns) -> list[str]:
    """Name the software stack of each row: what decides fusion, launch cost and kernel choice."""
    runtime, framework = columns.names["runtime"], columns.names["framework"]
    train = columns.is_("kind", "train")
    compiled = columns.flags["compiled"]
    out = []
    for i in range(columns.size):
        name = str(runtime[i])
        if name == "pytorch" and compiled[i]:
            name = "compiled"
        elif name == "tensorflow" and framework[i] == "tf1":
            name = "tensorflow1"
        elif name == "tensorrt" and columns.flags["serving"][i]:
            # A server's engines are built from an ONNX export, as ONNX Runtime's are.
            name = "onnxruntime-tensorrt"
        elif name == "deepspeed":
            # Megatron's layers; served, its kernels are fused and launched one by one.
            name = "megatron" if train[i] else "onnxruntime"
        out.append(f"{name}.{'train' if train[i] else 'infer'}")
    return out


class Codes:
    """A text column as codes, to look coefficients up without touching text again."""

    def __init__(self, keys: list[str]) -> None:
        unique, self._inverse = np.unique(np.array(keys, dtype=str), return_inverse=True)
        self._unique = [str(key) for key in unique]

    def gather(self, theta: Coefficients, prefix: str, default: float) -> Floats:
        """Return ``theta[prefix.key]`` of each row, `default` where there is none."""
        table = np.array([theta.get(f"{prefix}.{key}", default) for key in self._unique])
        return table[self._inverse] if len(table) else np.empty(0)
