"""Garbage collection and cache eviction on one store; used by hand (`suanli tier`) and by tests.

An artifact lives as long as something names it: a published model, or a run or step marker younger
than the retention. What nothing names is removed manifest first, so nobody ever sees an artifact
without its files; then the blobs that no manifest names. Anything younger than the grace period is
left alone, because a writer stores blobs before the manifest that names them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from components.contract import DataError
from components.lib.buckets import Bucket, LocalBucket, blob_key, manifest_key
from components.lib.objects import ObjectBucket
from components.storage import FRESH_SECONDS, Store, check_manifest, read_manifest

ARTIFACT = re.compile(rb"artifact://[A-Za-z0-9_.-]+/([0-9a-f]{64})")
GRACE_SECONDS = 24 * 3600.0
DAY_SECONDS = 24 * 3600.0


@dataclass(slots=True, kw_only=True)
class Collected:
    """What a collection removed, or with `dry_run` would remove, by tier."""

    dry_run: bool
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    blobs: dict[str, list[str]] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    bytes: int = 0
    kept_artifacts: int = 0


def tier_time(bucket: Bucket) -> float:
    """Return the time by the clock that stamps this tier's objects."""
    return bucket.server_time() if isinstance(bucket, ObjectBucket) else bucket.now()


def named_artifacts(
    store: Store, *, retention_days: float | None
) -> tuple[dict[str, str], list[str]]:
    """Return digest to the document that keeps it, and the documents past retention.

    Everything under ``published/`` keeps what it names for ever: versions are rolled back to.
    """
    hot = store.buckets["hot"]
    oldest = None if retention_days is None else tier_time(hot) - retention_days * DAY_SECONDS
    named: dict[str, str] = {}
    expired = []
    for prefix in ("published", "runs", "markers"):
        for entry in hot.list(prefix):
            if not entry.key.endswith(".json"):
                continue
            if prefix != "published" and oldest is not None and entry.modified < oldest:
                expired.append(entry.key)
                continue
            for digest in ARTIFACT.findall(hot.read(entry.key) or b""):
                named.setdefault(digest.decode(), entry.key)
    return named, expired


def collect(
    store: Store,
    *,
    dry_run: bool = True,
    grace_seconds: float = GRACE_SECONDS,
    retention_days: float | None = 365.0,
) -> Collected:
    """Remove from every tier what nothing names.

    Raises:
        DataError: a manifest cannot be read: what it names is then unknown, so nothing is removed.
    """
    if not dry_run and grace_seconds < 1.0:
        raise DataError("a grace below one second would remove what is being written")
    result = Collected(dry_run=dry_run)
    for bucket in store.buckets.values():
        if isinstance(bucket, LocalBucket):
            bucket.recover()
    named, result.documents = named_artifacts(store, retention_days=retention_days)
    manifests = {tier: _manifests(bucket, tier) for tier, bucket in store.buckets.items()}
    if not dry_run:
        # Markers before the artifacts they promise.
        for key in sorted(result.documents):
            store.buckets["hot"].delete(key)
    for tier, bucket in store.buckets.items():
        _collect_tier(bucket, tier, manifests[tier], set(named), grace_seconds, result)
    if not dry_run:
        _forget_moves(store, result)
    return result


def _forget_moves(store: Store, result: Collected) -> None:
    """Remove what `suanli tier sweep` noted about artifacts that are gone."""
    for uri in {uri for uris in result.artifacts.values() for uri in uris}:
        if not store.tiers_of(uri):
            store.buckets["hot"].delete(f"tiers/{uri.rsplit('/', 1)[1]}.json")


def _manifests(bucket: Bucket, tier: str) -> dict[str, tuple[dict[str, Any], float]]:
    """Return digest to manifest and time of every artifact on a tier."""
    found = {}
    for entry in bucket.list("manifests"):
        digest = entry.key.removeprefix("manifests/").removesuffix(".json")
        try:
            body = read_manifest(bucket, digest)
        except DataError as error:
            raise DataError(
                f"{tier} tier: {error.message}: nothing is collected",
                remedy="restore it from another tier or delete it",
            ) from error
        if body is None:
            continue  # removed meanwhile
        found[digest] = check_manifest(json.loads(body), entry.key), entry.modified
    return found


