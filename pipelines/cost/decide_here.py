"""The decision when the hardware is given: this machine."""

from __future__ import annotations

import numpy as np

from components.contract import InfeasiblePlanError
from pipelines.cost.chain import (
    STARTS,
    StepCost,
    cpu_step_time,
    cpu_train_cost,
    cpu_train_memory,
    weights_bytes,
)
from pipelines.cost.configurations import layouts, timed
from pipelines.cost.estimate import Alternative, Estimate
from pipelines.cost.here import Here
from pipelines.cost.job import Job
from pipelines.cost.machine import Machine
from pipelines.cost.search import CUDA_START_S, host_memory
from pipelines.cost.way import HERE, Placement, Training, Way

GIB = float(1 << 30)
# Saving is cheap next to losing work on a laptop; the loop also saves at every epoch's end.
CHECKPOINT_INTERVAL_S = 300.0
PRECISIONS = ("fp32", "bf16")


def decide_here(
    job: Job, machine: Machine, here: Here
) -> tuple[Way, tuple[Alternative, ...], float]:
    """Return how to run on this machine, the ways that were not taken, and the seconds of one
    micro-batch.

    A GPU trains when there is one that the job fits on; the cheap steps use the CPU.

    Raises:
        InfeasiblePlanError: the model does not fit into memory.
    """
    price = job.spec.objective.here_usd_per_hour
    placement = Placement(machine=machine, instance=None, capacity=HERE, usd_per_hour=price)
    rates = {p: cpu_step_time(job, machine, p) for p in PRECISIONS}
    chosen = _precision(job.spec.training.precision, machine, rates)
    on_gpu = _on_gpu(job, machine, here, placement)
    others = tuple(
        _alternative(job, machine, p, chosen, rates, on_gpu is not None) for p in PRECISIONS
    )
    if on_gpu is not None:
        training, batch = on_gpu
        seconds = training.cost.seconds.value
        best = Alternative(
            label=f"here {training.gpus} x {here.gpu} {training.precision}", node=HERE, nodes=1,
            gpus=training.gpus, capacity=HERE, precision=training.precision, seconds=seconds,
            usd=None if price is None else price * seconds / 3600, risk=0.0, on_front=True,
            chosen=True, reason="chosen",
        )  # fmt: skip
        way = Way(training=training, light=placement, serving=placement)
        return way, (best, *others), batch
    _check_memory(job, machine)
    training = Training(
        placement=placement, nodes=1, processes=1, gpus=0, precision=chosen,
        micro_batch=job.global_batch, grad_accum=1, checkpointing=False,
        optimizer=_optimizer(job), sharding="none",
        checkpoint_interval_s=CHECKPOINT_INTERVAL_S, cost=cpu_train_cost(job, machine, chosen),
        why=_why(job, machine, chosen, rates),
    )  # fmt: skip
    way = Way(training=training, light=placement, serving=placement)
    return way, others, rates[chosen]


def _on_gpu(
    job: Job, machine: Machine, here: Here, placement: Placement
) -> tuple[Training, float] | None:
    """Return the fastest layout that fits on this machine's GPUs, None without any."""
    if not here.gpu:
        return None
    counts = {1 << n for n in range(6) if 1 << n <= here.gpu_count} | {here.gpu_count}
    shapes = {here.gpu: [(1, n) for n in sorted(counts)]}
    answers = timed(job, layouts(job, shapes))
    fitting = np.flatnonzero(answers.fits == 1.0)
    if not len(fitting):
        return None
    preferred = np.array([answers.layouts[i].preference for i in fitting])
    fitting = fitting[preferred == preferred.min()]
    best = int(fitting[np.argmin(answers.step_s[fitting])])
    layout, step = answers.layouts[best], float(answers.step_s[best])
    checks = job.spec.training.epochs * job.profile["validation"].rows / job.global_batch / 3.0
    seconds = STARTS["train"] * machine.import_seconds + CUDA_START_S
    seconds += (job.train_steps + checks) * step
    spread = float(answers.spread[best]) * job.profile["train"].spread
    memory, high = float(answers.memory[best]), float(answers.memory_high[best])
    cost = StepCost(
        seconds=Estimate.of(seconds, spread), memory_bytes=host_memory(job, layout.gpus),
        disk_bytes=2 * weights_bytes(job) + 2 * job.checkpoint_bytes,
        gpu_memory_bytes=Estimate(value=memory, low=memory * memory / high, high=high),
    )  # fmt: skip
    training = Training(
        placement=placement, nodes=1, processes=layout.gpus, gpus=layout.gpus,
        precision=layout.precision, micro_batch=layout.micro_batch, grad_accum=layout.grad_accum,
        checkpointing=layout.checkpointing, optimizer=layout.optimizer, sharding=layout.sharding,
        checkpoint_interval_s=CHECKPOINT_INTERVAL_S, cost=cost,
        why=f"{layout.gpus} of {here.gpu_count} x {here.gpu} here, {layout.precision}, "
        f"{step * 1e3:.0f} ms a step",
    )  # fmt: skip
    return training, step / layout.grad_accum


def _why(job: Job, machine: Machine, chosen: str, rates: dict[str, float]) -> str:
    other = "bf16" if chosen == "fp32" else "fp32"
    text = f"{machine.cores:g} cores here, one process on all of them; {chosen} "
    if job.spec.training.precision != "auto":
        return text + "as the spec asks"
    return text + f"({rates[chosen]:.2f} s a step, {other} {rates[other]:.2f} s)"


def _precision(wanted: str, machine: Machine, rates: dict[str, float]) -> str:
    """bf16 where the CPU multiplies it natively and is measured to be faster, else fp32; fp16 has
    no fast path on CPUs and would lose range for nothing."""
    if wanted in ("fp32", "bf16"):
        return wanted
    return "bf16" if machine.native_bf16 and rates["bf16"] < rates["fp32"] else "fp32"


def _optimizer(job: Job) -> str:
    wanted = job.spec.training.optimizer
    return "adamw" if wanted == "auto" else wanted


def _check_memory(job: Job, machine: Machine) -> None:
    need = cpu_train_memory(job)
    if need > machine.memory_bytes:
        rows = max(1, int(job.global_batch * machine.memory_bytes / need))
        raise InfeasiblePlanError(
            f"memory: training needs about {need / GIB:.1f} GiB with {job.global_batch} sequences "
            f"of up to {job.longest} tokens, this machine has {machine.memory_bytes / GIB:.1f} GiB",
            remedy=f"set training.global_batch to {rows} or less, or training.method: lora",
        )


def _alternative(
    job: Job, machine: Machine, precision: str, chosen: str, rates: dict[str, float], on_gpu: bool
) -> Alternative:
    seconds = cpu_train_cost(job, machine, precision).seconds.value
    price = job.spec.objective.here_usd_per_hour
    taken = precision == chosen and not on_gpu
    if taken:
        reason = "chosen"
    elif on_gpu:
        reason = "the GPU is faster"
    elif job.spec.training.precision != "auto":
        reason = f"training.precision asks for {chosen}"
    elif precision == "bf16" and not machine.native_bf16:
        reason = "this CPU has no bf16 units"
    else:
        reason = f"{rates[precision] / rates[chosen]:.2f} x the time of {chosen} a step"
    return Alternative(
        label=f"here {precision}", node=HERE, nodes=1, gpus=0, capacity=HERE,
        precision=precision, seconds=seconds, usd=None if price is None else price * seconds / 3600,
        risk=0.0, on_front=taken, chosen=taken, reason=reason,
    )  # fmt: skip
