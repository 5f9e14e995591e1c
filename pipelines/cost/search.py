"""The search: every layout on every offer with every node for the rest, as arrays.

A candidate is (layout, offer to train on, node for the cheap steps, storage policy). Times and
prices of the parts add up, so the arrays hold the parts and each combination is compared; nothing
is sampled and nothing pruned that could win.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import Catalog
from pipelines.cost.chain import (
    GIB,
    STARTS,
    TORCH_BYTES,
    cpu_train_cost,
    cpu_train_memory,
    dataset_bytes,
    weights_bytes,
)
from pipelines.cost.configurations import (
    GPU_COUNTS,
    NODE_COUNTS,
    PRECISIONS,
    Timed,
    layouts,
    timed,
)
from pipelines.cost.estimate import Estimate
from pipelines.cost.job import Job
from pipelines.cost.learnt import Work, knows, learnt_ratio, model_name, narrowed
from pipelines.cost.money import POD_START_S, billed_seconds, cold_start_seconds
from pipelines.cost.offers import LightPlan, Offer, light_plans, moved_bytes, offers, trains_here
from pipelines.cost.requests import memory_request, offered_memory, shm_bytes
from pipelines.cost.spot import (
    checkpoint_interval,
    daly_seconds,
    fallback_seconds,
    fallback_usd,
    interrupted,
    lost_seconds,
    rate_per_second,
    waiting_seconds,
    with_checkpoints,
)
from pipelines.cost.storage import KEEP_CLASSES, keeping_usd, kept_artifacts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Z80 = 1.2816
# A plan may miss its deadline with this probability at most, if any candidate can promise that.
ACCEPTED_RISK = 0.1
CUDA_START_S = 4.0
CHECKPOINT_ON_DEMAND_S = 900.0
# Multi-node work starts through a TrainJob: queueing, rendezvous.
RENDEZVOUS_S = 20.0
HOST_BYTES_PER_RANK = 2.0 * GIB
CPU_PRECISIONS = ("fp32", "bf16")


@dataclass(slots=True)
class Rows:
    """Training candidates, one element each. `layout` is -1 for training on CPU cores (then
    `precision` is in `cpu_precision`); times in seconds, money in USD."""

    offer: Ints
    layout: Ints
    nodes: Floats
    work: Floats  # uninterrupted seconds of the train step with its cold start
    spread: Floats
    rate: Floats  # interruptions a second
    save: Floats  # seconds of one checkpoint
    recover: Floats
    preference: Ints
    cpu_precision: Ints
    bare: Floats  # seconds of the container alone, without what receipts taught
    factor: Floats  # what receipts multiplied them by
    interval: Floats = field(default_factory=lambda: np.empty(0))
    seconds: Floats = field(default_factory=lambda: np.empty(0))
    high: Floats = field(default_factory=lambda: np.empty(0))
    usd: Floats = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Everything that was considered."""

    job: Job
    catalog: Catalog
    offers: list[Offer]
    timed: Timed
    rows: Rows
    lights: dict[tuple[str, str], list[LightPlan]]
    policies: dict[str, list[tuple[str, float]]]  # cloud -> (policy, USD of keeping)
    forbidden: dict[str, int]
    out_of_memory: int

    @property
    def counts(self) -> dict[str, int]:
        """Distinct candidates: combinations of training row, light node and storage policy."""
        per_place: dict[tuple[str, str], int] = {}
        for place, plans in self.lights.items():
            per_place[place] = len(plans) * max(1, len(self.policies.get(place[0], [])))
        places = [per_place.get(offer.place, 0) for offer in self.offers]
        considered = int(np.array(places, dtype=np.int64)[self.rows.offer].sum()) if places else 0
        return {"considered": considered, "pruned": self.out_of_memory}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One candidate: a row, its light node, and the totals of the whole chain."""

    row: int
    light: LightPlan
    seconds: float
    high: float
    usd: float
    risk: float


def build_space(job: Job, catalog: Catalog, calibration: Calibration | None = None) -> Space:
    """Lay out every candidate and cost it, with what receipts taught where they did."""
    found, forbidden = offers(job, catalog)
    training = [offer for offer in found if trains_here(job, catalog, offer)]
    gpus: dict[str, set[tuple[int, int]]] = {}
    for offer in training:
        if offer.instance.gpu:
            gpus.setdefault(offer.instance.gpu, set()).update(shapes(job, catalog, offer))
    answers = timed(job, layouts(job, gpus))
    rows, out = _rows(job, catalog, training, answers, calibration)
    _price(job, training, rows)
    return Space(
        job=job, catalog=catalog, offers=training, timed=answers, rows=rows,
        lights=light_plans(job, catalog, found, calibration), policies=_policies(job, catalog),
        forbidden=forbidden, out_of_memory=out,
    )  # fmt: skip


def shapes(job: Job, catalog: Catalog, offer: Offer) -> set[tuple[int, int]]:
    """(nodes, GPUs a node) that an offer allows: part of one node's GPUs, or whole nodes."""
    instance = offer.instance
    limit = min(catalog.quota(instance, offer.capacity), 1.0 if instance.owned else math.inf)
    found = {(1, n) for n in GPU_COUNTS if n <= instance.gpu_count}
    found.add((1, instance.gpu_count))
    found |= {(n, instance.gpu_count) for n in NODE_COUNTS if n <= limit}
    return found


