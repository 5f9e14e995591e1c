"""What `variants: auto` is made of, and 8-bit rounding in training against the runtime's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from components.compress import recommend
from components.compress.search import Predicted
from components.compress.variant import Cut
from components.contract import SpecError
from components.export import quantise
from components.lib import fake_quant, onnx_graph, pruned


def test_families_are_those_that_can_be_cut() -> None:
    assert set(recommend.PRUNABLE) == set(pruned.LAYOUTS)


def test_the_planner_can_import_it_without_torch() -> None:
    program = "import sys, components.compress.recommend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def auto(**changed: Any) -> list[str]:
    asked = {"target": "cpu", "family": "bert", "layers": 6, "epoch_flops": 1e13,
             "task": "token-classification", **changed}  # fmt: skip
    return list(recommend.recommended(**asked))


def test_variants_are_valid_and_get_smaller() -> None:
    found = auto()
    assert found == ["fp32", "int8", "embed4+int8-static", "prune50+int8-static"]
    recommend.check(found, target="cpu", family="bert", layers=6)
    shares = [recommend.kept_share(variant, 6) for variant in found]
    assert shares == [1.0, 1.0, 1.0, 0.5]
    classes = auto(task="text-classification")
    assert classes[-1] == "distill3+int8-static"
    assert recommend.kept_share(classes[-1], 6) == 0.5
    assert auto(task="text-classification", layers=3)[-1] == "distill2+int8-static"


@pytest.mark.parametrize(
    "changed",
    [{"family": "gpt2"}, {"family": "llama"}, {"layers": 2}, {"pretrained": False},
     {"epoch_flops": 1e15}],
)  # fmt: skip
def test_nothing_is_cut_by_itself_where_it_would_not_pay(changed: dict[str, Any]) -> None:
    assert auto(**changed) == ["fp32", "int8"]


def test_a_gpu_gets_half_precision() -> None:
    assert auto(target="gpu") == ["fp32", "fp16"]


def test_what_the_step_would_refuse_is_refused_before_training() -> None:
    with pytest.raises(SpecError, match="gpt2 models can't be pruned") as refused:
        recommend.check(["int8", "prune50+int8"], target="cpu", family="gpt2", layers=12)
    assert "bert" in refused.value.remedy
    with pytest.raises(SpecError, match="distill6 of a model with 6 layers"):
        recommend.check(["distill6"], target="cpu", family="bert", layers=6)
    with pytest.raises(SpecError, match="distill4 of a model with 3 layers"):
        recommend.check(["distill3+distill4"], target="cpu", family="bert", layers=6)


@pytest.mark.parametrize("variant", ["prune50+int8", "distill3", "distill4+prune30+int8-static"])
def test_a_candidate_costs_its_share_of_the_search(variant: str) -> None:
    found = recommend.searches(variant, layers=6, epochs=4, steps_per_epoch=100)
    for search in found:
        predicted = Predicted(
            ways=search.ways, scoring_s=search.scoring, round_s=search.rounds,
            finish_s=search.finish,
        )  # fmt: skip
        # Every candidate is in the first round, half of them in the next; the last one goes on.
        alive = [-(-search.ways // 2**n) for n in range(len(search.rounds))] + [1]
        last_rounds = [n for n, gone in enumerate(np.diff(alive), 1) for _ in range(-gone)]
        each = [predicted.of(rounds, winner=False) for rounds in last_rounds]
        each.append(predicted.of(len(search.rounds), winner=True))
        assert len(each) == search.ways
        assert sum(each) + search.scoring == pytest.approx(search.total)
        halving = search.total - search.finish
        assert predicted.rounds_share == pytest.approx(halving / search.total)


def test_evenly_spaced_layers_are_one_of_the_ways() -> None:
    def ways(method: str, amount: int, layers: int = 6) -> tuple[int, int, int]:
        cut = Cut(method=method, amount=amount)
        whole = recommend.layers_whole(cut, layers)
        return recommend.most_layers_gone(cut, layers), whole, recommend.ways_of(cut, layers)

    assert ways("prune", 50) == (2, 3, 4)
    assert ways("prune", 65) == (2, 3, 4)  # a little of three layers goes, too
    assert ways("prune", 30) == (1, 5, 3)
    assert ways("prune", 5) == (0, 6, 1)
    assert ways("speed", 2) == (2, 3, 4)
    assert ways("distill", 3)[2] == 1


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


def test_a_rounded_table_is_what_the_graph_looks_up() -> None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    table = torch.randn(50, 64) * torch.logspace(-3, 1, 50)[:, None]
    table[7] = 0.0
    rounded = fake_quant.rounded_table(table)
    assert torch.equal(fake_quant.rounded_table(rounded), rounded)
    step = table.unflatten(1, (-1, 32)).abs().amax(2, keepdim=True).expand(-1, -1, 32) / 7
    assert ((rounded - table).abs() <= 0.502 * step.flatten(1) + 1e-6).all()
    node = helper.make_node("Gather", ["table", "ids"], ["y"], axis=0)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(rounded.numpy(), "table")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", onnx_graph.OPSET),
              helper.make_opsetid(onnx_graph.MICROSOFT, 1)]  # fmt: skip
    whole = helper.make_model(graph, opset_imports=opsets, ir_version=onnx_graph.IR_VERSION)
    made = quantise.int8(whole, table_bits=4)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"ids": np.arange(50)})[0]
    np.testing.assert_array_equal(found, rounded.numpy())
