"""Seconds, memory and bytes of every step except training on a GPU, on a given machine.

Constants were measured on 2 vCPU AMD EPYC and scale with single-thread speed, products or disk as
the work does; benchmarks/here_accuracy.py prints them against step reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.cost.estimate import Estimate
from pipelines.cost.job import Job, kept_share
from pipelines.cost.machine import Machine
from pipelines.cost.transformer_cpu import (
    ONNX,
    TORCH_EVALUATION,
    pass_seconds,
    step_seconds,
)

MB = 1e6
GIB = float(1 << 30)
# Resident memory of a step's process with its libraries loaded, before any data.
PYTHON_BYTES = 0.05 * GIB
READER_BYTES = 0.14 * GIB
TORCH_BYTES = 0.36 * GIB
RUNTIME_BYTES = 0.39 * GIB
# Seconds from a step's start to its first useful work, in multiples of `import torch` (0.93 s):
# libraries, child process, model.
STARTS = {"train": 5.6, "compress": 4.7, "export": 1.8, "onnx": 0.4, "data": 0.25}
# Tokens a second and core of scanning, validating and tokenising text.
INGEST_TOKENS_PER_SECOND = 260_000.0
INGEST_IMAGES_PER_SECOND = 400.0
# Evaluation measures for this long (components.evaluate.step), three times; selection loads the
# tuned and the chosen model in several ways (components.select.step.LOAD_SECONDS).
SCREENING_SECONDS = 2.05
SCREENING_REQUESTS = 1000
LEAST_REQUESTS = 200
MOST_PASSES = 5
SELECT_LOAD_SECONDS = 16.6
# Tokenising one request.
TOKENISE_S = 1e-4
# Scoring a row: decoding entities, outcomes for resampling.
SCORE_SECONDS_PER_ROW = 1.2e-4
# A classifier that reads the first token runs three quarters of the last layer on it alone
# (components.export.encoder).
FIRST_TOKEN_TASKS = ("text-classification", "text-pair-ranking")
LAST_LAYER_SAVING = 0.75
PARITY_ROWS = 64
# Of a step's files, what libraries put into /tmp all the same when its scratch is on a volume.
VOLUME_SHARE = 0.05
EVALUATION_ROWS = 64
# Views of an image beside the training, and what reading images adds to a training's memory
# (receipt of examples/hand-images.yaml: 1.8 ms waited for 32, 675 MiB of which 233 were missing).
IMAGE_SECONDS = 5.6e-5
IMAGE_LIBRARY_BYTES = 0.22 * GIB
# Padded tokens of a batch on one thread (components.lib.runner.CPU_TOKEN_BUDGET), and of the rows
# packed to a multiple of these (components.train.setup.CPU_MULTIPLE).
BATCH_TOKENS = 512
PACKED_MULTIPLE = 16
# Rows that 8-bit graphs are observed on (components.lib.calibrate), and one thread's seconds for a
# token, layer and hidden element of it: quantiles of every activation.
OBSERVED_ROWS = 256
OBSERVE_S = 1.8e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What one step needs on one machine. `gpu_memory` is None on CPUs."""

    seconds: Estimate
    memory_bytes: Estimate
    disk_bytes: float
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    gpu_memory_bytes: Estimate | None = None


def step_cost(job: Job, machine: Machine, kind: str, variant: str = "fp32") -> StepCost:
    """Return the cost of the step of `kind` (for `variant`, where it has one) on `machine`."""
    functions = {
        "ingest": _ingest,
        "decide": _decide,
        "place": _place,
        "publish": _publish,
        "report": _report,
        "select": _select,
    }
    if kind in functions:
        return functions[kind](job, machine)
    from pipelines.cost.compression import compress_cost  # built from the functions below

    return {"compress": compress_cost, "export": _export, "evaluate": _evaluate}[kind](
        job, machine, variant
    )


def dataset_bytes(job: Job) -> float:
    """Size of the dataset artifact: ids (and, for NER, labels) of 4 bytes, compressed; images."""
    splits = job.profile.values()
    if job.spec.task == "image-classification":
        return sum(float(split.bytes) for split in splits)
    width = 8.0 if job.spec.task in ("token-classification", "causal-lm") else 4.5
    return sum(split.tokens * width * 0.6 for split in splits) + 1.0 * MB


def weights_bytes(job: Job) -> float:
    """Size of the tuned model on disk, fp32."""
    return 4.0 * job.parameters


