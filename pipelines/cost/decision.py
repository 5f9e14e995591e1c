"""From a job to a decision: everything a plan says, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from components.contract import InfeasiblePlanError, content_hash
from pipelines.cost.arguments import step_arguments
from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import STALE_AFTER_DAYS, Catalog, load_catalog
from pipelines.cost.chain import step_cost
from pipelines.cost.coefficients import constants_hash
from pipelines.cost.decide_cloud import Found, decide_cloud, overheads
from pipelines.cost.decide_here import decide_here
from pipelines.cost.estimate import Alternative, Estimate
from pipelines.cost.first_order import first_order
from pipelines.cost.here import machine_here
from pipelines.cost.job import Job
from pipelines.cost.learnt import Work, adjusted, device_of, model_name
from pipelines.cost.machine import machine_of_here
from pipelines.cost.requests import node_selector, resources, timeout, tolerations
from pipelines.cost.storage import storage_rows
from pipelines.cost.way import HERE, VARIANT_KINDS, Placement, Way
from pipelines.cost.whole_life import chain_notes
from pipelines.cost.words import dollars, duration

# Steps that run where the model will serve.
SERVING_KINDS = ("evaluate", "select")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the search found, ready to become a `Plan`."""

    steps: tuple[dict[str, Any], ...]
    usd: Estimate | None
    first_order: dict[str, Any]
    alternatives: tuple[Alternative, ...]
    candidates: dict[str, int]
    storage: tuple[dict[str, Any], ...]
    catalog: dict[str, Any]
    calibration: dict[str, Any]
    notes: tuple[str, ...]


def decide(
    job: Job, catalog: Catalog, *, calibration: Calibration | None, here: bool,
    cache_dir: Path | None,
) -> Decision:  # fmt: skip
    """Choose how to run `job`.

    Raises:
        InfeasiblePlanError: see `pipelines.plan.make_plan`.
    """
    prices = {"hash": catalog.hash, "date": catalog.date, "stale_days": STALE_AFTER_DAYS}
    learnt = {
        "hash": content_hash(calibration.to_json()) if calibration else None,
        "observations": int(calibration.evidence.get("observations", 0)) if calibration else 0,
        "constants": constants_hash(),
    }
    if here or job.spec.objective.hardware in (HERE, [HERE]):
        decision = _here(job, prices, learnt, cache_dir, calibration)
    else:
        decision = _cloud(job, catalog, prices, learnt, calibration)
    against = calibration.evidence.get("constants") if calibration else None
    if against in (None, constants_hash()):
        return decision
    stale = "the calibration was learnt against another version's constants: learn it again"
    return replace(decision, notes=(*decision.notes, stale))


def _here(
    job: Job, prices: dict[str, Any], learnt: dict[str, Any], cache_dir: Path | None,
    calibration: Calibration | None,
) -> Decision:  # fmt: skip
    measured = machine_here(cache_dir)
    transfers = calibration.transfers if calibration else {}
    machine = machine_of_here(measured, transfers.get(device_of(HERE)))
    way, others, batch = decide_here(job, machine, measured)
    steps, learnt["factors"], learnt["steps"] = plan_steps(job, way, {}, calibration)
    usd = _money(steps)
    check_limits(job, sum(s["seconds"].value for s in steps), None if usd is None else usd.value)
    return Decision(
        steps=steps,
        usd=usd,
        first_order=first_order(job, way, batch_seconds=batch),
        alternatives=others,
        candidates={"considered": len(others), "pruned": 0, "feasible": len(others)},
        storage=storage_rows(job, load_catalog(), "own"),
        catalog=prices,
        calibration=learnt,
        notes=_data_notes(job),
    )


def _cloud(
    job: Job,
    catalog: Catalog,
    prices: dict[str, Any],
    learnt: dict[str, Any],
    calibration: Calibration | None,
) -> Decision:
    if calibration and calibration.transfers:
        catalog = replace(catalog, transfers=calibration.transfers)
    found = decide_cloud(job, catalog, calibration)
    steps, learnt["factors"], learnt["steps"] = plan_steps(
        job, found.way, overheads(found, step_names(job.variants)), calibration
    )
    steps = _share_money(steps, found)
    cloud = found.way.light.instance.cloud if found.way.light.instance else "own"
    return Decision(
        steps=steps,
        usd=_money(steps),
        first_order=first_order(job, found.way, batch_seconds=found.batch_seconds),
        alternatives=found.alternatives,
        candidates={**found.space.counts, "feasible": found.feasible},
        storage=storage_rows(job, catalog, cloud),
        catalog=prices,
        calibration=learnt,
        notes=(*_data_notes(job), *chain_notes(job, catalog, found)),
    )


def _share_money(steps: tuple[dict[str, Any], ...], found: Found) -> tuple[dict[str, Any], ...]:
    """Give each step its share of what the search counted for the whole chain (cold starts, least
    billed time, expected interruptions, transfer), so that the steps add up to the total."""
    light = sum(s["usd"].value for s in steps if s["usd"] is not None and s["kind"] != "train")
    shared = []
    for step in steps:
        usd = step["usd"]
        if usd is not None and step["kind"] == "train":
            usd = usd.scaled(found.train_usd / usd.value) if usd.value else usd
        elif usd is not None and light:
            usd = usd.scaled(found.light_usd / light)
        shared.append({**step, "usd": usd})
    return tuple(shared)


