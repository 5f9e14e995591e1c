"""Which storage class keeps each artifact, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.catalog import Catalog, StorageClass
from pipelines.cost.chain import dataset_bytes, weights_bytes
from pipelines.cost.job import Job

GB = 1e9
DAYS_PER_MONTH = 30.4
# Multipart uploads and ranged reads of 8 MiB parts.
PART_BYTES = 8 << 20
KEEP_CLASSES = ("standard", "infrequent", "glacier-ir", "archive")
TIER_OF_CLASS = {
    "local-nvme": "hot", "block": "hot", "standard": "warm", "infrequent": "warm",
    "glacier-ir": "cold", "archive": "cold",
}  # fmt: skip
# Archive classes take hours to restore: only for what a run never waits for.
RESTORE_HOURS = {"archive": 12.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An artifact that outlives its run: how often it is read and for how long it is kept."""

    name: str
    bytes: float
    files: float
    reads_per_month: float
    days: float
    instant: bool  # a reader waits for it


def kept_artifacts(job: Job) -> tuple[Kept, ...]:
    """Return what a run leaves behind.

    The published model is pulled at every scale-up and deployment; the dataset and the tuned model
    are read when the run is repeated (once a month at most) or audited; checkpoints go with the
    run and are not kept.
    """
    days = float(job.spec.storage.retention_days)
    smallest = min(job.model_bytes(variant) for variant in job.variants)
    return (
        Kept(name="published model", bytes=smallest, files=10, reads_per_month=30.0, days=days,
             instant=True),
        Kept(name="dataset", bytes=dataset_bytes(job), files=12, reads_per_month=1.0, days=days,
             instant=True),
        Kept(name="tuned model", bytes=weights_bytes(job), files=8, reads_per_month=0.1, days=days,
             instant=True),
        Kept(name="reports", bytes=2e6, files=30, reads_per_month=0.5, days=days, instant=True),
    )  # fmt: skip


def keeping_usd(kept: Kept, storage: StorageClass) -> float:
    """Money for an artifact's whole life in one class: capacity (with the class's least object
    size and least days), requests and retrieval."""
    billed = max(kept.bytes, kept.files * storage.min_object_bytes)
    days = max(kept.days, storage.min_days)
    capacity = billed / GB * storage.usd_per_gb_month * days / DAYS_PER_MONTH
    requests = kept.files + kept.bytes / PART_BYTES
    reads = kept.reads_per_month * kept.days / DAYS_PER_MONTH
    writing = requests / 1000.0 * storage.put_usd_per_1000
    reading = reads * (
        requests / 1000.0 * storage.get_usd_per_1000
        + kept.bytes / GB * storage.retrieval_usd_per_gb
    )
    return capacity + writing + reading


def choose_classes(
    job: Job, catalog: Catalog, cloud: str
) -> list[tuple[Kept, StorageClass, float]]:
    """Return the cheapest class of each artifact over its life, with the money of that life."""
    found = []
    for kept in kept_artifacts(job):
        options = [
            storage
            for name in KEEP_CLASSES
            if (storage := catalog.storage_class(cloud, name)) is not None
            and not (kept.instant and name in RESTORE_HOURS)
        ]
        if options:
            best = min(options, key=lambda storage: keeping_usd(kept, storage))
            found.append((kept, best, keeping_usd(kept, best)))
    return found


def storage_rows(job: Job, catalog: Catalog, cloud: str) -> tuple[dict[str, object], ...]:
    """Return the plan's storage table; on this machine every artifact stays in its folders."""
    if cloud in ("", "own"):
        return tuple(
            {
                "artifact": kept.name,
                "tier": "hot",
                "bytes": round(kept.bytes),
                "usd_per_month": None,
                "reason": "a folder of this machine; nothing is billed",
            }
            for kept in kept_artifacts(job)
        )
    rows = []
    for kept, storage, usd in choose_classes(job, catalog, cloud):
        standard = catalog.storage_class(cloud, "standard")
        other = keeping_usd(kept, standard) if standard else usd
        months = kept.days / DAYS_PER_MONTH
        reason = f"{storage.name}: {kept.reads_per_month:g} reads a month for {kept.days:g} days"
        if storage.name != "standard" and other > 0:
            reason += f", {100 * (1 - usd / other):.0f} % below standard"
        rows.append(
            {
                "artifact": kept.name,
                "tier": TIER_OF_CLASS[storage.name],
                "bytes": round(kept.bytes),
                "usd_per_month": usd / months,
                "reason": reason,
            }
        )
    return tuple(rows)
