"""`suanli tier`: where everything is, what it costs, what should move, what can go."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.lib.archive import needs_restore, restore_objects
from components.lib.buckets import blob_key
from components.lib.collect import (
    DAY_SECONDS,
    GRACE_SECONDS,
    Collected,
    collect,
    drop,
    named_artifacts,
)
from components.storage import TIERS, Store
from pipelines.cost.catalog import Catalog, StorageClass
from pipelines.cost.tiering import Usage, best_class, day_usd

DAYS_PER_MONTH = 30.4
# Storage class that a tier is billed as when its URI names none.
DEFAULT_CLASS = {"hot": "block", "warm": "standard", "cold": "glacier-ir"}
CLASS_OF_S3 = {
    "STANDARD": "standard",
    "STANDARD_IA": "infrequent",
    "GLACIER_IR": "glacier-ir",
    "DEEP_ARCHIVE": "archive",
}
CLOUD_OF_SCHEME = {"s3": "aws", "gs": "gcp", "az": "azure", "abfs": "azure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One artifact: where it is, who needs it, what it costs and where it should be.

    Money is None for tiers that are folders of this machine.
    """

    uri: str
    kind: str
    bytes: int
    files: int
    tiers: tuple[str, ...]
    named_by: str | None
    age_days: float
    idle_days: float
    reads: int
    usd_per_month: float | None
    best_tier: str
    best_usd_per_month: float | None