def cost(
    job: Job, machine: Machine, seconds: float, memory: float, *, moved: float, disk: float,
    spread: float = 1.35, bytes_in: float = 0.0, bytes_out: float = 0.0,
) -> StepCost:  # fmt: skip
    """Add the transfer of `moved` bytes and put intervals around the figures."""
    transfer = moved / min(machine.disk_bytes_per_second, machine.store_bytes_per_second)
    data = job.profile["train"].spread
    return StepCost(
        seconds=Estimate.of(seconds + transfer, spread * data),
        memory_bytes=Estimate.of(memory, 1.25),
        disk_bytes=disk * (VOLUME_SHARE if job.scratch_on_volume else 1.0),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
    )


def _single(machine: Machine, seconds: float) -> float:
    """`seconds` of single-threaded work on a Zen 4 core, on this machine."""
    return seconds / machine.core_speed


def start_seconds(machine: Machine, kind: str) -> float:
    """Seconds until a step of this kind works."""
    return STARTS[kind] * machine.import_seconds


def _ingest(job: Job, machine: Machine) -> StepCost:
    raw = sum(float(split.bytes) for split in job.profile.values())
    if job.spec.task == "image-classification":
        rows = sum(split.rows for split in job.profile.values())
        work = _single(machine, rows / INGEST_IMAGES_PER_SECOND)
    else:
        tokens = sum(split.tokens for split in job.profile.values())
        # Small data is read by one process (components.ingest.shards.PARALLEL_BYTES).
        workers = machine.cores if raw > 8 * MB else 1.0
        work = _single(machine, tokens / INGEST_TOKENS_PER_SECOND / max(1.0, workers * 0.8))
    out = dataset_bytes(job)
    return cost(
        job, machine, start_seconds(machine, "data") + _single(machine, 0.1) + work,
        READER_BYTES + min(2.0 * raw, 2 * GIB), moved=raw + 2 * out,
        disk=raw + 3 * out, bytes_in=raw, bytes_out=out, spread=1.5,
    )  # fmt: skip


def _decide(job: Job, machine: Machine) -> StepCost:
    # The whole planner runs again: two seconds where it searches the catalogue.
    return cost(job, machine, _single(machine, 0.12 if machine.measured else 3.0),
                PYTHON_BYTES + (0.0 if machine.measured else 0.3 * GIB), moved=0.0,
                disk=10 * MB, spread=2.0)  # fmt: skip


def _place(job: Job, machine: Machine) -> StepCost:
    size = dataset_bytes(job)
    return cost(job, machine, _single(machine, 0.03), PYTHON_BYTES, moved=3 * size, disk=size,
                bytes_in=size, bytes_out=size, spread=2.0)  # fmt: skip


def _export(job: Job, machine: Machine, variant: str) -> StepCost:
    size, out = weights_bytes(job), job.model_bytes(variant)
    length = float(job.longest)
    # Four batches through torch and through each graph.
    parity = 8.0 * pass_seconds(
        machine, job.shape, rows=PARITY_ROWS / 4, length=length, precision="fp32",
        constants=TORCH_EVALUATION,
    )  # fmt: skip
    parts = variant.split("+")
    # Tracing and rewriting graphs handle nodes; serialising and quantising handle weights.
    work = 0.55 + 0.125 * job.shape.num_layers
    work += size * (5e-9 if any(part.startswith("int") for part in parts) else 7.5e-9)
    passes = sum(1.0 + (part == "int8-static") for part in parts if part.startswith("int8"))
    if passes:
        tokens = min(OBSERVED_ROWS, job.profile["train"].rows) * _mean_length(job, "train")
        elements = tokens * job.shape.hidden_size * job.shape.num_layers
        work += passes * OBSERVE_S * elements + 2.5e-9 * size
    seconds = start_seconds(machine, "export") + _single(machine, work) + parity
    # The model, the graph and a session of it; to quantise, a second graph. Peaks of 22M and 109M
    # parameters lie on 2.94 times their fp32 size, 3.73 for int8 and 4.10 for int8-static
    # (benchmarks.export_memory).
    memory = TORCH_BYTES + 0.3 * GIB + ((3.4 + 0.35 * passes) if passes else 2.95) * size
    return cost(job, machine, seconds, memory, moved=2 * size + 2 * out, disk=4 * size + out,
                bytes_in=size, bytes_out=out)  # fmt: skip


