"""Rows of a catalogue: what can be bought or is owned, read and checked one by one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from components.contract import SpecError, content_hash
from pipelines.cost.hardware import find_gpu

INSTANCE_COLUMNS = (
    *("cloud", "region", "instance", "vcpus", "memory_mib", "cpu", "gpu", "gpu_count"),
    *("local_nvme_gib", "network_gbps", "alloc_cpu_m", "alloc_memory_mib", "alloc_ephemeral_mib"),
    *("on_demand_usd_h", "spot_usd_h", "interruption_pct_month", "date", "spot_date", "source"),
)
# Beyond this age a price is marked stale: list prices of the public tables moved within two
# quarters (AWS cut p4 and p5 by up to 45 % in June 2025).
STALE_AFTER_DAYS = 180
# The advisor's open class: geometric mean of its lower bound (22 % a month, 0.00034/h) and of the
# replayed V100 traces, a type of that class (0.43/h, benchmarks/replay_spot.py).
OPEN_CLASS_RATE = 0.012
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One machine type in one region at its list price.

    ``alloc_*`` is what the kubelet offers to pods; `cpu` names a row of cpus.csv;
    `interruption_per_hour` is the rate of spot interruptions (None: not published). Owned
    machines have cloud ``own``; their price is the owner's and may be None (unknown).
    """

    cloud: str
    region: str
    name: str
    vcpus: int
    memory_bytes: float
    cpu: str
    gpu: str
    gpu_count: int
    local_nvme_bytes: float
    network_bytes_per_second: float
    alloc_cpu_millicores: int
    alloc_memory_bytes: float
    alloc_ephemeral_bytes: float
    on_demand_usd_per_hour: float | None
    spot_usd_per_hour: float | None
    interruption_per_hour: float | None
    date: str
    source: str

    @property
    def owned(self) -> bool:
        return self.cloud == "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKind:
    """Speed of one vCPU of a CPU generation, all vCPUs busy; rates in FLOP/s and bytes/s."""

    kind: str
    gemm_flops: dict[str, float]
    bandwidth_bytes_per_second: float
    core_speed: float
    native_bf16: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageClass:
    """Prices of one storage class of one cloud."""

    cloud: str
    name: str
    usd_per_gb_month: float
    put_usd_per_1000: float
    get_usd_per_1000: float
    retrieval_usd_per_gb: float
    min_days: float
    min_object_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A discount (`percent` off) or a quota (`limit` machines at once) on matching instances.

    `cloud`, `region`, `instance` and `gpu` restrict it; empty matches all. `capacity` likewise.
    """

    cloud: str = ""
    region: str = ""
    instance: str = ""
    gpu: str = ""
    capacity: str = ""
    percent: float = 0.0
    limit: int | None = None

    def matches(self, instance: Instance, capacity: str = "") -> bool:
        pairs = (
            (self.cloud, instance.cloud),
            (self.region, instance.region),
            (self.instance, instance.name),
            (self.gpu, instance.gpu),
            (self.capacity, capacity or self.capacity),
        )
        return all(not wanted or wanted == have for wanted, have in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything a plan is made from; `hash` names the content."""

    instances: tuple[Instance, ...]
    storage: tuple[StorageClass, ...]
    network: dict[tuple[str, str], float]  # (cloud, scope) -> USD/GB
    places: dict[str, tuple[float, float]]  # region -> latitude, longitude
    cpus: dict[str, CpuKind]
    discounts: tuple[Rule, ...] = ()
    quotas: tuple[Rule, ...] = ()
    transfers: Mapping[str, float] = field(default_factory=dict)  # instance -> measured bytes/s
    hash: str = field(default="")

    @property
    def date(self) -> str:
        """The oldest price's date."""
        return min((i.date for i in self.instances if i.date), default="")

    def price(self, instance: Instance, capacity: str) -> float | None:
        """USD an hour after discounts; None where it is not sold that way or not known."""
        listed = (
            instance.spot_usd_per_hour if capacity == "spot" else instance.on_demand_usd_per_hour
        )
        if listed is None:
            return None
        for rule in self.discounts:
            if rule.matches(instance, capacity):
                listed *= 1.0 - rule.percent / 100.0
        return listed

    def quota(self, instance: Instance, capacity: str = "") -> float:
        """Most machines of this type at once; infinite without a rule."""
        limits = [
            r.limit for r in self.quotas if r.limit is not None and r.matches(instance, capacity)
        ]
        return float(min(limits)) if limits else math.inf

    def storage_class(self, cloud: str, name: str) -> StorageClass | None:
        return next((s for s in self.storage if (s.cloud, s.name) == (cloud, name)), None)

    def regions(self) -> set[str]:
        return {instance.region for instance in self.instances}


def catalog_hash(catalog: Catalog) -> str:
    """SHA-256 over every price and rule."""
    document = dataclasses.asdict(dataclasses.replace(catalog, hash=""))
    document["network"] = sorted([*key, value] for key, value in catalog.network.items())
    return content_hash(document)


