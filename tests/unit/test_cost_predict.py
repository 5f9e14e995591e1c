"""Predictions are ordered, monotone, fast, and honest about what they can't say."""

import csv
import dataclasses
import math
import time

import numpy as np
import pytest

from components.contract import DataError, SpecError
from pipelines.cost.hardware import Cpu
from pipelines.cost.model_names import by_name
from pipelines.cost.predict import OUTPUT_COLUMNS, predict, predict_csv, predict_many, predict_rows
from pipelines.cost.workload import HERE_CPU, Workload

BASE = Workload(
    kind="train", task="finetune", shape=by_name("bert-base"), gpu="A100-80GB", seq_len=128,
    micro_batch=32, precision="bf16", head="small",
)  # fmt: skip
LLM = dataclasses.replace(
    BASE, shape=by_name("llama-3.1-8b"), head="lm", seq_len=2048, micro_batch=1, task="lora",
    peft_rank=16,
)  # fmt: skip
INFER = dataclasses.replace(BASE, kind="infer", task="infer", runtime="tensorrt", precision="fp16")
ROW = {
    "row_id": "r1", "kind": "train", "task": "finetune", "model": "bert-base", "gpu": "T4",
    "n_gpus": "1", "seq_len": "128", "micro_batch": "32", "precision": "fp16",
    "runtime": "pytorch",
}  # fmt: skip


@pytest.mark.parametrize("workload", [BASE, LLM, INFER])
@pytest.mark.parametrize("gpu", ["T4", "V100", "L4", "H100", "MI300X", "RTX 3090", "B200"])
def test_intervals_are_ordered_and_finite(workload, gpu):
    p = predict(dataclasses.replace(workload, gpu=gpu))
    if workload.kind == "train":
        assert 0 < p.step_time_low < p.step_time_s < p.step_time_high < 1e4
        assert p.latency_ms is None
    else:
        assert 0 < p.latency_low < p.latency_ms < p.latency_high < 1e6
        assert p.step_time_s is None
    assert p.samples_per_s_low < p.samples_per_s < p.samples_per_s_high
    assert p.peak_memory_low < p.peak_memory_bytes < p.peak_memory_high
    seconds = p.step_time_s or p.latency_ms / 1e3
    assert p.samples_per_s == pytest.approx(workload.micro_batch / seconds)
    assert all(math.isfinite(v) and v >= 0 for k, v in p.breakdown.items() if k != "memory.slack")


def raw_seconds(workloads):
    """Sum of the operator-level parts, before the residuals of size classes."""
    parts = predict_many(workloads).parts
    return np.sum([v for k, v in parts.items() if not k.startswith("memory.")], axis=0)


@pytest.mark.parametrize("workload", [BASE, LLM, INFER])
@pytest.mark.parametrize("field", ["micro_batch", "seq_len"])
def test_more_work_takes_longer_and_more_memory(workload, field):
    grown = [
        dataclasses.replace(workload, **{field: getattr(workload, field) * k}) for k in (1, 2, 4)
    ]
    seconds = raw_seconds(grown)
    memory = predict_many(grown).memory
    assert np.all(np.diff(seconds) > 0)
    assert np.all(np.diff(memory) > 0)


def test_larger_model_and_slower_gpu_take_longer():
    large = dataclasses.replace(BASE, shape=by_name("bert-large"))
    slow = dataclasses.replace(BASE, gpu="T4", precision="fp16")
    base, bigger, slower = (predict(w).step_time_s for w in (BASE, large, slow))
    assert bigger > base
    assert slower > 3 * base


def test_memory_saving_settings_save_memory():
    full = dataclasses.replace(LLM, task="finetune", peft_rank=0)
    checkpointed = dataclasses.replace(LLM, checkpointing="full")
    quantised = dataclasses.replace(LLM, task="qlora", quantization="nf4", checkpointing="full")
    lora = predict(LLM).peak_memory_bytes
    assert predict(full).peak_memory_bytes > 2 * lora
    assert lora > predict(checkpointed).peak_memory_bytes > predict(quantised).peak_memory_bytes
    sharded = dataclasses.replace(full, n_gpus=8, sharding="zero3")
    assert predict(sharded).peak_memory_bytes < predict(full).peak_memory_bytes


