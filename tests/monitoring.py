"""A published classifier of a few hundred bytes: a text with the word "bad" is negative."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from components.lib.sessions import EXPORT_VERSION

WORDS = ["[PAD]", "[UNK]", "bad", "good", "news", "about", "shares", "rise", "fall", "bank"]
BAD = WORDS.index("bad")
MAX_LENGTH = 32


def publish(folder: Path, *, sharpness: float = 6.0) -> Path:
    """Write the model folder; another `sharpness` is another model."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "labels.json").write_text(json.dumps(["negative", "positive"]))
    (folder / "export.json").write_text(
        json.dumps(
            {
                "schema_version": EXPORT_VERSION,
                "task": "text-classification",
                "max_length": MAX_LENGTH,
                "output": "sequence",
                "pad_token_id": 0,
                "target": "cpu",
            }
        )
    )
    (folder / "predict.py").write_text("")
    onnx.save(_graph(sharpness), folder / "model.onnx")
    return folder


def _graph(sharpness: float) -> onnx.ModelProto:
    """logits = sharpness * [x, 1 - x], x = 1 where any token is "bad"."""
    constants = {
        "bad": np.array(BAD, np.int64),
        "axis": np.array([1], np.int64),
        "slope": np.array([[sharpness, -sharpness]], np.float32),
        "start": np.array([[0.0, sharpness]], np.float32),
    }
    nodes = [
        helper.make_node("Equal", ["input_ids", "bad"], ["is_bad"]),
        helper.make_node("Cast", ["is_bad"], ["marks"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["marks", "axis"], ["x"], keepdims=1),
        helper.make_node("MatMul", ["x", "slope"], ["moved"]),
        helper.make_node("Add", ["moved", "start"], ["logits"]),
    ]
    ports = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2]),
    ]
    graph = helper.make_graph(
        nodes, "bad", ports[:1], ports[1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)
