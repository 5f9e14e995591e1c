"""ONNX files are written weight by weight and say what protobuf would have said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.contract import StepError
from components.lib import onnx_file


def product(width: int, columns: int = 64) -> onnx.ModelProto:
    """x @ w + b, with a weight of `width` rows."""
    dice = np.random.default_rng(0)
    weight = dice.normal(size=(width, columns)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "b"], ["y"]),
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [
            numpy_helper.from_array(weight, "w"),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [0.5]),  # float_data, not raw_data
        ],
        doc_string="naïve",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="a", value="b" * 300)
    return model


def test_the_file_is_the_message(tmp_path: Path):
    model = product(200)
    before = model.SerializeToString(deterministic=True)
    onnx_file.save(model, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx") == model
    assert model.SerializeToString(deterministic=True) == before
    assert len((tmp_path / "m.onnx").read_bytes()) == len(before)


def test_large_weights_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = product(200)
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 10_000)
    onnx_file.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 200 * 64 * 4
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    assert len(model.graph.initializer[0].raw_data) == 200 * 64 * 4  # still the caller's
    x = np.ones((3, 200), np.float32)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight + 0.5, rtol=1e-4)
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def test_a_full_disk_is_named():
    with pytest.raises(StepError, match="No space left"):
        onnx_file.save(product(20_000), Path("/dev/full"))


WRITE = """
import resource, sys
from pathlib import Path
from components.lib import onnx_file
from tests.unit.test_onnx_file import product
model = product(300_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
onnx_file.save(model, Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_writing_takes_one_more_weight_of_memory(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "m.onnx")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    # 77 MB in one weight; onnx.save would take about four times that.
    assert int(done.stdout) * 1024 < 1.2 * 77e6
