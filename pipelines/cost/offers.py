"""Nodes that may be used: allowed, priced, with the fixed costs of getting them."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import Catalog, Instance
from pipelines.cost.chain import StepCost, dataset_bytes, step_cost, weights_bytes
from pipelines.cost.estimate import Estimate
from pipelines.cost.job import Job
from pipelines.cost.learnt import Work, adjusted, model_name
from pipelines.cost.machine import Machine, machine_of
from pipelines.cost.money import POD_START_S, cold_start_seconds, node_usd, transfer_usd
from pipelines.cost.regions import allowed, data_place
from pipelines.cost.requests import disk_request, memory_request, offered_disk, offered_memory
from pipelines.cost.serving import serves
from pipelines.cost.way import VARIANT_KINDS

# A node without work is given back after a few minutes by every autoscaler: steps after a longer
# training find a fresh node.
IDLE_RELEASE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An instance at a price an hour (0 where an owned machine's cost is not stated)."""

    instance: Instance
    machine: Machine
    capacity: str
    usd_per_hour: float
    on_demand_usd_per_hour: float | None  # what a fallback costs
    place: tuple[str, str]  # (cloud, region)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightPlan:
    """All steps but training on their nodes, in one region: sums of what they cost."""

    light: Offer
    serving: Offer
    seconds: Estimate
    usd: float


def offers(job: Job, catalog: Catalog) -> tuple[list[Offer], dict[str, int]]:
    """Return what may be bought, and how many instances each constraint forbids."""
    found: list[Offer] = []
    forbidden: dict[str, int] = {}
    for instance in catalog.instances:
        why = allowed(job.spec, catalog, instance)
        # A GPU or instance named under objective.hardware is for training; the cheap steps of the
        # same cloud still need CPU nodes.
        if why == "objective.hardware" and not instance.gpu and _same_cloud(job, catalog, instance):
            why = ""
        if why:
            forbidden[why] = forbidden.get(why, 0) + 1
            continue
        if catalog.quota(instance) < 1:
            forbidden["quota"] = forbidden.get("quota", 0) + 1
            continue
        found += _capacities(job, catalog, instance)
    return found, forbidden


def _capacities(job: Job, catalog: Catalog, instance: Instance) -> list[Offer]:
    machine = machine_of(instance, catalog)
    on_demand = catalog.price(instance, "on-demand")
    made = []
    for capacity in dict.fromkeys(job.spec.objective.capacity):
        price = catalog.price(instance, capacity)
        if instance.owned:
            if capacity != job.spec.objective.capacity[0]:
                continue
            price, capacity = on_demand or 0.0, "on-demand"
        if price is None:
            continue
        made.append(
            Offer(
                instance=instance, machine=machine, capacity=capacity, usd_per_hour=price,
                on_demand_usd_per_hour=on_demand
                if "on-demand" in job.spec.objective.capacity or instance.owned
                else None,
                place=(instance.cloud, instance.region),
            )
        )  # fmt: skip
    return made


def _same_cloud(job: Job, catalog: Catalog, instance: Instance) -> bool:
    wanted = job.spec.objective.hardware
    names = [wanted] if isinstance(wanted, str) else wanted
    named = [i for i in catalog.instances if i.name in names or i.gpu in names]
    if any(not i.gpu for i in named):
        return False  # a CPU instance is named: then only that
    return allowed_but_hardware(job, catalog, instance)


def allowed_but_hardware(job: Job, catalog: Catalog, instance: Instance) -> bool:
    """Whether only objective.hardware forbids the instance."""
    return allowed(job.spec, catalog, instance) in ("", "objective.hardware")


def trains_here(job: Job, catalog: Catalog, offer: Offer) -> bool:
    """Whether training may use the offer (it is named by objective.hardware, or anything goes)."""
    return not allowed(job.spec, catalog, offer.instance)


LIGHT_KINDS = ("ingest", "decide", "place", "publish", "report")
IMAGES_LIGHT = ("data", "train-cpu", "infer")


def light_steps(job: Job) -> list[tuple[str, str, bool]]:
    """Return (kind, variant, on the serving node) of every step but training."""
    on_serving = job.target == "gpu"
    steps = [("ingest", "fp32", False), ("decide", "fp32", False), ("place", "fp32", False)]
    for variant in job.variants:
        steps += [("compress", variant, False), ("export", variant, False)]
        steps += [("evaluate", variant, on_serving)]
    steps += [("select", "fp32", on_serving), ("publish", "fp32", False), ("report", "fp32", False)]
    return steps


StepCosts = dict[tuple[str, str], StepCost]