def _policies(job: Job, catalog: Catalog) -> dict[str, list[tuple[str, float]]]:
    """Storage policies of each cloud: one class for what is read rarely, with its whole price."""
    result: dict[str, list[tuple[str, float]]] = {}
    for cloud in {i.cloud for i in catalog.instances}:
        options = []
        for name in KEEP_CLASSES:
            storage = catalog.storage_class(cloud, name)
            if storage is not None:
                usd = sum(keeping_usd(kept, storage) for kept in kept_artifacts(job))
                options.append((name, usd))
        result[cloud] = options or [("own", 0.0)]
    return result


def _rows(
    job: Job, catalog: Catalog, found: list[Offer], answers: Timed, calibration: Calibration | None
) -> tuple[Rows, int]:
    """Cross offers with the layouts they allow; returns the rows and how many do not fit."""
    by_gpu: dict[str, Ints] = {}
    kinds = np.array([layout.gpu for layout in answers.layouts], dtype=object)
    for gpu in set(kinds.tolist()):
        by_gpu[gpu] = np.flatnonzero(kinds == gpu)
    nodes = np.array([layout.nodes for layout in answers.layouts], dtype=np.int64)
    counts = np.array([layout.gpus for layout in answers.layouts], dtype=np.int64)
    parts: list[tuple[int, Ints]] = []
    out = 0
    for index, offer in enumerate(found):
        instance = offer.instance
        if not instance.gpu or instance.gpu not in by_gpu:
            continue
        every = by_gpu[instance.gpu]
        limit = min(catalog.quota(instance, offer.capacity), 1.0 if instance.owned else math.inf)
        ok = (counts[every] <= instance.gpu_count) & (nodes[every] <= limit)
        ok &= (nodes[every] == 1) | (counts[every] == instance.gpu_count)
        mine = every[ok]
        fits = answers.fits[mine] == 1.0
        fits &= _host_fits(job, offer, counts[mine])
        out += int((~fits).sum())
        parts.append((index, mine[fits]))
    cpu = _cpu_rows(job, found)
    offer_index = np.concatenate(
        [np.full(len(mine), index, dtype=np.int64) for index, mine in parts]
        + [np.array([index for index, _, _ in cpu], dtype=np.int64)]
    )
    layout_index = np.concatenate(
        [mine for _, mine in parts] + [np.full(len(cpu), -1, dtype=np.int64)]
    ).astype(np.int64)
    rows = _timed_rows(job, found, answers, offer_index, layout_index, cpu)
    if calibration is not None:
        _learn(job, found, answers, rows, calibration)
    return rows, out


def _host_fits(job: Job, offer: Offer, gpus: Ints) -> npt.NDArray[np.bool_]:
    """Whether host memory holds a process for each GPU."""
    room = offered_memory(offer.instance)
    need = np.array([host_memory(job, int(n)).high * 1.15 + shm_bytes(int(n), True) for n in
                     range(17)])  # fmt: skip
    result: npt.NDArray[np.bool_] = need[np.minimum(gpus, 16)] + 64 * 2**20 <= room
    return result


