"""Peak memory: counts against autograd, states against arithmetic, moments against reason."""

import dataclasses

import numpy as np
import pytest

from pipelines.cost.columns import columns_of
from pipelines.cost.memory import PRIORS, memory_doubt, memory_parts
from pipelines.cost.memory_states import mode_of, states_of
from pipelines.cost.model_names import by_name
from pipelines.cost.predict import predict, predict_rows
from pipelines.cost.workload import Workload

THETA = {name: value for name, (value, _) in PRIORS.items()}
LLAMA = by_name("llama-2-7b")
FULL = Workload(
    kind="train", task="finetune", shape=LLAMA, gpu="A100-80GB", seq_len=1024, micro_batch=2,
    precision="bf16", head="lm",
)  # fmt: skip


def parts(workload, **change):
    c = columns_of([dataclasses.replace(workload, **change)])
    return {name: float(values[0]) for name, values in memory_parts(c, THETA).items()}


@pytest.mark.parametrize(
    ("family", "precision", "attention"),
    [
        ("bert", "fp32", "eager"),
        ("bert", "autocast", "sdpa"),
        ("gpt_neox", "pure", "sdpa"),
        ("llama", "fp32", "sdpa"),
        ("llama", "pure", "eager"),
        ("llama", "autocast", "sdpa"),
        ("qwen2", "pure", "eager"),
    ],
)
def test_a_layer_keeps_what_autograd_keeps(family, precision, attention, monkeypatch):
    import torch

    from benchmarks import saved_tensors

    monkeypatch.setattr(torch.nn.functional, "dropout", saved_tensors.gpu_dropout)
    one, two = (saved_tensors.saved_bytes(family, n, precision, attention) for n in (1, 2))
    kept = (two - one) / (saved_tensors.BATCH * saved_tensors.LENGTH)
    assert saved_tensors.count(family, precision, attention) == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize(
    ("change", "bytes_a_parameter"),
    [
        # Weights, gradients, two moments: all half; fp32; half with fp32 master and moments.
        ({}, 8.0),
        ({"precision": "fp32"}, 16.0),
        ({"runtime": "deepspeed", "precision": "fp16", "sharding": "zero1"}, 16.0),
        ({"optimizer": "sgd"}, 4.0),
        ({"optimizer": "sgd momentum"}, 6.0),
        ({"optimizer": "adamw8bit"}, 6.0),
        ({"precision": "fp32", "optimizer": "lion"}, 12.0),
    ],
)
def test_states_a_parameter(change, bytes_a_parameter):
    c = columns_of([dataclasses.replace(FULL, **change)])
    states = states_of(c, mode_of(c), THETA)
    total = states.weights + states.gradients + states.optimizer
    assert total[0] == pytest.approx(bytes_a_parameter * LLAMA.parameters, rel=1e-6)


def test_zero_shards_what_its_stage_says():
    ranks = 8
    base = dataclasses.replace(FULL, runtime="deepspeed", precision="fp16", n_gpus=ranks)
    expected = {"zero1": 2 + 2 + 12 / 8, "zero2": 2 + 2 / 8 + 12 / 8, "zero3": 16 / 8}
    for stage, per_parameter in expected.items():
        c = columns_of([dataclasses.replace(base, sharding=stage)])
        s = states_of(c, mode_of(c), THETA)
        total = float((s.weights + s.gradients + s.optimizer)[0])
        assert total == pytest.approx(per_parameter * LLAMA.parameters, rel=1e-6)


def test_the_peak_is_a_moment_not_the_sum():
    """Logits and gradients of one micro-step never live at once; added-up gradients do."""
    one = parts(FULL)
    assert min(one["logits"], one["gradients"]) == 0.0
    many = parts(FULL, grad_accum=4)
    assert many["gradients"] > 0
    assert sum(many.values()) >= sum(one.values())
    checkpointed = parts(FULL, checkpointing="full")
    assert checkpointed["gradients"] == pytest.approx(2 * LLAMA.parameters, rel=1e-6)
    assert checkpointed["logits"] == 0.0


def test_lomo_holds_one_tensor_of_gradients():
    small = parts(FULL, optimizer="lomo", checkpointing="full", micro_batch=1)
    assert small["optimizer"] == 0.0
    assert small["gradients"] < 0.05 * LLAMA.parameters * 2


def test_doubt_grows_with_what_is_not_counted():
    eager = columns_of([FULL, dataclasses.replace(FULL, compiled=True)])
    plain, compiled = memory_doubt(eager, memory_parts(eager, THETA))
    assert 0.02 < plain < compiled < 0.5
    infer = columns_of([dataclasses.replace(FULL, kind="infer", task="infer")])
    assert memory_doubt(infer, memory_parts(infer, THETA))[0] < plain