class Costs:
    """Costs of the cheap steps by machine; the same type in another region costs the same time."""

    def __init__(self, job: Job, calibration: Calibration | None = None) -> None:
        self._job = job
        self._calibration = calibration
        self._model = model_name(job.spec.model_dump())
        self._kinds = sorted({(kind, variant) for kind, variant, _ in light_steps(job)})
        self._known: dict[tuple[object, ...], StepCosts] = {}

    def on(self, offer: Offer) -> StepCosts:
        machine, cpu = offer.machine, offer.instance.cpu
        key: tuple[object, ...] = (
            cpu, machine.cores, machine.disk_bytes_per_second, machine.store_bytes_per_second,
        )  # fmt: skip
        if self._calibration is not None:
            key = (*key, machine.name)
        if key not in self._known:
            self._known[key] = {name: self._cost(offer, *name) for name in self._kinds}
        return self._known[key]

    def _cost(self, offer: Offer, kind: str, variant: str) -> StepCost:
        """Return the step's cost, with what receipts taught of it."""
        found = step_cost(self._job, offer.machine, kind, variant)
        work = Work(
            kind=kind, device=offer.instance.name, gpu=offer.instance.gpu or None,
            precision=variant if kind in VARIANT_KINDS else "any", model=self._model,
        )  # fmt: skip
        return adjusted(found, self._calibration, work)[0]


def fits_on(offer: Offer, costs: StepCosts) -> bool:
    """Whether each of the steps' requests fits into what the node's kubelet offers."""
    for found in costs.values():
        if memory_request(found.memory_bytes, 0) > offered_memory(offer.instance):
            return False
        if disk_request(found) > offered_disk(offer.instance):
            return False
    return offer.instance.alloc_cpu_millicores >= 1000


def light_plans(
    job: Job, catalog: Catalog, found: list[Offer], calibration: Calibration | None = None
) -> dict[tuple[str, str], list[LightPlan]]:
    """Return, for each place, the CPU nodes worth taking for the cheap steps: none is both slower
    and dearer than another. Cheap steps run on demand when that is allowed: a pod that is deleted
    by preemption is not retried by KFP, and the saving is cents."""
    steady = "on-demand" if "on-demand" in job.spec.objective.capacity else "spot"
    costs = Costs(job, calibration)
    by_place: dict[tuple[str, str], list[LightPlan]] = {}
    serving = _cheapest_serving(job, found)
    for offer in found:
        if offer.instance.gpu or (offer.capacity != steady and not offer.instance.owned):
            continue
        if not fits_on(offer, costs.on(offer)):
            continue
        server = serving.get(offer.place) if job.target == "gpu" else offer
        if server is None:
            continue
        by_place.setdefault(offer.place, []).append(_light_plan(job, catalog, offer, server, costs))
    return {place: _front(plans) for place, plans in by_place.items()}


def _cheapest_serving(job: Job, found: list[Offer]) -> dict[tuple[str, str], Offer]:
    """The cheapest GPU node of each place that the serving target means."""
    best: dict[tuple[str, str], Offer] = {}
    for offer in found:
        if not offer.instance.gpu or not serves(job, offer.instance):
            continue
        have = best.get(offer.place)
        if have is None or offer.usd_per_hour < have.usd_per_hour:
            best[offer.place] = offer
    return best


def _light_plan(
    job: Job, catalog: Catalog, light: Offer, serving: Offer, costs: Costs
) -> LightPlan:
    """Sum the steps, one node start before training and one after it, and the data's way in."""
    parts: list[Estimate] = []
    on_light, on_serving = 0.0, 0.0
    for kind, variant, elsewhere in light_steps(job):
        seconds = costs.on(serving if elsewhere else light)[kind, variant].seconds
        parts.append(seconds)
        spent = seconds.value + POD_START_S
        if elsewhere:
            on_serving += spent
        else:
            on_light += spent
    start = cold_start_seconds(light.instance, IMAGES_LIGHT)
    usd = float(node_usd(light.usd_per_hour, on_light + 2 * start, light.instance))
    waits = len(parts) * POD_START_S + 2 * start
    if on_serving:
        first = cold_start_seconds(serving.instance, ("infer-gpu",))
        usd += float(node_usd(serving.usd_per_hour, on_serving + first, serving.instance))
        waits += first
    usd += transfer_usd(
        catalog,
        sum(float(split.bytes) for split in job.profile.values()),
        source=_home(job),
        target=light.place,
    )
    total = Estimate.sum(parts)
    return LightPlan(
        light=light, serving=serving, usd=usd,
        seconds=Estimate(
            value=total.value + waits, low=total.low + 0.7 * waits, high=total.high + 1.4 * waits
        ),
    )  # fmt: skip


def _home(job: Job) -> tuple[str, str]:
    return data_place(job.spec)


def _front(plans: list[LightPlan]) -> list[LightPlan]:
    plans = sorted(plans, key=lambda p: (p.usd, p.seconds.high, p.light.instance.name))
    kept: list[LightPlan] = []
    for plan in plans:
        if all(
            plan.seconds.high < k.seconds.high or plan.seconds.value < k.seconds.value for k in kept
        ):
            kept.append(plan)
    return kept


def moved_bytes(job: Job) -> tuple[float, float]:
    """Return bytes that the train step reads and writes."""
    return weights_bytes(job) + dataset_bytes(job), weights_bytes(job)
