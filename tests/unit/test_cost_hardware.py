"""GPU names resolve as people write them, and never to another memory size."""

import pytest

from components.contract import SpecError
from pipelines.cost.hardware import find_gpu, gpu_by_name, gpus


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Tesla T4", "T4"),
        ("nvidia-tesla-t4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("A100 80GB PCIe", "A100-PCIe-80GB"),
        ("nvidia h100 80gb hbm3", "H100-SXM5-80GB"),
        ("H100-PCIe", "H100-PCIe-80GB"),
        ("V100-SXM3-32GB-450W", "V100-SXM3-32GB-450W"),
        ("V100-32GB", "V100-SXM2-32GB"),
        ("RTX 4090", "RTX4090"),
        ("RTX-3090-24GB", "RTX3090"),
        ("A6000", "RTXA6000"),
        ("A10G", "A10G"),
        ("A10", "A10"),
        ("GB200 NVL72", "GB200"),
        ("AMD Instinct MI300X", "MI300X"),
        ("L40S-48GB", "L40S"),
    ],
)
def test_names(written, name):
    assert find_gpu(written).name == name


@pytest.mark.parametrize("written", ["", "T4-80GB", "GTX 1", "a potato", "A100-123GB", "cpu"])
def test_unknown_names_are_not_guessed(written):
    assert find_gpu(written) is None
    with pytest.raises(SpecError, match="unknown GPU"):
        gpu_by_name(written)


def test_a_bare_name_is_the_smaller_memory_and_says_so():
    gpu = gpu_by_name("A100")
    assert gpu.ambiguous
    assert gpu.memory_bytes < gpu_by_name("A100-80GB").memory_bytes


def test_every_row_has_a_source_and_sane_figures():
    for gpu in gpus().values():
        assert find_gpu(gpu.name) == gpu
        assert gpu.source
        assert 4e9 < gpu.memory_bytes < 400e9
        assert gpu.usable_bytes < gpu.memory_bytes
        assert gpu.peak_flops("fp32") <= gpu.peak_flops("tf32") <= gpu.peak_flops("fp8")
        assert 1e11 < gpu.bandwidth_bytes_per_second < 1e13


def test_missing_precisions_fall_back():
    t4, a100 = gpu_by_name("T4"), gpu_by_name("A100-80GB")
    assert not t4.supports("bf16")
    assert t4.peak_flops("bf16") == t4.peak_flops("fp32")
    assert a100.peak_flops("fp8") == a100.peak_flops("fp16")