def _data_notes(job: Job) -> tuple[str, ...]:
    notes = []
    for name, split in job.profile.items():
        if split.source == "assumed":
            notes.append(
                f"{name}: the data cannot be read here and data.profile is not given; "
                f"{split.rows:,} rows of {split.mean_length:.0f} tokens are assumed"
            )
        elif split.source == "sampled":
            notes.append(f"{name}: lengths come from a sample of the data")
    return tuple(notes)


def step_names(variants: tuple[str, ...]) -> list[tuple[str, str, str | None]]:
    """Return (task name, kind, variant) of every step, in order."""
    names: list[tuple[str, str, str | None]] = [
        (kind, kind, None) for kind in ("ingest", "decide", "place", "train")
    ]
    for variant in variants:
        suffix = variant.replace("+", "-")
        names += [(f"{kind}-{suffix}", kind, variant) for kind in VARIANT_KINDS]
    return [*names, *((kind, kind, None) for kind in ("select", "publish", "report"))]


def plan_steps(
    job: Job, way: Way, waits: dict[str, float], calibration: Calibration | None
) -> tuple[tuple[dict[str, Any], ...], dict[str, float], dict[str, dict[str, Any]]]:
    """Return every step as the keyword arguments of `StepPlan`; what calibration multiplied their
    seconds by; and what `pipelines.learn` knows them by: seconds of the container alone without
    calibration, precision, model and GPU, and the container's seconds with calibration, which
    receipts compare with.

    Args:
        waits: seconds that a step waits for its node and pod, by task name.
    """
    steps, factors, known = [], {}, {}
    for name, kind, variant in step_names(job.variants):
        step, factor, known[name] = _step(
            job, way, name, kind, variant, waits=waits.get(name, 0.0), calibration=calibration
        )
        steps.append(step)
        if factor != 1.0:
            factors[name] = factor
    return tuple(steps), factors, known


def _step(
    job: Job, way: Way, name: str, kind: str, variant: str | None, *, waits: float,
    calibration: Calibration | None,
) -> tuple[dict[str, Any], float, dict[str, Any]]:  # fmt: skip
    training = way.training
    on_train = kind == "train"
    place = training.placement if on_train else way.serving if kind in SERVING_KINDS else way.light
    found = training.cost if on_train else step_cost(job, place.machine, kind, variant or "fp32")
    precision = training.precision if on_train else variant or "any"
    gpu = place.instance.gpu or None if place.instance else None
    work = Work(
        kind=kind, device=device_of(place.name), precision=precision, gpu=gpu,
        model=model_name(job.spec.model_dump()),
    )  # fmt: skip
    bare, factor = training.bare_seconds, training.learnt_factor
    container = training.container
    if not on_train or container is None:
        bare = found.seconds.value
        found, factor = adjusted(found, calibration, work)
        container = found.seconds
    seconds = Estimate.sum(
        [found.seconds, Estimate(value=waits, low=0.7 * waits, high=1.4 * waits)]
    )
    # A variant is measured on the GPU that serves it; training owns what it asked for.
    gpus = training.gpus if on_train else int(bool(place.instance and place.instance.gpu))
    processes = training.processes if on_train else 1
    nodes = training.nodes if on_train else 1
    step = {
        "step": name,
        "kind": kind,
        "node": place.name,
        "capacity": place.capacity,
        "nodes": nodes,
        "processes_per_node": processes,
        "resources": resources(
            kind, found, place.instance, cores=place.machine.cores, processes=processes, gpus=gpus
        ),
        "timeout_s": timeout(found),
        "seconds": seconds,
        "peak_memory_bytes": found.memory_bytes,
        "peak_gpu_memory_bytes": found.gpu_memory_bytes,
        "usd": _usd(seconds, place, nodes),
        "node_selector": node_selector(place.instance, place.capacity),
        "tolerations": tolerations(place.instance, place.capacity, gpus),
        "arguments": step_arguments(job, way, kind, variant),
        "why": training.why if on_train else _why(place),
    }
    known = {
        "seconds": bare, "precision": precision, "model": work.model, "gpu": gpu,
        "container": asdict(container),
    }  # fmt: skip
    return step, factor, known


def _usd(seconds: Estimate, place: Placement, nodes: int) -> Estimate | None:
    if place.usd_per_hour is None:
        return None
    return seconds.scaled(place.usd_per_hour * nodes / 3600.0)


def _money(steps: tuple[dict[str, Any], ...]) -> Estimate | None:
    priced = [step["usd"] for step in steps]
    return None if None in priced else Estimate.sum(priced)


def _why(place: Placement) -> str:
    if place.name == HERE:
        return "this machine"
    return "the cheapest node with enough memory and disk"


def check_limits(job: Job, seconds: float, usd: float | None) -> None:
    """Raise when the (only or best) way breaks the deadline or the budget.

    Raises:
        InfeasiblePlanError: names the limit and the value that would do.
    """
    objective = job.spec.objective
    deadline = objective.deadline_s
    if deadline is not None and seconds > deadline:
        raise InfeasiblePlanError(
            f"objective.deadline: {duration(deadline)} is not enough, this machine needs "
            f"{duration(seconds)}",
            remedy=f"relax objective.deadline to {duration(seconds * 1.1)}, or lower "
            f"training.epochs (now {job.spec.training.epochs})",
        )
    if usd is not None and objective.budget_usd is not None and usd > objective.budget_usd:
        raise InfeasiblePlanError(
            f"objective.budget_usd: {dollars(objective.budget_usd)} is not enough, this machine "
            f"costs {dollars(usd)}",
            remedy=f"relax objective.budget_usd to {dollars(usd * 1.1)}",
        )