def _collect_tier(
    bucket: Bucket,
    tier: str,
    manifests: dict[str, tuple[dict[str, Any], float]],
    named: set[str],
    grace_seconds: float,
    result: Collected,
) -> None:
    cutoff = tier_time(bucket) - grace_seconds
    dead = [d for d, (_, modified) in manifests.items() if d not in named and modified < cutoff]
    removed = set()
    for digest in dead:
        kind = manifests[digest][0].get("kind", "")
        if result.dry_run or bucket.delete(manifest_key(digest), unless_newer_than=cutoff):
            removed.add(digest)
            result.artifacts.setdefault(tier, []).append(f"artifact://{kind}/{digest}")
    result.kept_artifacts += len(manifests) - len(removed)
    # Read again: an artifact published since the first look keeps its blobs.
    now = manifests if result.dry_run else _manifests(bucket, tier)
    live = {
        entry["sha256"]
        for digest, (manifest, _) in now.items()
        if digest not in removed or (not result.dry_run and digest in now)
        for entry in manifest["files"]
    }
    for entry in list(bucket.list("blobs")):
        digest = entry.key.rsplit("/", 1)[-1]
        if digest in live or entry.modified >= cutoff:
            continue
        if result.dry_run or bucket.delete(entry.key, unless_newer_than=cutoff):
            result.blobs.setdefault(tier, []).append(digest)
            result.bytes += entry.bytes
    if not result.dry_run:
        _remove_leftovers(bucket, cutoff)


def _remove_leftovers(bucket: Bucket, cutoff: float) -> None:
    if isinstance(bucket, LocalBucket):
        bucket.remove_partials(older_than=cutoff)
        return
    for entry in list(bucket.list("renewed")):
        if entry.modified < cutoff:
            bucket.delete(entry.key)


def drop(store: Store, uri: str, tier: str) -> int:
    """Remove an artifact from `tier` and return the bytes freed; its blobs stay while another
    artifact on the tier names them.

    Raises:
        DataError: no other tier holds all of it, verified.
    """
    others = [name for name in store.tiers_of(uri) if name != tier]
    for name in others:
        try:
            store.verify(uri, name)
            break
        except DataError:
            continue
    else:
        raise DataError(
            f"{uri}: only the {tier} tier holds it whole", remedy="copy it to another tier first"
        )
    bucket = store.buckets[tier]
    files = store.manifest(uri)["files"]
    bucket.delete(manifest_key(uri.rsplit("/", 1)[1]))
    live = {e["sha256"] for m, _ in _manifests(bucket, tier).values() for e in m["files"]}
    freed = 0
    for entry in {e["sha256"]: e for e in files}.values():
        # A writer at this moment renews the blobs it counts on; those stay.
        recent = tier_time(bucket) - _moments(bucket)
        if entry["sha256"] not in live and bucket.delete(
            blob_key(entry["sha256"]), unless_newer_than=recent
        ):
            freed += int(entry["bytes"])
    return freed


def _moments(bucket: Bucket) -> float:
    """How recently a writer may have counted on a blob."""
    return 60.0 if bucket.root is not None else 2 * FRESH_SECONDS


def evict(store: Store, *, limit_bytes: int) -> list[str]:
    """Keep the hot tier below `limit_bytes`: drop the artifacts used longest ago that another tier
    holds too, and return them."""
    hot = store.buckets["hot"]
    held = _manifests(hot, "hot")
    total = sum(entry.bytes for entry in hot.list("blobs"))
    dropped = []
    for digest, (manifest, _) in sorted(held.items(), key=lambda item: item[1][1]):
        if total <= limit_bytes:
            break
        uri = f"artifact://{manifest['kind']}/{digest}"
        if len(store.tiers_of(uri)) > 1:
            total -= drop(store, uri, "hot")
            dropped.append(uri)
    return dropped
