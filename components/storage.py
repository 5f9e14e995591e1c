"""Content-addressed artifacts on hot, warm and cold tiers.

An artifact is a folder. Its files are stored as blobs named by SHA-256; a manifest that lists them
is written last, create-only, and the manifest's own SHA-256 names the artifact:
``artifact://<kind>/<sha256>``. Readers verify every byte against the names, so two writers at once
can only write the same bytes, and a transfer that arrives damaged is noticed and repeated.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.contract import MANIFEST_VERSION, DataError, canonical_json
from components.lib.archive import bills_reads
from components.lib.blobs import Blobs, download_verified, open_bucket
from components.lib.buckets import Bucket, blob_key, file_sha256, look, manifest_key
from components.lib.manifests import (
    PARALLEL_BLOBS,
    check_manifest,
    count_on,
    parse_uri,
    publish,
    read_manifest,
    restores,
)

__all__ = ["TIERS", "Store", "Tiers", "check_manifest", "file_sha256", "parse_uri", "read_manifest"]

TIERS = ("hot", "warm", "cold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Where the tiers live: a local folder each, or an object-store URI."""

    hot: str
    warm: str
    cold: str

    @classmethod
    def under(cls, folder: Path) -> Tiers:
        """Three sibling folders, for a run on one machine."""
        return cls(hot=str(folder / "hot"), warm=str(folder / "warm"), cold=str(folder / "cold"))

    def to_json(self) -> str:
        return canonical_json({"hot": self.hot, "warm": self.warm, "cold": self.cold})

    @classmethod
    def from_json(cls, text: str) -> Tiers:
        return cls(**json.loads(text))