def inference_seconds(
    job: Job, machine: Machine, variant: str, *, rows: float, length: float,
    threads: float | None = None,
) -> float:  # fmt: skip
    """Seconds of one ONNX Runtime batch of `variant`."""
    precision = "int8" if any(p.startswith("int8") for p in variant.split("+")) else "fp32"
    kept = kept_share(job.shape, variant)
    if job.spec.task in FIRST_TOKEN_TASKS:
        kept *= 1.0 - LAST_LAYER_SAVING / job.shape.num_layers
    return pass_seconds(
        machine, job.shape, rows=rows, length=length, precision=precision, constants=ONNX,
        kept=kept, threads=threads,
    )  # fmt: skip


def score_seconds(
    job: Job, machine: Machine, variant: str, split: str, threads: float | None = None
) -> float:
    """Seconds of predicting a whole split: batches of `BATCH_TOKENS` side by side, a thread each
    (components.lib.runner)."""
    profile = job.profile[split]
    length = _mean_length(job, split)
    rows = min(max(BATCH_TOKENS / length, 1.0), float(profile.rows))
    used = max(1.0, min(machine.cores, threads or machine.cores))
    one = inference_seconds(job, machine, variant, rows=rows, length=length, threads=1.0)
    return max(profile.rows / rows / used, 1.0) * one


def _mean_length(job: Job, split: str) -> float:
    if job.spec.task == "image-classification":
        return job.sequence_length(1)
    return job.profile[split].mean_length or float(job.longest)


def _evaluate(job: Job, machine: Machine, variant: str) -> StepCost:
    size = job.model_bytes(variant)
    split = job.profile["validation"]
    whole = score_seconds(job, machine, variant, "validation")
    mean = _mean_length(job, "validation")
    single = inference_seconds(job, machine, variant, rows=1, length=mean)
    most = max(LEAST_REQUESTS, min(SCREENING_REQUESTS, split.rows)) * single
    requests = min(most, max(SCREENING_SECONDS, LEAST_REQUESTS * single))
    # The same with tokenisation, where tokens are words.
    text = most + SCREENING_REQUESTS * TOKENISE_S
    requests += min(text, max(SCREENING_SECONDS, LEAST_REQUESTS * single))
    # Whole passes until the next would not end in time: half of one is left over in the mean.
    passes = min(MOST_PASSES * whole, max(whole, SCREENING_SECONDS - whole / 2))
    seconds = start_seconds(machine, "onnx")
    seconds += _single(machine, 0.1 + split.rows * SCORE_SECONDS_PER_ROW)
    seconds += whole + passes + requests
    memory = RUNTIME_BYTES + 1.55 * size
    return cost(job, machine, seconds, memory, moved=size + dataset_bytes(job), disk=2 * size,
                bytes_in=size, bytes_out=1 * MB)  # fmt: skip


def _select(job: Job, machine: Machine) -> StepCost:
    sizes = [job.model_bytes(variant) for variant in job.variants]
    variants = {"fp32", min(job.variants, key=job.model_bytes)}
    work = sum(score_seconds(job, machine, variant, "test") for variant in variants)
    rows = job.profile["validation"].rows * len(job.variants) + 2 * job.profile["test"].rows
    seconds = _single(machine, 0.1 + rows * SCORE_SECONDS_PER_ROW) + work + SELECT_LOAD_SECONDS
    memory = RUNTIME_BYTES + 1.55 * sum(sorted(sizes)[-2:])
    return cost(job, machine, seconds, memory, moved=3 * max(sizes), disk=sum(sizes) + max(sizes),
                bytes_in=sum(sizes), bytes_out=max(sizes), spread=1.6)  # fmt: skip


def _publish(job: Job, machine: Machine) -> StepCost:
    size = max(job.model_bytes(variant) for variant in job.variants)
    return cost(job, machine, _single(machine, 0.15), PYTHON_BYTES, moved=6 * size, disk=4 * size,
                bytes_in=size, bytes_out=2 * size, spread=2.0)  # fmt: skip


def _report(job: Job, machine: Machine) -> StepCost:
    return cost(job, machine, _single(machine, 0.3), PYTHON_BYTES + 0.05 * GIB, moved=1 * MB,
                disk=20 * MB, spread=2.0)  # fmt: skip


# -- training on a CPU -----------------------------------------------------------------------------


