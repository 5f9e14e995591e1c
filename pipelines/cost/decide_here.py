"""The decision when the hardware is given: this machine."""

from __future__ import annotations

from components.contract import InfeasiblePlanError
from pipelines.cost.chain import cpu_step_time, cpu_train_cost, cpu_train_memory
from pipelines.cost.estimate import Alternative
from pipelines.cost.job import Job
from pipelines.cost.machine import Machine
from pipelines.cost.way import HERE, Placement, Training, Way

GIB = float(1 << 30)
# Saving is cheap next to losing work on a laptop; the loop also saves at every epoch's end.
CHECKPOINT_INTERVAL_S = 300.0
PRECISIONS = ("fp32", "bf16")


def decide_here(job: Job, machine: Machine) -> tuple[Way, tuple[Alternative, ...]]:
    """Return how to run on `machine`, and the ways that were not taken.

    Raises:
        InfeasiblePlanError: the model does not fit into memory.
    """
    _check_memory(job, machine)
    rates = {p: cpu_step_time(job, machine, p) for p in PRECISIONS}
    wanted = job.spec.training.precision
    precision = _precision(wanted, machine, rates)
    price = job.spec.objective.here_usd_per_hour
    placement = Placement(machine=machine, instance=None, capacity=HERE, usd_per_hour=price)
    cost = cpu_train_cost(job, machine, precision)
    other = "bf16" if precision == "fp32" else "fp32"
    faster = rates[other] / rates[precision]
    why = (
        f"{machine.cores:g} cores here, one process on all of them; {precision} "
        + ("as the spec asks" if wanted != "auto" else
           f"({rates[precision]:.2f} s a step, {other} {rates[other]:.2f} s)")
    )  # fmt: skip
    training = Training(
        placement=placement, nodes=1, processes=1, gpus=0, precision=precision,
        micro_batch=job.global_batch, grad_accum=1, checkpointing=False,
        optimizer=_optimizer(job), sharding="none",
        checkpoint_interval_s=CHECKPOINT_INTERVAL_S, cost=cost, why=why,
    )  # fmt: skip
    alternatives = tuple(
        _alternative(job, machine, p, precision, price, wanted, faster) for p in PRECISIONS
    )
    return Way(training=training, light=placement, serving=placement), alternatives


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
    job: Job, machine: Machine, precision: str, chosen: str, price: float | None, wanted: str,
    faster: float,
) -> Alternative:  # fmt: skip
    seconds = cpu_train_cost(job, machine, precision).seconds.value
    reason = "chosen"
    if precision != chosen:
        reason = (
            f"training.precision asks for {chosen}"
            if wanted != "auto"
            else f"{faster:.2f} x the time of {chosen} a step"
        )
        if precision == "bf16" and not machine.native_bf16:
            reason = "this CPU has no bf16 units"
    return Alternative(
        label=f"here {precision}", node=HERE, nodes=1, gpus=0, capacity=HERE,
        precision=precision, seconds=seconds, usd=None if price is None else price * seconds / 3600,
        risk=0.0, on_front=precision == chosen, chosen=precision == chosen, reason=reason,
    )  # fmt: skip
