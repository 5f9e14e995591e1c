"""The decision when hardware can be bought: search, then lay the choice out as a way to run."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.alternatives import alternatives
from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import Catalog
from pipelines.cost.chain import (
    VOLUME_SHARE,
    StepCost,
    cpu_train_cost,
    dataset_bytes,
    weights_bytes,
)
from pipelines.cost.choose import choose, feasible
from pipelines.cost.estimate import Alternative, Estimate
from pipelines.cost.job import Job
from pipelines.cost.money import POD_START_S, cold_start_seconds
from pipelines.cost.offers import IMAGES_LIGHT, Offer
from pipelines.cost.search import Choice, Space, build_space, host_memory
from pipelines.cost.totals import label, precision_of
from pipelines.cost.way import Placement, Training, Way
from pipelines.cost.words import dollars, duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the search hands to the plan."""

    way: Way
    choice: Choice
    space: Space
    alternatives: tuple[Alternative, ...]
    batch_seconds: float
    waits: dict[str, float]  # step kind (first of it) -> seconds of node start and image pull
    light_usd: float
    train_usd: float
    feasible: int


def decide_cloud(job: Job, catalog: Catalog, calibration: Calibration | None = None) -> Found:
    """Search and return the choice.

    Args:
        calibration: what receipts taught; it moves the times that the search compares.

    Raises:
        InfeasiblePlanError: see `choose`.
    """
    space = build_space(job, catalog, calibration)
    chosen = choose(space)
    training, batch_seconds = _training(space, chosen)
    light = chosen.light
    way = Way(training=training, light=_placement(light.light), serving=_placement(light.serving))
    start = cold_start_seconds(light.light.instance, IMAGES_LIGHT)
    waits = {"ingest": start, "compress": start}
    if light.serving is not light.light:
        waits["evaluate"] = cold_start_seconds(light.serving.instance, ("infer-gpu",))
    return Found(
        way=way, choice=chosen, space=space, alternatives=alternatives(space, chosen),
        batch_seconds=batch_seconds, waits=waits, light_usd=light.usd,
        train_usd=float(space.rows.usd[chosen.row]), feasible=feasible(space),
    )  # fmt: skip


def _placement(offer: Offer) -> Placement:
    known = not (offer.instance.owned and offer.instance.on_demand_usd_per_hour is None)
    return Placement(
        machine=offer.machine, instance=offer.instance, capacity=offer.capacity,
        usd_per_hour=offer.usd_per_hour if known else None,
    )  # fmt: skip


def _training(space: Space, chosen: Choice) -> tuple[Training, float]:
    """Return how the chosen row trains, and the seconds of one micro-batch."""
    job, row, rows = space.job, chosen.row, space.rows
    offer = space.offers[int(rows.offer[row])]
    seconds = Estimate(
        value=float(rows.seconds[row]),
        low=float(rows.work[row] / rows.spread[row]),
        high=float(rows.high[row]),
    )
    container = Estimate.of(float(rows.bare[row] * rows.factor[row]), float(rows.spread[row]))
    interval = float(min(rows.interval[row], max(60.0, rows.work[row])))
    layout_number = int(rows.layout[row])
    moved = (weights_bytes(job) + dataset_bytes(job), weights_bytes(job))
    disk = 2 * weights_bytes(job) + 2 * job.checkpoint_bytes + 2 * dataset_bytes(job)
    disk *= VOLUME_SHARE if job.scratch_on_volume else 1.0
    why = _why(space, chosen)
    if layout_number < 0:
        precision = precision_of(space, row)
        cost = cpu_train_cost(job, offer.machine, precision)
        cost = StepCost(
            seconds=seconds, memory_bytes=cost.memory_bytes, disk_bytes=disk, bytes_in=moved[0],
            bytes_out=moved[1],
        )  # fmt: skip
        training = Training(
            placement=_placement(offer), nodes=1, processes=1, gpus=0, precision=precision,
            micro_batch=job.global_batch, grad_accum=1, checkpointing=False,
            optimizer=_named(job), sharding="none", checkpoint_interval_s=round(interval),
            cost=cost, why=why, container=container, bare_seconds=float(rows.bare[row]),
            learnt_factor=float(rows.factor[row]),
        )  # fmt: skip
        return training, float(rows.work[row]) / max(job.train_steps, 1)
    layout = space.timed.layouts[layout_number]
    memory = float(space.timed.memory[layout_number])
    high = float(space.timed.memory_high[layout_number])
    cost = StepCost(
        seconds=seconds, memory_bytes=host_memory(job, layout.gpus), disk_bytes=disk,
        bytes_in=moved[0], bytes_out=moved[1],
        gpu_memory_bytes=Estimate(value=memory, low=memory * memory / high, high=high),
    )  # fmt: skip
    training = Training(
        placement=_placement(offer), nodes=layout.nodes, processes=layout.gpus, gpus=layout.gpus,
        precision=layout.precision, micro_batch=layout.micro_batch, grad_accum=layout.grad_accum,
        checkpointing=layout.checkpointing, optimizer=layout.optimizer, sharding=layout.sharding,
        checkpoint_interval_s=round(interval), cost=cost, why=why,
        container=container, bare_seconds=float(rows.bare[row]),
        learnt_factor=float(rows.factor[row]),
    )  # fmt: skip
    return training, float(space.timed.step_s[layout_number]) / layout.grad_accum


def _named(job: Job) -> str:
    wanted = job.spec.training.optimizer
    return "adamw" if wanted == "auto" else wanted


def _why(space: Space, chosen: Choice) -> str:
    objective = space.job.spec.objective
    goal = "fastest" if objective.minimize == "time" else "cheapest"
    limits = []
    if objective.deadline_s is not None:
        limits.append(f"within {duration(objective.deadline_s)} (risk {chosen.risk:.1%})")
    if objective.budget_usd is not None:
        limits.append(f"below {dollars(objective.budget_usd)}")
    return (
        f"{label(space, chosen.row)}: the {goal} of {space.counts['considered']:,} ways"
        + (f" {' and '.join(limits)}" if limits else "")
        + f"; {duration(chosen.seconds)} and {dollars(chosen.usd)} for the whole run"
    )


def overheads(found: Found, names: list[tuple[str, str, str | None]]) -> dict[str, float]:
    """Seconds that each step waits for its node and pod, by task name. Training's are in its own
    estimate already."""
    left = dict(found.waits)
    return {
        name: 0.0 if kind == "train" else POD_START_S + left.pop(kind, 0.0)
        for name, kind, _ in names
    }
