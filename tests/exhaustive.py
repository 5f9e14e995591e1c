"""An exhaustive search in plain Python, to check the planner's arrays against.

It shares with the planner what single figures are (the predicted seconds of one layout, the cost of
one cheap step, prices of the catalogue) and nothing of how candidates are laid out, combined,
limited and compared: loops over everything, formulas written out again with `math`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipelines.cost.catalog import Catalog, Instance
from pipelines.cost.chain import cpu_train_cost, step_cost
from pipelines.cost.configurations import layouts, timed
from pipelines.cost.job import Job
from pipelines.cost.machine import machine_of
from pipelines.cost.money import IMAGE_BYTES, PULL_BYTES_PER_SECOND

POD_START, IDLE_IMAGES = 6.0, ("data", "train-cpu", "infer")
LEAST_BILLED = 60.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """One complete way: totals of the run, and what identifies it."""

    train: str
    capacity: str
    region: str
    layout: Any
    light: str
    seconds: float
    high: float
    usd: float
    keep: float
    preference: int


def start_seconds(instance: Instance, images: tuple[str, ...]) -> float:
    boot = 0.0 if instance.cloud == "own" else 120.0 if instance.gpu else 60.0
    rate = min(PULL_BYTES_PER_SECOND, instance.network_bytes_per_second)
    return boot + sum(IMAGE_BYTES[image] for image in images) / rate


def billed(instance: Instance, seconds: float) -> float:
    if instance.cloud == "own":
        return seconds
    return max(LEAST_BILLED, math.ceil(seconds))


def light_steps(job: Job) -> list[tuple[str, str]]:
    steps = [("ingest", "fp32"), ("decide", "fp32"), ("place", "fp32")]
    for variant in job.variants:
        steps += [("compress", variant), ("export", variant), ("evaluate", variant)]
    return [*steps, ("select", "fp32"), ("publish", "fp32"), ("report", "fp32")]


def light_total(job: Job, catalog: Catalog, instance: Instance, price: float, egress: float):
    """(seconds, high, usd) of every step but training on `instance`."""
    machine = machine_of(instance, catalog)
    costs = [step_cost(job, machine, kind, variant) for kind, variant in light_steps(job)]
    start = start_seconds(instance, IDLE_IMAGES)
    waits = len(costs) * POD_START + 2 * start
    spent = sum(c.seconds.value + POD_START for c in costs) + 2 * start
    usd = price * billed(instance, spent) / 3600.0 + egress
    seconds = sum(c.seconds.value for c in costs) + waits
    return seconds, sum(c.seconds.high for c in costs) + 1.4 * waits, usd


def fits_light(job: Job, catalog: Catalog, instance: Instance) -> bool:
    machine = machine_of(instance, catalog)
    room = instance.alloc_memory_bytes - 300 * 2**20
    disk = max(instance.alloc_ephemeral_bytes, 0.9 * instance.local_nvme_bytes)
    step = 64 * 2**20
    for kind, variant in light_steps(job):
        found = step_cost(job, machine, kind, variant)
        memory = math.ceil(max(256 * 2**20, found.memory_bytes.high * 1.15) / step) * step
        space = math.ceil(max(512 * 2**20, found.disk_bytes * 1.3) / step) * step
        if memory > room or space > disk:
            return False
    return instance.alloc_cpu_millicores >= 1000


def training_ways(job: Job, catalog: Catalog, instances: list[Instance]):
    """Yield (instance, capacity, layout, expected s, 90 % s, usd, preference)."""
    for instance in instances:
        for capacity in job.spec.objective.capacity:
            if instance.cloud == "own" and capacity != job.spec.objective.capacity[0]:
                continue
            price = catalog.price(instance, "on-demand" if instance.cloud == "own" else capacity)
            if instance.cloud == "own":
                price = price or 0.0
            if price is None:
                continue
            yield from _on(job, catalog, instance, capacity, price)


def _on(job: Job, catalog: Catalog, instance: Instance, capacity: str, price: float):
    machine = machine_of(instance, catalog)
    spot = capacity == "spot" and instance.cloud != "own"
    od = catalog.price(instance, "on-demand")
    may_fall = "on-demand" in job.spec.objective.capacity
    gpu = bool(instance.gpu)
    start = POD_START + start_seconds(instance, ("train-gpu" if gpu else "train-cpu",))
    load = 5.6 * 0.93 / machine.core_speed + (4.0 if gpu else 0.0)
    weights = 4.0 * job.parameters
    from pipelines.cost.chain import dataset_bytes

    moved = 2 * weights + dataset_bytes(job)
    save = job.checkpoint_bytes / machine.store_bytes_per_second + 0.5
    recover = start + load + 2 * save
    rate = 0.0
    if spot:
        hourly = instance.interruption_per_hour
        rate = (0.016 if hourly is None else hourly) / 3600.0
    candidates: list[tuple[Any, float, float, int, int]] = []
    if gpu:
        counts = {n for n in (1, 2, 4, 8, 16) if n <= instance.gpu_count} | {instance.gpu_count}
        shapes = [(1, n) for n in sorted(counts)]
        if instance.cloud != "own":
            shapes += [(n, instance.gpu_count) for n in (2, 4, 8) if n <= catalog.quota(instance)]
        answers = _timed(job, instance.gpu, tuple(shapes))
        for i, layout in enumerate(answers.layouts):
            if answers.fits[i] != 1.0 or not _host_fits(job, instance, layout.gpus):
                continue
            checks = job.spec.training.epochs * job.profile["validation"].rows / job.global_batch
            work = (job.train_steps + checks / 3.0) * float(answers.step_s[i])
            work += start + load + moved / machine.store_bytes_per_second
            work += 20.0 if layout.nodes > 1 else 0.0
            spread = float(answers.spread[i]) * job.profile["train"].spread
            candidates.append((layout, work, spread, layout.nodes, layout.preference))
    else:
        for precision in ("fp32", "bf16"):
            if precision == "bf16" and not machine.native_bf16:
                continue
            if job.spec.training.precision not in ("auto", precision):
                continue
            found = cpu_train_cost(job, machine, precision)
            if found.memory_bytes.high * 1.15 + 64 * 2**20 > (
                instance.alloc_memory_bytes - 300 * 2**20
            ):
                continue
            seconds = found.seconds
            candidates.append(
                (precision, seconds.value + start, seconds.high / seconds.value, 1, 0)
            )
    for layout, work, spread, nodes, preference in candidates:
        yield (
            instance, capacity, layout,
            *_priced(instance, work, spread, price * nodes, rate * nodes, save, recover,
                     od * nodes if od and may_fall else None),
            preference,
        )  # fmt: skip


_answers: dict[tuple[int, str, tuple[tuple[int, int], ...]], Any] = {}


def _timed(job: Job, gpu: str, shapes: tuple[tuple[int, int], ...]) -> Any:
    key = (id(job), gpu, shapes)
    if key not in _answers:
        _answers[key] = timed(job, layouts(job, {gpu: shapes}))
    return _answers[key]


def _host_fits(job: Job, instance: Instance, ranks: int) -> bool:
    gib = 2.0**30
    from pipelines.cost.chain import dataset_bytes

    value = 0.36 * gib + ranks * (2 * gib + 4.0 * job.parameters * 1.2) + 2 * dataset_bytes(job)
    shm = (256 + 256 * ranks) * 2**20
    return value * 1.2 * 1.15 + shm + 64 * 2**20 <= instance.alloc_memory_bytes - 300 * 2**20


def _priced(instance, work, spread, price, rate, save, recover, fallback):
    """Expected seconds, their 90 % point and expected money of one training."""
    if rate == 0.0:
        seconds = work + math.floor(work / 900.0) * save
        return seconds, max(seconds * spread, seconds), price * billed(instance, seconds) / 3600.0
    interval = max(60.0, save + math.sqrt(2 * (1 / rate + recover) * save + save * save))
    work += math.floor(work / interval) * save
    hit = 1 - math.exp(-rate * work)
    lost = recover + min(interval, work) / 2
    if fallback is not None:
        seconds = work + hit * lost
        before = hit / rate
        usd = (before * price + (seconds - before) * fallback) / 3600.0
        worst = lost
    else:
        compute = min(max(interval - save, 1.0), work)
        worked = work / compute * (1 / rate + recover) * math.expm1(rate * (compute + save))
        seconds = worked + rate * worked * 1800.0
        usd = price * worked / 3600.0
        worst = lost + 3600.0
    high = max(work * spread + (worst if hit > 0.1 else 0.0), seconds)
    return seconds, high, usd * billed(instance, seconds) / seconds


def every_way(
    job: Job, catalog: Catalog, instances: list[Instance], *, lights: list[Instance] | None = None,
    egress=lambda instance: 0.0, keep=lambda cloud: 0.0,
) -> list[Way]:  # fmt: skip
    """Return every complete way: each training way with each CPU node of its region."""
    steady = "on-demand" if "on-demand" in job.spec.objective.capacity else "spot"
    light: dict[tuple[str, str], list[tuple[str, float, float, float]]] = {}
    for instance in lights or instances:
        price = catalog.price(instance, steady)
        if instance.cloud == "own":
            price = catalog.price(instance, "on-demand") or 0.0
        if instance.gpu or price is None or not fits_light(job, catalog, instance):
            continue
        totals = light_total(job, catalog, instance, price, egress(instance))
        light.setdefault((instance.cloud, instance.region), []).append((instance.name, *totals))
    ways = []
    for instance, capacity, layout, seconds, high, usd, preference in training_ways(
        job, catalog, instances
    ):
        for name, s, h, u in light.get((instance.cloud, instance.region), []):
            ways.append(
                Way(
                    train=instance.name, capacity=capacity, region=instance.region, layout=layout,
                    light=name, seconds=seconds + s, high=high + h, usd=usd + u,
                    keep=keep(instance.cloud), preference=preference,
                )
            )  # fmt: skip
    return ways


def best(job: Job, ways: list[Way]) -> Way | None:
    """Choose by the documented rule, comparing one way after the other."""
    objective = job.spec.objective
    deadline = objective.deadline_s or math.inf
    budget = objective.budget_usd or math.inf
    for promised in (True, False):
        for preference in (0, 1, 2):
            allowed = [
                w
                for w in ways
                if w.preference == preference
                and w.usd <= budget
                and (w.high if promised else w.seconds) <= deadline
            ]
            if not allowed:
                continue
            if not promised:
                return min(allowed, key=lambda w: (w.high, w.usd + w.keep))
            if objective.minimize == "time":
                return min(allowed, key=lambda w: (w.seconds, w.usd + w.keep))
            return min(allowed, key=lambda w: (w.usd + w.keep, w.seconds))
    return None