def test_a_full_8b_finetune_does_not_fit_24_gb_and_minilm_does():
    full = dataclasses.replace(LLM, task="finetune", peft_rank=0, gpu="A10G")
    assert predict(full).fits is False
    small = dataclasses.replace(BASE, shape=by_name("minilm-l6"), gpu="T4", precision="fp16")
    assert predict(small).fits is True


def test_cpu_goes_through_the_same_model():
    cpu = Cpu(
        name="test", cores=2, memory_bytes=24e9, bandwidth_bytes_per_second=20e9,
        gemm_flops={"fp32": 150e9, "bf16": 270e9, "int8": 450e9}, overhead_seconds=5e-6,
        source="assumed",
    )  # fmt: skip
    here = dataclasses.replace(BASE, shape=by_name("minilm-l6"), gpu=HERE_CPU, cpu=cpu)
    faster = dataclasses.replace(
        here, cpu=dataclasses.replace(cpu, gemm_flops={k: 4 * v for k, v in cpu.gemm_flops.items()})
    )
    assert predict(here).step_time_s > predict(faster).step_time_s
    assert 0.05 < predict(here).step_time_s < 20


def test_unknown_gpu_is_an_error_for_one_workload():
    with pytest.raises(SpecError, match="unknown GPU"):
        predict(dataclasses.replace(BASE, gpu="nope"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gpu": "Quantum 9000"}, "GPU"),
        ({"gpu": ""}, "GPU"),
        ({"model": "nobody-knows"}, "architecture"),
        ({"seq_len": "-5"}, "seq_len"),
        ({"seq_len": ""}, "seq_len"),
        ({"seq_len": "1e30"}, "seq_len"),
        ({"seq_len": "nan"}, "seq_len"),
        ({"micro_batch": ""}, "micro_batch"),
        ({"micro_batch": "inf"}, "micro_batch"),
        ({"micro_batch": "lots"}, "micro_batch"),
        ({"n_gpus": "0"}, "n_gpus"),
        ({"n_gpus": "1.5"}, "n_gpus"),
        ({"tp": "8"}, "tp"),
        ({"nodes": "4"}, "nodes"),
        ({"precision": "fp3"}, "precision"),
        ({"kind": "dream"}, "kind"),
        ({"hidden_size": "770", "num_layers": "2", "num_heads": "12"}, "divisible"),
        ({"packing": "perhaps"}, "packing"),
    ],
)
def test_bad_rows_get_blanks_and_a_reason(change, word):
    good, bad = predict_rows([ROW, ROW | change])
    assert good["step_time_s"]
    assert good["fits"] == "1"
    assert word in bad["reason"]
    assert all(bad[c] == "" for c in OUTPUT_COLUMNS if c not in {"row_id", "reason"})
    assert bad["row_id"] == "r1"


def test_blank_optional_cells_are_handled():
    (row,) = predict_rows([dict.fromkeys(("optimizer", "sharding", "extra", "tp"), "") | ROW])
    assert float(row["step_time_s_low"]) < float(row["step_time_s"])
    assert row["latency_ms"] == ""