def status(store: Store, catalog: Catalog | None = None) -> list[Holding]:
    """Return every artifact on any tier, largest monthly saving first.

    Args:
        catalog: prices; without it money and best tier are not judged.
    """
    named, _ = named_artifacts(store)
    uses = use_records(store)
    ages: dict[str, dict[str, float]] = {}
    for tier, bucket in store.buckets.items():
        entries = list(bucket.list("manifests"))
        now = bucket.now() if entries else 0.0
        for entry in entries:
            digest = entry.key.removeprefix("manifests/").removesuffix(".json")
            days = max(0.0, now - entry.modified) / DAY_SECONDS
            ages.setdefault(digest, {})[tier] = days
    holdings = []
    for digest, held in ages.items():
        bodies = (store.buckets[tier].read(f"manifests/{digest}.json") for tier in held)
        body = next((body for body in bodies if body is not None), None)
        if body is None:
            continue  # removed meanwhile
        uri = f"artifact://{json.loads(body)['kind']}/{digest}"
        use = uses.get(uri, Use())
        moved = store.get_json(move_key(uri))
        if moved is not None:
            use = use.with_time(float(moved["created"])).with_time(float(moved["used"]))
        holdings.append(_holding(store, catalog, uri, held, named.get(digest), use))
    return sorted(holdings, key=lambda h: (-_saving(h), h.uri))


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How often an artifact was read, and when it was first and last made, read or moved (seconds
    since 1970; None when no record tells)."""

    reads: int = 0
    first: float | None = None
    last: float | None = None

    def with_time(self, when: float, *, reads: int = 0) -> Use:
        return Use(
            reads=self.reads + reads,
            first=when if self.first is None else min(self.first, when),
            last=when if self.last is None else max(self.last, when),
        )


def use_records(store: Store) -> dict[str, Use]:
    """Read from the step reports of all runs what made and what read each artifact.

    The times of manifests do not tell: moving an artifact renews them.
    """
    uses: dict[str, Use] = {}
    for key in store.list_json("runs"):
        if "/steps/" not in key:
            continue
        report = store.get_json(key) or {}
        if report.get("cached") or not report.get("started_at"):
            continue
        when = datetime.fromisoformat(report["started_at"]).timestamp()
        for uri in report.get("metrics", {}).get("artifacts_read", []):
            uses[uri] = uses.get(uri, Use()).with_time(when, reads=1)
        made = report.get("output", "")
        uses[made] = uses.get(made, Use()).with_time(when)
    return uses


def move_key(uri: str) -> str:
    """Return where it is noted since when a moved artifact has existed and was last used."""
    return f"tiers/{uri.rsplit('/', 1)[1]}.json"


def sweep(
    store: Store, catalog: Catalog, *, dry_run: bool = True, idle_days: float = 1.0
) -> list[tuple[Holding, str]]:
    """Move every artifact to the tier that costs least; return what moved and what was done.

    An artifact used in the last `idle_days` stays on the hot tier as well. A move copies, reads
    every byte back, and only then removes the old copy: a crash leaves both. What cannot be moved
    stays, with the reason, and the sweep goes on.
    """
    moves = []
    for holding in status(store, catalog):
        keep = {holding.best_tier}
        if holding.idle_days < idle_days and "hot" in holding.tiers:
            keep.add("hot")
        add, remove = keep - set(holding.tiers), set(holding.tiers) - keep
        if not add and not remove:
            continue
        moves.append((holding, _words(add, remove)))
        if dry_run:
            continue
        try:
            _move(store, holding, add, remove)
        except DataError as error:  # somebody uses it, or what is there is not whole
            moves[-1] = (holding, f"not moved: {error.message}")
    return moves


def _move(store: Store, holding: Holding, add: set[str], remove: set[str]) -> None:
    now = time.time()
    store.put_json(
        move_key(holding.uri),
        {
            "created": now - holding.age_days * DAY_SECONDS,
            "used": now - holding.idle_days * DAY_SECONDS,
        },
    )
    for tier in sorted(add):
        store.copy_to_tier(holding.uri, tier)
        store.verify(holding.uri, tier)
    for tier in sorted(remove):
        drop(store, holding.uri, tier)


def restore(
    store: Store,
    uri: str,
    *,
    tier: str = "hot",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    poll_seconds: float = 60.0,
    timeout_seconds: float = 48 * 3600.0,
) -> None:
    """Make the artifact readable on `tier`, waiting for archive classes if that is where it is.

    Raises:
        DataError: no tier holds it.
        StepError: an archive does not give it back in time.
    """
    sources = [name for name in store.tiers_of(uri) if name != tier]
    source = next(iter(sources), None)
    if source is not None and needs_restore(getattr(store.tiers, source)):
        keys = [blob_key(entry["sha256"]) for entry in store.manifest(uri)["files"]]
        restore_objects(
            getattr(store.tiers, source),
            sorted(set(keys)),
            poll_seconds=poll_seconds,
            timeout_seconds=timeout_seconds,
            on_progress=on_progress,
        )
    store.copy_to_tier(uri, tier)


def tuned_model(store: Store, run_id: str) -> str:
    """Return the URI of the model that a run trained.

    Raises:
        DataError: the run is not in this store, or its training has not finished.
    """
    report = store.get_json(f"runs/{run_id}/steps/train.json")
    if report is None:
        raise DataError(
            f"run {run_id}: no finished training in this store",
            remedy="give a folder <workdir>/<name>/<run-id> whose store is <workdir>/store",
        )
    return str(report["output"])


def copy_out(store: Store, uri: str, folder: Path) -> None:
    """Copy an artifact's files into `folder`, to be changed at will (the store's are linked).

    Raises:
        DataError: the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty", remedy="give --to a new folder")
    with tempfile.TemporaryDirectory() as aside:
        fetched = store.fetch(uri, Path(aside) / "artifact")
        shutil.copytree(fetched, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def gc(
    store: Store,
    *,
    dry_run: bool = True,
    grace_seconds: float = GRACE_SECONDS,
    retention_days: float | None = 365.0,
) -> Collected:
    """Remove what no published model, run or marker names; see `components.lib.collect`."""
    return collect(
        store, dry_run=dry_run, grace_seconds=grace_seconds, retention_days=retention_days
    )


def lifecycle_rules(provider: str, *, retention_days: int, cold_after_days: int = 30) -> Any:
    """Return lifecycle rules for the warm bucket, as ``s3`` or ``gcs`` JSON.

    Blobs get colder with age and broken multipart uploads go; nothing expires by rule, because
    only the collection knows what is still named. Run records expire after the retention.
    """
    if provider == "gcs":
        return {
            "rule": [
                {
                    "action": {"type": "SetStorageClass", "storageClass": "COLDLINE"},
                    "condition": {"age": cold_after_days, "matchesPrefix": ["blobs/"]},
                },
                {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}},
                {
                    "action": {"type": "Delete"},
                    "condition": {"age": retention_days, "matchesPrefix": ["runs/"]},
                },
            ]
        }
    if provider != "s3":
        raise ValueError(f"lifecycle rules are known for s3 and gcs, not {provider!r}")
    return {
        "Rules": [
            {
                "ID": "suanli-cool-blobs",
                "Status": "Enabled",
                # Objects below 128 KiB cost more in the colder class than they save.
                "Filter": {"And": {"Prefix": "blobs/", "ObjectSizeGreaterThan": 131_072}},
                "Transitions": [{"Days": cold_after_days, "StorageClass": "GLACIER_IR"}],
            },
            {
                "ID": "suanli-abort-uploads",
                "Status": "Enabled",
                "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            },
            {
                "ID": "suanli-expire-runs",
                "Status": "Enabled",
                "Filter": {"Prefix": "runs/"},
                "Expiration": {"Days": retention_days},
            },
        ]
    }


def _holding(
    store: Store,
    catalog: Catalog | None,
    uri: str,
    held: dict[str, float],
    named_by: str | None,
    use: Use,
) -> Holding:
    """Judge one artifact; `held` maps each tier that has it to the days since it came there."""
    files = store.manifest(uri)["files"]
    size = sum(int(entry["bytes"]) for entry in files)
    now = time.time()
    age, idle = max(held.values()), min(held.values())
    if use.first is not None and use.last is not None:
        age, idle = (now - use.first) / DAY_SECONDS, (now - use.last) / DAY_SECONDS
    usage = Usage(
        bytes=size,
        files=len(files),
        age_days=max(age, 1.0),
        idle_days=max(idle, 0.0),
        reads=use.reads,
        published=(named_by or "").startswith("published/"),
    )
    classes = {t: tier_class(store, catalog, t) for t in TIERS} if catalog else {}
    priced = {t: c for t, c in classes.items() if c is not None}
    billed = [tier for tier in held if tier in priced]
    best = next(iter(held))
    if priced:
        here = min(billed, key=lambda t: day_usd(usage, priced[t]), default=None)
        stay = held[here] if here else 0.0
        best = best_class(usage, priced, here=here, days_here=stay)
    return Holding(
        uri=uri,
        kind=uri.split("/")[2],
        bytes=size,
        files=len(files),
        tiers=tuple(held),
        named_by=named_by,
        age_days=age,
        idle_days=idle,
        reads=use.reads,
        usd_per_month=sum(_monthly(usage, priced[t]) for t in billed) if billed else None,
        best_tier=best,
        best_usd_per_month=_monthly(usage, priced[best]) if best in priced else None,
    )


def tier_class(store: Store, catalog: Catalog, tier: str) -> StorageClass | None:
    """Return the prices of a tier by its URI; a folder of this machine has none."""
    uri = getattr(store.tiers, tier)
    scheme = uri.partition("://")[0]
    if scheme not in CLOUD_OF_SCHEME:
        return None
    option = uri.partition("storage_class=")[2].partition("&")[0]
    name = CLASS_OF_S3.get(option, DEFAULT_CLASS[tier] if tier != "hot" else "standard")
    return catalog.storage_class(CLOUD_OF_SCHEME[scheme], name)


def _monthly(usage: Usage, prices: StorageClass) -> float:
    return day_usd(usage, prices) * DAYS_PER_MONTH


def _saving(holding: Holding) -> float:
    if holding.usd_per_month is None or holding.best_usd_per_month is None:
        return 0.0
    return holding.usd_per_month - holding.best_usd_per_month


def _words(add: set[str], remove: set[str]) -> str:
    parts = [f"copy to {tier}" for tier in sorted(add)]
    parts += [f"remove from {tier}" for tier in sorted(remove)]
    return ", ".join(parts)