class Store:
    """Artifacts and small JSON documents on three tiers."""

    def __init__(self, tiers: Tiers) -> None:
        self.tiers = tiers
        self.buckets: dict[str, Bucket] = {n: open_bucket(getattr(tiers, n)) for n in TIERS}
        self._blobs = Blobs(self.buckets)

    def local_root(self, tier: str) -> Path | None:
        """Return the tier's folder when it is a local one."""
        return self.buckets[tier].root

    # -- documents -------------------------------------------------------------------------------

    def put_json(self, key: str, value: Any) -> None:
        """Write a small JSON document under `key` on the hot tier, atomically."""
        body = json.dumps(value, indent=1, sort_keys=True).encode()
        self.buckets["hot"].write(_safe_key(key), body)

    def get_json(self, key: str) -> Any | None:
        """Read the document under `key`, or None when there is none.

        Raises:
            DataError: the document is not JSON.
        """
        body = self.buckets["hot"].read(_safe_key(key))
        if body is None:
            return None
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.tiers.hot}/{key}: not JSON: {error}", remedy="delete it and run again"
            ) from error

    def list_json(self, prefix: str) -> Iterator[str]:
        """Yield the keys of the documents under `prefix`, sorted."""
        found = self.buckets["hot"].list(_safe_key(prefix).rstrip("/"))
        yield from sorted(entry.key for entry in found if entry.key.endswith(".json"))

    # -- artifacts -------------------------------------------------------------------------------

    def put_folder(self, folder: Path, *, kind: str, tier: str = "hot") -> str:
        """Store every file below `folder` and return the artifact's URI; the same content always
        gives the same URI.

        Raises:
            DataError: a symbolic link leaves the folder.
            StepError: the tier cannot be written.
        """
        bucket = self.buckets[tier]
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        for path in paths:
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{path}: symbolic link leaves the artifact's folder")
        start = time.monotonic()
        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            stored = list(pool.map(bucket.adopt, paths))
        files = [
            {"path": path.relative_to(folder).as_posix(), "sha256": digest, "bytes": size}
            for path, (digest, size) in zip(paths, stored, strict=True)
        ]
        sources = {digest: path for path, (digest, _) in zip(paths, stored, strict=True)}
        body = canonical_json(
            {"schema_version": MANIFEST_VERSION, "kind": kind, "files": files}
        ).encode()
        digest = publish(bucket, body, files, restores(bucket, sources), counted_since=start)
        return f"artifact://{kind}/{digest}"

    def manifest(self, uri: str) -> dict[str, Any]:
        """Return the manifest of the artifact at `uri` from the nearest tier that has it.

        Raises:
            DataError: no tier has it, or its bytes do not match its name.
        """
        _, digest = parse_uri(uri)
        damaged = []
        for _ in range(2):  # it may be moving to where this has just looked
            for name, bucket in self.buckets.items():
                try:
                    body = read_manifest(bucket, digest)
                except DataError:
                    damaged.append(f"{getattr(self.tiers, name)}/{manifest_key(digest)}")
                    continue
                if body is not None:
                    return check_manifest(json.loads(body), uri)
        if damaged:
            raise DataError(
                f"{damaged[0]}: manifest does not match its name",
                remedy="delete it and run the producing step again",
            )
        raise DataError(
            f"{uri}: no tier holds this artifact", remedy="run the producing step again"
        )

    def fetch(self, uri: str, destination: Path) -> Path:
        """Lay the artifact at `uri` out below `destination`, verified, and return that folder.

        What comes from another tier stays on a local hot tier, so the next step finds it there.
        Files on the same filesystem are hard-linked, so treat them as read-only.

        Raises:
            DataError: a blob is missing everywhere or corrupted, or a path leaves the folder.
        """
        manifest = self.manifest(uri)
        entries = manifest["files"]
        destination.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            list(pool.map(partial(self.lay_out, destination=destination), entries))
        self.keep_hot(manifest, destination)
        return destination

    def keep_hot(self, manifest: dict[str, Any], laid_out: Path) -> None:
        """Make what was laid out whole, from other tiers, an artifact of the hot tier, when that
        is local."""
        hot, body = self.buckets["hot"], canonical_json(manifest).encode()
        key = manifest_key(hashlib.sha256(body).hexdigest())
        if hot.root is None or hot.freshen(key, older_than_seconds=0):
            return
        places = {entry["sha256"]: laid_out / entry["path"] for entry in manifest["files"]}
        publish(hot, body, manifest["files"], restores(hot, places))

    def fetch_part(self, uri: str, prefix: str, destination: Path) -> list[Path]:
        """Lay out the files of the artifact at `uri` whose path starts with `prefix`, verified, and
        return them; the rest stays where it is.

        Raises:
            DataError: see `fetch`.
        """
        found = []
        for entry in self.manifest(uri)["files"]:
            if str(entry["path"]).startswith(prefix):
                found.append(self.lay_out(entry, destination))
        return found

    def size_bytes(self, uri: str) -> int:
        """Return the sum of the artifact's file sizes."""
        return sum(int(entry["bytes"]) for entry in self.manifest(uri)["files"])

    def lay_out(self, entry: dict[str, Any], destination: Path) -> Path:
        """Lay out one file of a manifest below `destination`, verified, and return its path.

        Raises:
            DataError: it is missing everywhere or corrupted, or its path leaves the folder.
        """
        return self._blobs.lay_out(entry, destination)

    def copy_to_tier(
        self, uri: str, tier: str, *, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Make the artifact present on `tier`, verified, blobs first, manifest last.

        Args:
            stop: asked before each file; once it is true the rest, and the manifest, are left out.
        """
        manifest = self.manifest(uri)
        bucket = self.buckets[tier]

        def copy(entry: dict[str, Any]) -> None:
            key = blob_key(entry["sha256"])
            if stop() or self._blobs.present(bucket, entry):
                return
            with tempfile.TemporaryDirectory(prefix="suanli-") as folder:
                path = self._blobs.local_copy(entry, Path(folder), avoid=tier)
                bucket.upload(key, path)

        start = time.monotonic()
        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            list(pool.map(copy, manifest["files"]))
        if stop():
            return
        body = canonical_json(manifest).encode()
        publish(bucket, body, manifest["files"], copy, counted_since=start)

    def renew(self, uri: str, tier: str | None = None) -> bool:
        """Make the artifact look new on `tier` (or wherever it is), blobs first, so that nobody
        who judged it before removes it; return whether a tier holds all of it.

        For whoever is about to count on an artifact that nothing may name at this moment.
        """
        names = [tier] if tier else self.tiers_of(uri)
        try:
            files = self.manifest(uri)["files"] if names else []
        except DataError:
            return False
        return any(self._renew(name, manifest_key(parse_uri(uri)[1]), files) for name in names)

    def _renew(self, tier: str, key: str, files: list[dict[str, Any]]) -> bool:
        bucket = self.buckets[tier]
        there = all(count_on(bucket, blob_key(entry["sha256"])) for entry in files)
        # The manifest in any case: `components.lib.collect.drop` relies on it.
        return there and bucket.freshen(key, older_than_seconds=0)

    def tiers_of(self, uri: str) -> list[str]:
        """Return the tiers on which the artifact's manifest is present."""
        key = manifest_key(parse_uri(uri)[1])
        return [name for name, bucket in self.buckets.items() if bucket.entry(key) is not None]

    def verify(self, uri: str, tier: str) -> None:
        """Read every byte of the artifact on `tier` and compare it with its names.

        Where reading is billed or takes hours, look at presence and size: such a store has compared
        each body with the SHA-256 in the request's signature when it arrived.

        Raises:
            DataError: a blob is missing or corrupted.
        """
        bucket = self.buckets[tier]
        by_size = bills_reads(getattr(self.tiers, tier))
        with tempfile.TemporaryDirectory(prefix="suanli-") as folder:
            for entry in self.manifest(uri)["files"]:
                key = blob_key(entry["sha256"])
                found = look(bucket, key, partial(bucket.entry, key))
                whole = found is not None and found.bytes == int(entry["bytes"])
                if whole and not by_size:
                    whole = download_verified(bucket, entry, Path(folder) / "blob")
                if not whole:
                    raise DataError(
                        f"{tier} tier: blob {entry['sha256']} of {uri} is missing or corrupted",
                        remedy=f"suanli tier restore {uri}",
                    )


def _safe_key(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise DataError(f"document key {key!r} leaves the store")
    return key