@pytest.mark.parametrize(
    ("column", "written", "meant"),
    [
        ("precision", "bf16-mixed", "bf16"),
        ("precision", "AMP fp16", "fp16"),
        ("precision", "FP8_e4m3", "fp8"),
        ("runtime", "Torch Tune", "torch-tune"),
        ("runtime", "transformers", "pytorch"),
        ("runtime", "TensorRT-LLM", "tensorrt"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("gpu", "GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER"),
        ("model", "albert-base-v2", "albert-base"),
        ("model", "EleutherAI/gpt-j-6B", "gpt-j-6b"),
        ("model", "EleutherAI/pythia-1.4b-deduped", "pythia-1.4b"),
        ("model", "distilbert-base-uncased-finetuned-sst-2-english", "distilbert"),
        ("model", "ViT-B/16", "vit-base"),
        ("model", "XLM-R", "xlm-roberta-base"),
        ("precision", "mixed precision", "fp16"),
        ("precision", "16-mixed", "fp16"),
        ("precision", "fp32 (TF32)", "tf32"),
        ("precision", "torch.bfloat16", "bf16"),
        ("precision", "fp16+fp32", "fp16"),
        ("gpu", "Tesla V100-DGXS-32GB", "V100-SXM2-32GB"),
        ("gpu", "DGX-1 V100", "V100"),
        ("gpu", "NVIDIA TITAN X (Pascal)", "TITANXPascal"),
        ("gpu", "g5.xlarge", "A10G"),
        ("task", "full fine-tuning", "finetune"),
        ("task", "SFT", "finetune"),
        ("kind", "training", "train"),
        ("sharding", "ZeRO-3", "zero3"),
        ("sharding", "FSDP2", "fsdp"),
        ("micro_batch", "1,024", "1024"),
        ("peft_rank", "0", ""),
        ("activation_checkpointing", "full", "1"),
        ("packing", "n/a", ""),
    ],
)
def test_spellings_mean_the_same(column, written, meant):
    first, second = predict_rows([ROW | {"gpu": "H100"} | {column: c} for c in (written, meant)])
    assert first["step_time_s"]
    assert first == second


def test_a_count_before_a_gpu_is_a_number_of_gpus():
    stated, plain = predict_rows([ROW | {"gpu": "8x A100-SXM4-80GB", "n_gpus": ""},
                                  ROW | {"gpu": "A100-SXM4-80GB", "n_gpus": "8"}])  # fmt: skip
    assert stated["step_time_s"]
    assert stated == plain
    split, whole = predict_rows([ROW | {"n_gpus": count, "tp": "4"} for count in ("", "4")])
    assert split == whole


def test_weights_in_four_bits_take_less_memory_and_products_stay_half():
    rows = [ROW | {"kind": "infer", "task": "infer", "model": "llama-2-7b", "precision": p}
            for p in ("nf4", "AWQ", "fp16")]  # fmt: skip
    four, other, half = (float(row["peak_memory_gib"]) for row in predict_rows(rows))
    assert four == other
    assert four < 0.6 * half


@pytest.mark.parametrize("gpu", ["TPU v4", "Gaudi2", "H100 MIG", "Apple M1 Max", "Jetson Xavier"])
def test_other_accelerators_are_not_guessed(gpu):
    (row,) = predict_rows([ROW | {"gpu": gpu}])
    assert row["step_time_s"] == row["peak_memory_gib"] == ""
    assert gpu in row["reason"]


def test_the_name_of_a_table_does_not_change_a_prediction():
    first, second = predict_rows([ROW, ROW | {"row_id": "other_table-99", "source": "elsewhere"}])
    assert {**first, "row_id": ""} == {**second, "row_id": ""}


def test_ten_thousand_rows_in_seconds(tmp_path):
    source, target = tmp_path / "rows.csv", tmp_path / "out.csv"
    with source.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ROW)
        writer.writeheader()
        for i in range(10_000):
            writer.writerow(ROW | {"row_id": f"x-{i}", "micro_batch": str(1 + i % 64)})
    start = time.process_time()
    assert predict_csv(source, target) == 10_000
    assert time.process_time() - start < 10
    with target.open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 10_000
    assert tuple(rows[0]) == OUTPUT_COLUMNS
    assert rows[9_999]["row_id"] == "x-9999"


def test_bad_files_leave_nothing_behind(tmp_path):
    with pytest.raises(DataError):
        predict_csv(tmp_path / "missing.csv", tmp_path / "out.csv")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="header"):
        predict_csv(tmp_path / "odd.csv", tmp_path / "out.csv")
    (tmp_path / "binary.csv").write_bytes(b"gpu,kind\n\xff\xfe\x00")
    with pytest.raises(DataError):
        predict_csv(tmp_path / "binary.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