def test_published_rules_of_thumb_hold():
    """16 bytes a parameter do not fit 80 GB at 7B; QLoRA of 65B fits 48 GB and 7B 12 GB."""
    assert predict(dataclasses.replace(FULL, precision="fp16")).fits is False
    qlora = dataclasses.replace(
        FULL, task="qlora", quantization="nf4", peft_rank=64, checkpointing="full", seq_len=512,
        micro_batch=1, optimizer="paged_adamw_32bit", shape=by_name("llama-65b"), gpu="A40",
    )  # fmt: skip
    assert predict(qlora).fits is True
    assert predict(dataclasses.replace(qlora, shape=LLAMA, gpu="RTX3060")).fits is True


def test_figures_published_elsewhere_are_near():
    """BERT-large at 512 tokens, fp32 AdamW (Hugging Face's guide to training on one GPU, its
    1,343 MB of context taken off) and LLaMA-7B by AdamW and LOMO (arXiv 2306.09782, table 1)."""
    bert = dataclasses.replace(
        FULL, shape=by_name("bert-large"), precision="fp32", seq_len=512, micro_batch=1,
        grad_accum=4, head="small", optimizer="adamw",
    )  # fmt: skip
    assert predict(bert).peak_memory_bytes == pytest.approx(7338 * 2**20, rel=0.1)
    thin = dataclasses.replace(bert, checkpointing="full")
    assert predict(thin).peak_memory_bytes == pytest.approx(5432 * 2**20, rel=0.1)
    adamw = dataclasses.replace(
        FULL, runtime="deepspeed", precision="fp16", checkpointing="full", micro_batch=8,
        seq_len=512,
    )  # fmt: skip
    assert predict(adamw).peak_memory_bytes == pytest.approx(102.2 * 2**30, rel=0.05)
    lomo = dataclasses.replace(
        adamw, runtime="pytorch", optimizer="lomo", micro_batch=1, chunked_loss=True
    )
    assert predict(lomo).peak_memory_bytes == pytest.approx(14.58 * 2**30, rel=0.15)


def test_the_largest_batches_that_fit_a_titan_x_fit():
    """README of google-research/bert, TensorFlow with Adam in fp32 on 12 GB: twice the batch is
    too large by its table."""
    for name, seq, batch in (("bert-base", 128, 32), ("bert-base", 512, 6), ("bert-large", 128, 6)):
        fits = dataclasses.replace(
            FULL, shape=by_name(name), runtime="tensorflow", precision="fp32", seq_len=seq,
            micro_batch=batch, head="small", optimizer="adam", gpu="TITAN Xp",
        )  # fmt: skip
        assert predict(fits).fits is True
        assert predict(fits).peak_memory_bytes > 0.5 * 12 * 2**30


ROW = {
    "row_id": "r", "kind": "infer", "model": "llama-2-70b", "gpu": "A100-80GB", "n_gpus": "8",
    "seq_len": "512", "micro_batch": "1", "precision": "fp16", "runtime": "pytorch",
}  # fmt: skip


def test_gpus_share_a_model_that_one_cannot_hold():
    shared, stated, small = predict_rows(
        [ROW, ROW | {"tp": "8"}, ROW | {"model": "llama-2-7b", "n_gpus": "8"}]
    )
    assert shared["peak_memory_gib"] == stated["peak_memory_gib"]
    assert shared["fits"] == "1"
    assert float(small["peak_memory_gib"]) > 12.0
    (alone,) = predict_rows([ROW | {"tp": "1"}])
    assert alone["fits"] == "0"


def test_lengths_that_vary_leave_the_time_blank():
    row = ROW | {"kind": "train", "task": "finetune", "model": "llama-3.2-3b", "n_gpus": "1",
                 "precision": "bf16", "seq_len": "", "extra": "tokens=variable"}  # fmt: skip
    (answer,) = predict_rows([row])
    assert answer["step_time_s"] == ""
    assert float(answer["peak_memory_gib"]) > 20
    assert "512 tokens" in answer["reason"]


def test_finite_in_every_corner():
    shapes = [by_name(n) for n in ("bert-tiny", "gpt2", "albert-xxlarge", "llama-3.1-405b")]
    corners = [
        Workload(kind=kind, task="infer" if kind == "infer" else task, shape=shape, gpu=gpu,
                 seq_len=seq, micro_batch=batch, precision=precision, n_gpus=8, sharding=sharding,
                 head="lm" if shape.causal else "small", pp=pp)
        for kind, task in (("infer", ""), ("train", "pretrain"), ("train", "qlora"))
        for shape in shapes for gpu in ("K80", "MI355X") for seq in (1, 131072)
        for batch in (1, 4096) for precision in ("fp32", "int8", "fp4")
        for sharding in ("", "fsdp", "zero2") for pp in (1, 8)
    ]  # fmt: skip
    c = columns_of(corners)
    values = memory_parts(c, THETA)
    assert all(np.all(np.isfinite(v)) and np.all(v >= 0) for v in values.values())