def cpu_step_time(job: Job, machine: Machine, precision: str) -> float:
    """Seconds of one optimiser step with the global batch as one forward: texts end to end, padded
    to a multiple of `PACKED_MULTIPLE`."""
    batch = job.global_batch
    length, span = job.sequence_length(batch), None
    if job.spec.task != "image-classification":
        profile = job.profile["train"]
        length = profile.mean_length + PACKED_MULTIPLE / 2 / batch
        span = profile.span
    return step_seconds(
        machine, job.shape, rows=batch, length=length, span=span, precision=precision,
        trained_parameters=touched_parameters(job),
    )  # fmt: skip


def touched_parameters(job: Job) -> float:
    """Parameters that the optimiser visits: the loop leaves out embeddings of words that never
    occur (components.lib.optim). Where the data was not read their number is taken to grow as
    20 sqrt(tokens) (Heaps' law; 3,950 of the 39,179 tokens of the newsroom set)."""
    if job.spec.training.method != "full" or job.spec.task == "image-classification":
        return job.trained_parameters
    train = job.profile["train"]
    # Validation has a tenth of words that training has not.
    words = train.distinct * 1.1 if train.distinct else 20.0 * math.sqrt(float(train.tokens))
    words = min(float(job.shape.vocab_size), words)
    unseen = (job.shape.vocab_size - words) * (job.shape.embedding_size or job.shape.hidden_size)
    return max(job.trained_parameters - unseen, 0.1 * job.trained_parameters)


def validation_seconds(job: Job, machine: Machine, precision: str) -> float:
    """Seconds of one evaluation on the validation split with torch."""
    split = job.profile["validation"]
    batches = max(1.0, split.rows / EVALUATION_ROWS)
    return batches * pass_seconds(
        machine, job.shape, rows=min(EVALUATION_ROWS, split.rows),
        length=_mean_length(job, "validation"), precision=precision, constants=TORCH_EVALUATION,
    )  # fmt: skip


def cpu_train_seconds(job: Job, machine: Machine, precision: str) -> float:
    """Seconds of all training steps and evaluations, without start and end."""
    step = cpu_step_time(job, machine, precision)
    if job.spec.task == "image-classification":
        step += _single(machine, job.global_batch * IMAGE_SECONDS)
    steps = job.train_steps * step
    return steps + job.spec.training.epochs * validation_seconds(job, machine, precision)


def cpu_train_memory(job: Job) -> float:
    """Bytes of weights, gradients, states, activations, images. Measured (resident) activations are
    3.2 times the 34 s b h bytes at half precision of arXiv 2205.05198: fp32 copies, and arenas of
    the C library that varying batch shapes leave fragmented."""
    shape, batch, length = job.shape, job.global_batch, float(job.longest)
    states = 4.0 * job.parameters + 12.0 * job.trained_parameters
    layer = batch * length * (55.0 * shape.hidden_size + 8.0 * shape.num_heads * length) * 4.0
    logits = 0.0
    if job.spec.task == "causal-lm":
        logits = 3.0 * batch * length * shape.vocab_size * 4.0
    return states + shape.num_layers * layer + logits + image_memory(job)


def image_memory(job: Job) -> float:
    """Bytes of decoded images (components.lib.images keeps a gibibyte at most) and of the libraries
    that read and decode them; 0 for texts."""
    if job.spec.task != "image-classification":
        return 0.0
    rows = sum(job.profile[split].rows for split in ("train", "validation"))
    return IMAGE_LIBRARY_BYTES + min(float(GIB), 3.0 * rows * (job.shape.image_size or 224) ** 2)


def cpu_train_cost(job: Job, machine: Machine, precision: str) -> StepCost:
    """Cost of the train step on CPU cores."""
    size = weights_bytes(job)
    work = cpu_train_seconds(job, machine, precision)
    checkpoints = 1.0 + work / 300.0
    seconds = start_seconds(machine, "train") + _single(machine, 0.5) + work
    moved = 2 * size + checkpoints * job.checkpoint_bytes + dataset_bytes(job)
    return cost(
        job, machine, seconds, TORCH_BYTES + cpu_train_memory(job), moved=moved,
        disk=2 * size + 2 * job.checkpoint_bytes + dataset_bytes(job), bytes_in=dataset_bytes(job),
        bytes_out=size, spread=1.3 if machine.measured else 1.6,
    )  # fmt: skip