def host_memory(job: Job, ranks: int) -> Estimate:
    """Host memory of a train pod: libraries and CUDA context a rank, weights once while loading."""
    per_rank = HOST_BYTES_PER_RANK + weights_bytes(job) * 1.2
    data = dataset_bytes(job) * 2
    return Estimate.of(TORCH_BYTES + ranks * per_rank + data, 1.2)


CpuRow = tuple[int, int, Estimate]


def _cpu_rows(job: Job, found: list[Offer]) -> list[CpuRow]:
    """(offer, precision number, seconds) of training on CPU cores, where memory holds it."""
    wanted = job.spec.training.precision
    rows: list[CpuRow] = []
    known: dict[tuple[object, str], Estimate] = {}  # the same type costs the same time anywhere
    need = memory_request(
        Estimate.of(TORCH_BYTES + cpu_train_memory(job), 1.25), shm_bytes(1, False)
    )
    for index, offer in enumerate(found):
        if offer.instance.gpu or need > offered_memory(offer.instance):
            continue
        machine = offer.machine
        key = (offer.instance.cpu, machine.cores, machine.disk_bytes_per_second,
               machine.store_bytes_per_second)  # fmt: skip
        for number, precision in enumerate(CPU_PRECISIONS):
            if wanted not in ("auto", precision) or (
                precision == "bf16" and not offer.machine.native_bf16
            ):
                continue
            if (key, precision) not in known:
                known[key, precision] = cpu_train_cost(job, machine, precision).seconds
            rows.append((index, number, known[key, precision]))
    return rows


def _timed_rows(
    job: Job, found: list[Offer], answers: Timed, offer: Ints, layout: Ints, cpu: list[CpuRow]
) -> Rows:
    count, on_cpu = len(offer), layout < 0
    picked = np.maximum(layout, 0)
    have = len(answers.layouts) > 0
    nodes = np.ones(count)
    step, spread, preference = np.zeros(count), np.ones(count), np.zeros(count, dtype=np.int64)
    if have:
        of_layout = [(layout.nodes, layout.preference) for layout in answers.layouts]
        nodes = np.where(on_cpu, 1.0, np.array([n for n, _ in of_layout], dtype=float)[picked])
        preference = np.where(on_cpu, 0, np.array([p for _, p in of_layout])[picked])
        step = np.where(on_cpu, 0.0, answers.step_s[picked])
        spread = np.where(on_cpu, 1.0, answers.spread[picked])
    fixed, save, recover, rate, start = _offer_columns(job, found)
    checks = job.spec.training.epochs * job.profile["validation"].rows / job.global_batch
    work = (job.train_steps + checks / 3.0) * step
    work = work + fixed[offer] + np.where(nodes > 1, RENDEZVOUS_S, 0.0)
    spread = 1.0 + (spread * job.profile["train"].spread - 1.0)
    if cpu:
        tail = slice(count - len(cpu), count)
        work[tail] = np.array([e.value for _, _, e in cpu]) + start[offer[tail]]
        spread[tail] = np.array([e.high / e.value for _, _, e in cpu])
    precision = np.full(count, -1, dtype=np.int64)
    if cpu:
        precision[count - len(cpu) :] = [number for _, number, _ in cpu]
    return Rows(
        offer=offer, layout=layout, nodes=nodes, work=work, spread=spread,
        rate=rate[offer] * nodes, save=save[offer], recover=recover[offer],
        preference=preference, cpu_precision=precision, bare=work - start[offer],
        factor=np.ones(count),
    )  # fmt: skip


def _learn(
    job: Job, found: list[Offer], answers: Timed, rows: Rows, calibration: Calibration
) -> None:
    """Move the times of rows that receipts speak of: node type and precision by node type and
    precision, since regions and capacity change nothing but the price."""
    model = model_name(job.spec.model_dump())
    of_layout = np.array([layout.precision for layout in answers.layouts] or [""])
    precision = np.where(
        rows.layout < 0,
        np.array(CPU_PRECISIONS)[np.maximum(rows.cpu_precision, 0)],
        of_layout[np.maximum(rows.layout, 0)],
    )
    gpus = {offer.instance.name: offer.instance.gpu or None for offer in found}
    for name, gpu in sorted(gpus.items()):
        of_type = np.empty(0)
        for one in PRECISIONS:
            work = Work(kind="train", device=name, precision=one, model=model, gpu=gpu)
            if not knows(calibration, work):
                continue
            if not len(of_type):
                of_type = np.array([offer.instance.name == name for offer in found])[rows.offer]
            mine = np.flatnonzero(of_type & (precision == one))
            mean, deviation = learnt_ratio(calibration, work, rows.bare[mine])
            rows.factor[mine] = np.exp(mean)
            rows.work[mine] += rows.bare[mine] * (rows.factor[mine] - 1.0)
            rows.spread[mine] = narrowed(calibration, work, deviation, rows.spread[mine])


