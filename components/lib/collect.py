"""Garbage collection and cache eviction on one store; used by hand (`suanli tier`) and by tests.

An artifact lives as long as something names it: a published model, or a run or step marker younger
than the retention. What nothing names is removed manifest first, so nobody ever sees an artifact
without its files; then the blobs that no manifest names. Anything younger than the grace period is
left alone, because a writer stores blobs before the manifest that names them.

No locks: whoever counts on a manifest or blob that nothing may name at this moment renews it, and
every removal spares what was renewed after the removal's own view of the world began.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import time
from dataclasses import dataclass, field
from typing import Any

from components.contract import DataError
from components.lib.buckets import LOOK_SECONDS, LOOKS, Bucket, blob_key, look, manifest_key
from components.lib.folders import LocalBucket
from components.lib.manifests import check_manifest, read_manifest
from components.storage import Store

ARTIFACT = re.compile(rb"artifact://[A-Za-z0-9_.-]+/([0-9a-f]{64})")
GRACE_SECONDS = 24 * 3600.0
DAY_SECONDS = 24 * 3600.0
DROP_ATTEMPTS = 4


@dataclass(slots=True, kw_only=True)
class Collected:
    """What a collection removed, or with `dry_run` would remove, by tier."""

    dry_run: bool
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    blobs: dict[str, list[str]] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    bytes: int = 0
    kept_artifacts: int = 0


def named_artifacts(
    store: Store, *, oldest: float | None = None
) -> tuple[dict[str, str], list[str]]:
    """Return digest to the document that keeps it, and the runs and markers older than `oldest`.

    Everything under ``published/`` keeps what it names for ever: versions are rolled back to.
    """
    hot = store.buckets["hot"]
    named: dict[str, str] = {}
    expired = []
    for prefix in ("published", "runs", "markers"):
        for entry in hot.list(prefix):
            if not entry.key.endswith(".json"):
                continue
            if prefix != "published" and oldest is not None and entry.modified < oldest:
                expired.append(entry.key)
                continue
            _note_names(hot, entry.key, named)
    return named, expired


def _note_names(hot: Bucket, key: str, named: dict[str, str]) -> None:
    for digest in ARTIFACT.findall(look(hot, key, lambda: hot.read(key)) or b""):
        named.setdefault(digest.decode(), key)


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
    hot = store.buckets["hot"]
    for bucket in store.buckets.values():
        bucket.recover("")
    # Before anything is looked at: what is published while this looks is younger than this.
    cutoffs = {tier: bucket.now() - grace_seconds for tier, bucket in store.buckets.items()}
    oldest = None if retention_days is None else hot.now() - retention_days * DAY_SECONDS
    named, result.documents = named_artifacts(store, oldest=oldest)
    manifests = {tier: _manifests(bucket, tier) for tier, bucket in store.buckets.items()}
    if not dry_run:
        # Markers before the artifacts they promise.
        for key in sorted(result.documents):
            if not hot.delete(key, unless_newer_than=oldest):
                _note_names(hot, key, named)  # written again meanwhile
    for tier, bucket in store.buckets.items():
        _collect_tier(bucket, tier, manifests[tier], set(named), cutoffs[tier], result)
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
    cutoff: float,
    result: Collected,
) -> None:
    dead = [d for d, (_, modified) in manifests.items() if d not in named and modified < cutoff]
    removed = set()
    for digest in dead:
        kind = manifests[digest][0].get("kind", "")
        if result.dry_run or bucket.delete(manifest_key(digest), unless_newer_than=cutoff):
            removed.add(digest)
            result.artifacts.setdefault(tier, []).append(f"artifact://{kind}/{digest}")
    result.kept_artifacts += len(manifests) - len(removed)
    if result.dry_run:
        kept = [manifest for digest, (manifest, _) in manifests.items() if digest not in removed]
        live: set[str] | None = {entry["sha256"] for found in kept for entry in found["files"]}
    else:
        # Read again: an artifact published since the first look keeps its blobs.
        live = _live_blobs(bucket, tier)
    if live is None:
        return
    for entry in list(bucket.list("blobs")):
        digest = entry.key.rsplit("/", 1)[-1]
        if digest in live or entry.modified >= cutoff:
            continue
        if result.dry_run or bucket.delete(entry.key, unless_newer_than=cutoff):
            result.blobs.setdefault(tier, []).append(digest)
            result.bytes += entry.bytes
    if not result.dry_run:
        _remove_leftovers(bucket, cutoff)


def _live_blobs(bucket: Bucket, tier: str) -> set[str] | None:
    """Return the blobs that manifests of this tier name; None when that is not certain, because
    another process is removing a manifest and may give it back."""
    live = {e["sha256"] for found, _ in _manifests(bucket, tier).values() for e in found["files"]}
    for _ in range(LOOKS):
        if not bucket.recover("manifests"):
            return live
        time.sleep(LOOK_SECONDS)
    return None


def _remove_leftovers(bucket: Bucket, cutoff: float) -> None:
    """Remove what killed processes left on a local tier before that time."""
    if not isinstance(bucket, LocalBucket):
        return  # a lifecycle rule ends broken multipart uploads
    bucket.remove_partials(older_than=cutoff)
    for path in bucket.path("scratch").glob("suanli-*"):
        if path.is_dir() and path.stat().st_mtime < cutoff:
            shutil.rmtree(path, ignore_errors=True)


def drop(store: Store, uri: str, tier: str) -> int:
    """Remove an artifact from `tier` and return the bytes freed; its blobs stay while another
    artifact on the tier names them.

    Two processes may drop two copies of one artifact at once, each counting on the other's. Each
    renews the manifest it counts on, then removes its own unless somebody renewed that meanwhile:
    so at most one of them removes anything, whatever the order, and a kill leaves nothing locked.

    Raises:
        DataError: no other tier holds all of it, verified; or another process counts on this copy.
    """
    bucket, key = store.buckets[tier], manifest_key(uri.rsplit("/", 1)[1])
    files = store.manifest(uri)["files"]
    other = _whole_elsewhere(store, uri, tier)
    for attempt in range(DROP_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(1, 3) * bucket.resolution_seconds)
        begun = bucket.now()
        if other is None or not store.renew(uri, other):
            raise DataError(
                f"{uri}: only the {tier} tier holds it whole",
                remedy="copy it to another tier first",
            )
        if bucket.delete(key, unless_newer_than=begun - bucket.resolution_seconds):
            break
    else:
        if bucket.entry(key) is None:
            return 0
        raise DataError(
            f"{uri}: the copy on the {tier} tier is being used or moved by another process",
            remedy="try again later",
        )
    return _drop_blobs(bucket, tier, files)


def _whole_elsewhere(store: Store, uri: str, tier: str) -> str | None:
    """Return another tier that holds every byte of the artifact."""
    for name in store.tiers_of(uri):
        if name != tier:
            try:
                store.verify(uri, name)
                return name
            except DataError:
                continue
    return None


def _drop_blobs(bucket: Bucket, tier: str, files: list[dict[str, Any]]) -> int:
    """Remove those blobs that no manifest names and nobody counts on; return the bytes freed."""
    recent = bucket.now() - bucket.counted_on_seconds
    live = _live_blobs(bucket, tier)
    if live is None:
        return 0  # the next collection takes them
    freed = 0
    for entry in {e["sha256"]: e for e in files}.values():
        if entry["sha256"] not in live and bucket.delete(
            blob_key(entry["sha256"]), unless_newer_than=recent
        ):
            freed += int(entry["bytes"])
    return freed


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
            with contextlib.suppress(DataError):  # in use, or whole only here
                total -= drop(store, uri, "hot")
                dropped.append(uri)
    return dropped
