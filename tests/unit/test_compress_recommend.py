"""What `variants: auto` is made of, and 8-bit rounding in training against the runtime's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from components.compress import recommend
from components.compress.variant import parse
from components.lib import fake_quant, onnx_graph, pruned


def test_families_are_those_that_can_be_cut() -> None:
    assert set(recommend.PRUNABLE) == set(pruned.LAYOUTS)


def test_the_planner_can_import_it_without_torch() -> None:
    program = "import sys, components.compress.recommend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_variants_are_valid_and_get_smaller() -> None:
    found = recommend.recommended(
        target="cpu", family="bert", layers=6, epochs=4, steps_per_epoch=107
    )
    assert [r.variant for r in found][:2] == ["fp32", "int8"]
    for one in found:
        assert parse(one.variant, "cpu").precision in ("fp32", "int8")
        assert one.reason
    assert found[0].training_epochs == 0 < found[2].training_epochs
    assert found[0].kept_share == 1.0 > found[2].kept_share == 0.5 > found[3].kept_share


def test_a_family_that_cannot_be_cut_gets_precisions_only() -> None:
    found = recommend.recommended(
        target="gpu", family="gpt2", layers=12, epochs=3, steps_per_epoch=50
    )
    assert [r.variant for r in found] == ["fp32", "fp16"]


def test_costs_grow_with_epochs_and_shrink_with_what_is_cut() -> None:
    def cost(variant: str, epochs: float = 4) -> float:
        return recommend.training_epochs(variant, layers=6, epochs=epochs, steps_per_epoch=100)

    assert cost("prune50", 8) > cost("prune50") > cost("prune80")
    assert cost("prune50+distill3") > cost("distill3")
    assert recommend.kept_share("distill3+prune50", 6) == pytest.approx(0.25)


def test_rounded_products_are_those_of_the_runtime() -> None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    linear, values = torch.nn.Linear(32, 24), torch.randn(16, 32) * 2 + 0.5
    with torch.no_grad(), fake_quant.eight_bit_products([linear]):
        found = linear(values).numpy()
    weight = linear.weight.detach().numpy().T
    scale = np.abs(weight).max(axis=0) / 127
    tensors = {
        "w": np.rint(weight / scale).astype(np.int8),
        "s": scale.astype(np.float32),
        "z": np.zeros(24, np.int8),
        "b": linear.bias.detach().numpy(),
    }
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["x", *tensors], ["y"], domain=onnx_graph.MICROSOFT
    )
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 24])],
        [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", onnx_graph.OPSET),
              helper.make_opsetid(onnx_graph.MICROSOFT, 1)]  # fmt: skip
    made = helper.make_model(graph, opset_imports=opsets, ir_version=onnx_graph.IR_VERSION)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": values.numpy()})[0]
    exact = linear(values).detach().numpy()
    assert np.abs(found - expected).max() < 1e-4 < np.abs(exact - expected).max()


def test_rounding_lets_gradients_through_and_ends_with_the_block() -> None:
    linear, values = torch.nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    exact = linear(values)
    with fake_quant.eight_bit_products([linear]):
        linear(values).sum().backward()
    assert torch.equal(linear.weight.grad, values.sum(0).expand(4, 8)) is False  # rounded inputs
    torch.testing.assert_close(
        linear.weight.grad, values.detach().sum(0).expand(4, 8), atol=0.1, rtol=0.1
    )
    assert torch.equal(linear(values), exact)
