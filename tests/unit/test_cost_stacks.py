"""What a software stack or a cluster's wiring is known to do shows in the predicted time."""

from dataclasses import replace

import pytest

from pipelines.cost.coefficients import default_coefficients
from pipelines.cost.columns import columns_of
from pipelines.cost.model_names import by_name
from pipelines.cost.stacks import stacks
from pipelines.cost.time import StepModel
from pipelines.cost.workload import Workload

THETA = default_coefficients()


def served(**changes):
    base = Workload(
        kind="infer", task="infer", shape=by_name("bert-large"), gpu="T4", seq_len=128,
        micro_batch=32, precision="fp16", runtime="tensorrt",
    )  # fmt: skip
    return replace(base, **changes)


def trained(**changes):
    base = Workload(
        kind="train", task="pretrain", shape=by_name("llama-2-7b"), gpu="H100-SXM5-80GB",
        n_gpus=64, nodes=8, seq_len=4096, micro_batch=1, precision="bf16", runtime="pytorch",
        sharding="fsdp", optimizer="adamw",
    )  # fmt: skip
    return replace(base, **changes)


def parts(workload):
    found = StepModel(columns_of([workload])).parts(THETA)
    return {name: float(value[0]) for name, value in found.items()}


def test_an_engine_without_int8_tensor_cores_keeps_half_precision_kernels():
    volta = {p: sum(parts(served(gpu="V100-SXM2-16GB", precision=p)).values())
             for p in ("fp16", "int8")}  # fmt: skip
    turing = {p: sum(parts(served(precision=p)).values()) for p in ("fp16", "int8")}
    assert volta["int8"] == pytest.approx(volta["fp16"], rel=0.1)
    assert turing["int8"] < 0.75 * turing["fp16"]


def test_fused_attention_of_engines_starts_with_turing_and_needs_its_plugin():
    model = StepModel(columns_of([
        served(), served(gpu="V100-SXM2-16GB"), served(serving=True), served(precision="fp32"),
        served(seq_len=1024),
    ]))  # fmt: skip
    assert model.fused_attention.tolist() == [True, False, False, False, False]


def test_a_served_engine_is_one_built_from_an_export():
    names = stacks(columns_of([served(), served(serving=True)]))
    assert names == ["tensorrt.infer", "onnxruntime-tensorrt.infer"]


def test_gpus_of_one_nvlink_domain_do_not_wait_for_the_network():
    racked = parts(trained(gpu="GB200", nodes=16))
    boxed = parts(trained(gpu="B200", nodes=16))
    assert racked["data_parallel"] < 0.6 * boxed["data_parallel"]


def test_a_ring_leaves_a_node_through_the_adapters_of_all_its_ranks():
    eight = parts(trained())["data_parallel"]
    one = parts(trained(n_gpus=64, nodes=64))["data_parallel"]
    assert one > 3 * eight


def test_tensor_parallelism_across_nodes_is_slower_than_within_one():
    within = parts(trained(tp=8))["tensor_parallel"]
    across = parts(trained(tp=16))["tensor_parallel"]
    assert across > 1.2 * within


def test_a_tuned_library_multiplies_faster_in_fp8():
    plain = parts(trained(precision="fp8"))["gemm"]
    tuned = parts(trained(precision="fp8", runtime="nemo"))["gemm"]
    assert tuned < 0.9 * plain
