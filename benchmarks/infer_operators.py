"""Which operators are slow on this CPU? Fused ones against what they are made of, one thread.

python -m benchmarks.infer_operators
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TOKENS, WIDTH, INNER = 500, 384, 1536
ROUNDS = 100
MICROSOFT = "com.microsoft"


def session(nodes: list[Any], width: int, weights: dict[str, Any], inputs: list[str]) -> Any:
    """Open a graph of `nodes` on one thread."""
    shape = [None, None, width]
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    provider = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), options, providers=provider)


def cases() -> dict[str, Any]:
    """Return the graphs by name."""
    node = helper.make_node
    narrow = {"g": np.ones(WIDTH), "b": np.zeros(WIDTH), "c": np.zeros(WIDTH)}
    wide = {"b": np.zeros(INNER)}
    skip = node("SkipLayerNormalization", ["x", "r", "g", "b", "c"], ["y"], domain=MICROSOFT)
    parts = [
        node("Sum", ["x", "r"], ["s"]),
        node("LayerNormalization", ["s", "g", "b"], ["y"], axis=-1),
    ]
    fused, plain = (
        [node(name, inputs, ["y"], domain=MICROSOFT)]
        for name, inputs in (("BiasGelu", ["x", "b"]), ("Gelu", ["x"]))
    )
    two = ["x", "r"]
    return {
        "SkipLayerNormalization": session([skip], WIDTH, narrow, two),
        "Sum + LayerNormalization": session(parts, WIDTH, narrow, two),
        "BiasGelu": session(fused, INNER, wide, ["x"]),
        "Gelu": session(plain, INNER, {}, ["x"]),
    }


def main() -> None:
    made = cases()
    dice = np.random.default_rng(0)
    best = dict.fromkeys(made, float("inf"))
    for _ in range(ROUNDS):  # in turn, so that whatever else the machine does hits all alike
        for name, opened in made.items():
            feed = {
                i.name: dice.normal(size=(1, TOKENS, i.shape[2])).astype(np.float32)
                for i in opened.get_inputs()
            }
            start = time.perf_counter()
            opened.run(None, feed)
            best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"{name:<28}{seconds * 1e3:>8.3f} ms")


if __name__ == "__main__":
    main()