def _offer_columns(job: Job, found: list[Offer]) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Seconds of start, staging and end; of a checkpoint; of recovery; interruption rate; and of
    the cold start alone, for each offer."""
    read, written = moved_bytes(job)
    columns = np.zeros((5, len(found)))
    for i, offer in enumerate(found):
        gpu = bool(offer.instance.gpu)
        start = POD_START_S + cold_start_seconds(
            offer.instance, ("train-gpu" if gpu else "train-cpu",)
        )
        machine = offer.machine
        load = STARTS["train"] * machine.import_seconds + (CUDA_START_S if gpu else 0.0)
        stage = (read + written) / machine.store_bytes_per_second
        # Checkpoints go to the store, where another node finds them.
        save = job.checkpoint_bytes / machine.store_bytes_per_second + 0.5
        rate = 0.0
        if offer.capacity == "spot":
            rate = float(rate_per_second(offer.instance.interruption_per_hour))
        columns[:, i] = (start + load + stage, save, start + load + 2 * save, rate, start)
    return columns[0], columns[1], columns[2], columns[3], columns[4]


def _price(job: Job, found: list[Offer], rows: Rows) -> None:
    """Fill interval, expected seconds, upper seconds and expected money."""
    price = np.array([offer.usd_per_hour for offer in found])[rows.offer] * rows.nodes
    fallback = np.array(
        [np.nan if o.on_demand_usd_per_hour is None else o.on_demand_usd_per_hour for o in found]
    )[rows.offer] * rows.nodes  # fmt: skip
    owned = np.array([offer.instance.owned for offer in found])[rows.offer]
    spot = rows.rate > 0
    rate = np.where(spot, rows.rate, 1e-12)
    best = checkpoint_interval(rows.save, rows.recover, rate)
    rows.interval = np.where(spot, best, CHECKPOINT_ON_DEMAND_S)
    work = with_checkpoints(rows.work, rows.save, rows.interval)
    can_fall = ~np.isnan(fallback)
    waits = spot & ~can_fall
    falls = spot & can_fall
    rows.seconds = np.where(
        falls, fallback_seconds(work, rows.recover, rows.interval, rate),
        np.where(waits, waiting_seconds(work, rows.save, rows.recover, rows.interval, rate), work),
    )  # fmt: skip
    hit = interrupted(work, rate)
    lost = lost_seconds(rows.recover, rows.interval, work)
    worst = np.where(falls, lost, lost + 2.0 * 1800.0)
    rows.high = work * rows.spread + np.where(spot & (hit > ACCEPTED_RISK), worst, 0.0)
    rows.high = np.maximum(rows.high, rows.seconds)
    least = np.where(owned, 1.0, billed_seconds(rows.seconds) / np.maximum(rows.seconds, 1e-9))
    plain = price * rows.seconds / 3600.0
    paid = price * daly_seconds(work, rows.save, rows.recover, rows.interval, rate) / 3600.0
    with_fall = fallback_usd(
        work, rows.recover, rows.interval, rate, spot=price,
        on_demand=np.where(can_fall, fallback, 0.0),
    )  # fmt: skip
    rows.usd = np.where(falls, with_fall, np.where(waits, paid, plain)) * least


def risk_of(seconds: float, high: float, deadline: float | None) -> float:
    """Probability that a log-normal time with this 90 % point exceeds the deadline."""
    if deadline is None:
        return 0.0
    if high <= seconds * (1 + 1e-9):
        return 0.0 if seconds <= deadline else 1.0
    sigma = math.log(high / seconds) / Z80
    return 0.5 * math.erfc(math.log(deadline / seconds) / sigma / math.sqrt(2.0))