def instance_from_row(row: Mapping[str, Any], *, where: str) -> Instance:
    """Read one instance row; `where` (file:line) starts every error.

    Raises:
        SpecError: a field is missing, not a number, out of range, or a GPU is unknown.
    """
    vcpus = _number(row, "vcpus", where, least=1)
    memory = _number(row, "memory_mib", where, least=256) * MIB
    gpu_count = int(_number(row, "gpu_count", where, default=0.0))
    gpu = str(row.get("gpu") or "")
    known = find_gpu(gpu) if gpu else None
    if (gpu and known is None) or bool(gpu) != bool(gpu_count):
        raise SpecError(
            f"{where}: gpu {gpu!r} with gpu_count {gpu_count}: "
            + ("unknown GPU" if gpu and known is None else "one without the other"),
            remedy="use a name from pipelines/cost/data/gpus.csv, or leave both empty",
        )
    price = _price(row, "on_demand_usd_h", where)
    spot = _price(row, "spot_usd_h", where)
    percent = _number(row, "interruption_pct_month", where, default=math.nan)
    if price is None and spot is None and str(row.get("cloud") or "own") != "own":
        raise SpecError(f"{where}: neither on_demand_usd_h nor spot_usd_h", remedy="give a price")
    return Instance(
        cloud=str(row.get("cloud") or "own"),
        region=str(row.get("region") or "on-premises"),
        name=_text(row, "instance", where),
        vcpus=int(vcpus),
        memory_bytes=memory,
        cpu=str(row.get("cpu") or "zen3"),
        gpu=known.name if known else "",
        gpu_count=gpu_count,
        local_nvme_bytes=_number(row, "local_nvme_gib", where, default=0.0) * GIB,
        network_bytes_per_second=_number(row, "network_gbps", where, default=10.0) * 1e9 / 8,
        alloc_cpu_millicores=int(
            _number(row, "alloc_cpu_m", where, default=max(100.0, vcpus * 1000 - 100 - vcpus * 10))
        ),
        alloc_memory_bytes=_number(row, "alloc_memory_mib", where, default=memory * 0.9 / MIB)
        * MIB,
        alloc_ephemeral_bytes=_number(row, "alloc_ephemeral_mib", where, default=17.0 * 1024) * MIB,
        on_demand_usd_per_hour=price,
        spot_usd_per_hour=spot,
        interruption_per_hour=_rate(percent, where),
        date=_day(row, where),
        source=str(row.get("source") or ""),
    )


def _rate(percent_per_month: float, where: str) -> float | None:
    """Interruptions an hour from the share of instances interrupted within a month (730 h):
    1 - exp(-730 rate) = share. The advisor's open class ">20%" is shipped as 100 %."""
    if math.isnan(percent_per_month):
        return None
    if percent_per_month > 100:
        raise SpecError(f"{where}: interruption_pct_month {percent_per_month:g} is above 100")
    if percent_per_month == 100:
        return OPEN_CLASS_RATE
    return -math.log(1.0 - percent_per_month / 100.0) / 730.0


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    text = str(row.get(key) or "").strip()
    if not text:
        raise SpecError(f"{where}: {key} is missing", remedy=f"give {key}")
    return text


def _number(
    row: Mapping[str, Any],
    key: str,
    where: str,
    *,
    default: float | None = None,
    least: float = 0.0,
) -> float:
    cell = row.get(key)
    if cell is None or cell == "":
        if default is None:
            raise SpecError(f"{where}: {key} is missing", remedy=f"give {key}")
        return default
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise SpecError(f"{where}: {key} {cell!r} is not a number") from None
    if not math.isfinite(value) or value < least:
        raise SpecError(f"{where}: {key} {cell!r} is not a number of at least {least:g}")
    return value


def _price(row: Mapping[str, Any], key: str, where: str) -> float | None:
    cell = row.get(key)
    if cell is None or cell == "":
        return None
    currency = str(row.get("currency") or "USD").upper()
    if currency != "USD" or (
        isinstance(cell, str) and not cell[:1].isdigit() and cell[:1] not in ".-"
    ):
        raise SpecError(
            f"{where}: {key} {cell!r} is in {currency if currency != 'USD' else 'no plain number'}",
            remedy="convert it to US dollars an hour and write a plain number",
        )
    value = _number(row, key, where)
    if value <= 0.0 or value > 10_000.0:
        raise SpecError(
            f"{where}: {key} {cell!r} is not a price between 0 and 10,000 USD an hour",
            remedy="leave it empty if it is not sold that way; own machines get their hourly cost",
        )
    return value


def _day(row: Mapping[str, Any], where: str) -> str:
    text = str(row.get("date") or "")
    if text:
        try:
            date.fromisoformat(text)
        except ValueError:
            raise SpecError(f"{where}: date {text!r} is not YYYY-MM-DD") from None
    return text
