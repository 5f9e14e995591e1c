"""Every way to lay a training job out on GPUs of one kind, timed by the cost model in one go."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.cost.columns import columns_of
from pipelines.cost.hardware import find_gpu
from pipelines.cost.job import Job
from pipelines.cost.predict import predict_many, predict_memory
from pipelines.cost.workload import Workload

Floats = npt.NDArray[np.float64]
NODE_COUNTS = (1, 2, 4, 8)
GPU_COUNTS = (1, 2, 4, 8, 16)
OPTIMIZERS = ("adamw", "adafactor", "adamw-8bit")
MAX_MICRO_BATCH = 256
# Half precision needs units for it: T4 and V100 have no bf16, and fp32 is always possible.
PRECISIONS = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One layout; `preference` is 0 for what a careful person would take first and grows with
    what changes the result (another optimizer than AdamW)."""

    gpu: str
    nodes: int
    gpus: int  # a node
    precision: str
    micro_batch: int
    grad_accum: int
    checkpointing: bool
    optimizer: str
    sharding: str
    preference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Layouts with the model's answers, one element each; seconds of an optimizer step."""

    layouts: list[Layout]
    step_s: Floats
    spread: Floats
    memory: Floats
    memory_high: Floats
    fits: Floats  # 1 where even the upper bound fits


def layouts(job: Job, gpus: Mapping[str, Iterable[tuple[int, int]]]) -> list[Layout]:
    """Return every distinct layout.

    Args:
        job: gives global batch, precision, optimizer and method.
        gpus: GPU name to the (nodes, GPUs a node) that can be had.
    """
    training = job.spec.training
    found = []
    for gpu, shapes in gpus.items():
        known = find_gpu(gpu)
        if known is None:
            continue
        precisions = [
            p
            for p in (PRECISIONS if training.precision == "auto" else (training.precision,))
            if known.supports(p)
        ]
        for nodes, count in sorted(set(shapes)):
            ranks = nodes * count
            if ranks > job.global_batch:
                continue
            for micro in micro_batches(job.global_batch, ranks):
                for precision in precisions:
                    found += _variants(job, gpu, nodes, count, precision, micro)
    return found


def micro_batches(global_batch: int, ranks: int) -> list[int]:
    """Powers of two up to a rank's share of the global batch, and the share itself."""
    share = math.ceil(global_batch / ranks)
    sizes = {1 << n for n in range(10) if 1 << n <= min(share, MAX_MICRO_BATCH)}
    return sorted(sizes | {min(share, MAX_MICRO_BATCH)})


def _variants(
    job: Job, gpu: str, nodes: int, count: int, precision: str, micro: int
) -> list[Layout]:
    training = job.spec.training
    ranks = nodes * count
    wanted = training.optimizer
    optimizers = OPTIMIZERS if wanted == "auto" else (wanted,)
    shardings = ("none",) if ranks == 1 else ("ddp", "fsdp")
    return [
        Layout(
            gpu=gpu, nodes=nodes, gpus=count, precision=precision, micro_batch=micro,
            grad_accum=math.ceil(job.global_batch / (ranks * micro)), checkpointing=checkpointing,
            optimizer=optimizer, sharding=sharding,
            preference=optimizers.index(optimizer),
        )
        for checkpointing in (False, True)
        for optimizer in optimizers
        for sharding in shardings
    ]  # fmt: skip


def workload_of(job: Job, layout: Layout, length: float) -> Workload:
    """Return the question that the cost model answers about `layout` at `length` tokens a row."""
    training = job.spec.training
    lora = training.lora
    return Workload(
        kind="train",
        task="finetune" if training.method == "full" else "lora",
        shape=job.shape,
        gpu=layout.gpu,
        n_gpus=layout.nodes * layout.gpus,
        nodes=layout.nodes,
        seq_len=max(1.0, length),
        micro_batch=layout.micro_batch,
        grad_accum=layout.grad_accum,
        precision=layout.precision,
        optimizer=layout.optimizer,
        sharding=layout.sharding,
        checkpointing="full" if layout.checkpointing else "none",
        peft_rank=0 if training.method == "full" else (lora.rank if lora else 16),
        trainable_parameters=0.0 if training.method == "full" else job.trained_parameters,
        head="lm" if job.spec.task == "causal-lm" else "small",
    )


def timed(job: Job, found: list[Layout]) -> Timed:
    """Ask the cost model about all of `found`. Memory is asked for the longest batch, time for the
    mean one."""
    if not found:
        empty = np.empty(0)
        return Timed(layouts=[], step_s=empty, spread=empty, memory=empty, memory_high=empty,
                     fits=empty)  # fmt: skip
    lengths = {b: job.sequence_length(b) for b in {layout.micro_batch for layout in found}}
    mean = [workload_of(job, layout, lengths[layout.micro_batch]) for layout in found]
    columns = columns_of(mean)
    answers = predict_many(columns)
    longest = {**columns.values, "seq_len": np.full(columns.size, float(job.longest))}
    worst = predict_memory(dataclasses.replace(columns, values=longest))
    return Timed(
        layouts=found,
        step_s=answers.seconds,
        spread=answers.seconds_high / answers.seconds,
        memory=worst.value,
        memory_high=worst.high,
        fits=worst.fits,
    )
