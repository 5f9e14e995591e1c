"""Content-addressed artifacts on hot, warm and cold tiers.

An artifact is a folder. Its files are stored as blobs named by SHA-256; a manifest that lists them
is written last, create-only, and the manifest's own SHA-256 names the artifact:
``artifact://<kind>/<sha256>``. Readers verify every byte against the names, so two writers at once
can only write the same bytes, and a transfer that arrives damaged is noticed and repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract import MANIFEST_VERSION, DataError, StepError, canonical_json
from components.lib.archive import bills_reads
from components.lib.buckets import Bucket, blob_key, look, manifest_key, open_bucket
from components.lib.folders import LocalBucket

TIERS = ("hot", "warm", "cold")
TRANSFER_ATTEMPTS = 6
PARALLEL_BLOBS = 4
# On a remote tier, what is found present is renewed when it is older than this, well below any
# collection's grace; on a local one always, for it costs nothing.
FRESH_SECONDS = 3600.0
PUBLISH_ATTEMPTS = 20
LAY_OUT_ATTEMPTS = 5


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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of the file at `path`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``artifact://<kind>/<sha256>`` into kind and digest.

    Raises:
        DataError: the URI has another form.
    """
    scheme, _, rest = uri.partition("://")
    kind, _, digest = rest.partition("/")
    if scheme != "artifact" or not kind or not _is_digest(digest):
        raise DataError(f"{uri!r} is not an artifact URI of the form artifact://<kind>/<sha256>")
    return kind, digest


def _is_digest(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


class Store:
    """Artifacts and small JSON documents on three tiers."""

    def __init__(self, tiers: Tiers) -> None:
        self.tiers = tiers
        self.buckets: dict[str, Bucket] = {n: open_bucket(getattr(tiers, n)) for n in TIERS}

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
        sources: dict[str, Path] = {}
        files = []
        start = time.monotonic()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{path}: symbolic link leaves the artifact's folder")
            digest, size = _store_file(bucket, path)
            sources[digest] = path
            name = path.relative_to(folder).as_posix()
            files.append({"path": name, "sha256": digest, "bytes": size})
        body = canonical_json(
            {"schema_version": MANIFEST_VERSION, "kind": kind, "files": files}
        ).encode()
        digest = _publish(bucket, body, files, _restores(bucket, sources), counted_since=start)
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
        self._keep_hot(manifest, destination)
        return destination

    def _keep_hot(self, manifest: dict[str, Any], laid_out: Path) -> None:
        """Make what was laid out an artifact of the hot tier, when that is local."""
        hot, body = self.buckets["hot"], canonical_json(manifest).encode()
        key = manifest_key(hashlib.sha256(body).hexdigest())
        if hot.root is None or hot.freshen(key, older_than_seconds=0):
            return
        places = {entry["sha256"]: laid_out / entry["path"] for entry in manifest["files"]}
        _publish(hot, body, manifest["files"], _restores(hot, places))

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
        target = destination / str(entry["path"])
        if not target.resolve().is_relative_to(destination.resolve()):
            raise DataError(f"path {entry['path']!r} leaves the artifact's folder")
        self._lay_out(entry, target)
        return target

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
            if stop() or self._present(bucket, entry):
                return
            with tempfile.TemporaryDirectory(prefix="suanli-") as folder:
                path = self._local_copy(entry, Path(folder), avoid=tier)
                bucket.upload(key, path)

        start = time.monotonic()
        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            list(pool.map(copy, manifest["files"]))
        if stop():
            return
        body = canonical_json(manifest).encode()
        _publish(bucket, body, manifest["files"], copy, counted_since=start)

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
        there = all(_count_on(bucket, blob_key(entry["sha256"])) for entry in files)
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
                there = found is not None and found.bytes == int(entry["bytes"])
                if not there or not (by_size or _download(bucket, entry, Path(folder) / "blob")):
                    raise DataError(
                        f"{tier} tier: blob {entry['sha256']} of {uri} is missing or corrupted",
                        remedy=f"suanli tier restore {uri}",
                    )

    # -- blobs -----------------------------------------------------------------------------------

    def _present(self, bucket: Bucket, entry: dict[str, Any]) -> bool:
        """Is the blob there, whole, and safe from a running collection?

        On a local tier by its bytes, on an object store, which checks them itself, by its size.
        """
        key = blob_key(entry["sha256"])
        found = look(bucket, key, partial(bucket.entry, key))
        if found is None or found.bytes != int(entry["bytes"]):
            return False
        if isinstance(bucket, LocalBucket):
            with suppress(FileNotFoundError):
                if file_sha256(bucket.path(key)) == entry["sha256"]:
                    return bucket.freshen(key, older_than_seconds=0)
            return False
        return bucket.freshen(key, older_than_seconds=_fresh_seconds(bucket))

    def _lay_out(self, entry: dict[str, Any], target: Path) -> None:
        if target.is_file() and file_sha256(target) == entry["sha256"]:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        hot = self.buckets["hot"]
        if not isinstance(hot, LocalBucket):
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
                os.replace(self._local_copy(entry, Path(folder)), target)
            return
        for attempt in range(LAY_OUT_ATTEMPTS):
            source = self._into_hot(hot, entry)
            try:
                _link_or_copy(source, target)
                return
            except FileNotFoundError:  # evicted at this very moment
                if attempt == LAY_OUT_ATTEMPTS - 1:
                    raise

    def _into_hot(self, hot: LocalBucket, entry: dict[str, Any]) -> Path:
        """Return the blob's path on the local hot tier, verified, bringing it there if needed."""
        path = hot.path(blob_key(entry["sha256"]))
        if self._present(hot, entry):
            return path
        with tempfile.TemporaryDirectory(prefix="suanli-", dir=_folder(hot)) as folder:
            copy = self._local_copy(entry, Path(folder), avoid="hot")
            hot.upload(blob_key(entry["sha256"]), copy)
        return path

    def _local_copy(self, entry: dict[str, Any], folder: Path, *, avoid: str = "") -> Path:
        """Return a verified file with the blob's bytes, below `folder`, from the nearest tier.

        Raises:
            DataError: the blob is on no (other) tier, or corrupted on all.
        """
        key = blob_key(entry["sha256"])
        target = folder / str(entry["sha256"])
        for _ in range(2):  # it may be moving to where this has just looked
            corrupted = []
            for name, bucket in self.buckets.items():
                if name == avoid or look(bucket, key, partial(bucket.entry, key)) is None:
                    continue
                if _download(bucket, entry, target):
                    return target
                corrupted.append(name)
        if avoid and self.buckets[avoid].entry(key) is not None:
            corrupted.insert(0, avoid)
        where = f"corrupted on {', '.join(corrupted)}" if corrupted else "on no tier"
        raise DataError(
            f"blob {entry['sha256']} ({entry['path']}) is {where}",
            remedy="run the producing step again",
        )


def read_manifest(bucket: Bucket, digest: str) -> bytes | None:
    """Return the manifest's verified bytes, read again if they arrived damaged; None if absent.

    Raises:
        DataError: they do not match their name.
    """
    key = manifest_key(digest)
    for _ in range(TRANSFER_ATTEMPTS):
        body = look(bucket, key, lambda: bucket.read(key))
        if body is None or hashlib.sha256(body).hexdigest() == digest:
            return body
        if bucket.root is not None:
            break  # a local file reads the same again
    raise DataError(f"{key} does not match its name")


def check_manifest(document: Any, uri: str) -> dict[str, Any]:
    """Return `document` if it is a manifest that may be laid out.

    Raises:
        DataError: wrong shape, or a path that is absolute, climbs, or names one file twice.
    """
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or document.get("schema_version") != MANIFEST_VERSION:
        raise DataError(f"{uri}: manifest has another schema", remedy="use the suanli of its maker")
    seen = set()
    for entry in files:
        name, digest = entry.get("path"), entry.get("sha256")
        path = PurePosixPath(str(name))
        if not name or path.is_absolute() or ".." in path.parts or "\0" in str(name):
            raise DataError(f"{uri}: path {name!r} leaves the artifact's folder")
        if not _is_digest(digest) or not isinstance(entry.get("bytes"), int):
            raise DataError(f"{uri}: entry {name!r} has no valid sha256 and size")
        if path in seen:
            raise DataError(f"{uri}: path {name!r} occurs twice")
        seen.add(path)
    result: dict[str, Any] = document
    return result


def _store_file(bucket: Bucket, path: Path) -> tuple[str, int]:
    if isinstance(bucket, LocalBucket):
        return bucket.adopt(path)
    digest, size = file_sha256(path), path.stat().st_size
    found = bucket.entry(blob_key(digest))
    same = found is not None and found.bytes == size
    if not same or not bucket.freshen(blob_key(digest), older_than_seconds=FRESH_SECONDS):
        bucket.upload(blob_key(digest), path)
        if file_sha256(path) != digest:
            bucket.delete(blob_key(digest))  # what arrived may have another name
            raise StepError(f"{path}: changed while it was stored", remedy="run the step again")
    return digest, size


def _restores(bucket: Bucket, places: dict[str, Path]) -> Callable[[dict[str, Any]], None]:
    """Return what stores a blob of a folder once more: `places` maps SHA-256 to file."""

    def store(entry: dict[str, Any]) -> None:
        path = places[entry["sha256"]]
        if _store_file(bucket, path)[0] != entry["sha256"]:
            raise StepError(f"{path}: changed while it was stored", remedy="run the step again")

    return store


def _publish(
    bucket: Bucket,
    body: bytes,
    files: list[dict[str, Any]],
    store_again: Callable[[dict[str, Any]], None],
    *,
    counted_since: float | None = None,
) -> str:
    """Write the manifest `body` when every blob it names is there, and return its SHA-256.

    A removal spares blobs that were counted on a moment ago. So the manifest must follow them
    sooner than that: where storing took longer, all are renewed once more and what went is stored
    again, until one pass was quick.

    Args:
        counted_since: the monotonic time since when the blobs are known to be there.

    Raises:
        StepError: no pass was quick enough.
    """
    digest = hashlib.sha256(body).hexdigest()
    longest = counted_on_seconds(bucket) / 2
    for _ in range(PUBLISH_ATTEMPTS):
        if counted_since is None:
            counted_since = time.monotonic()
            keys = [blob_key(entry["sha256"]) for entry in files]
            with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
                there = list(pool.map(partial(_count_on, bucket), keys))
            for entry in (entry for entry, found in zip(files, there, strict=True) if not found):
                store_again(entry)
        if (
            time.monotonic() - counted_since < longest
            and _write_manifest(bucket, digest, body)
            and time.monotonic() - counted_since < longest
        ):
            return digest
        counted_since = None
    raise StepError(
        f"{manifest_key(digest)}: {len(files)} files cannot be renewed in {longest:g} s",
        remedy="try again when the store answers more quickly",
    )


def _write_manifest(bucket: Bucket, digest: str, body: bytes) -> bool:
    """Write the manifest, create-only; when it was there, renew it, or replace it if it was
    damaged. Returns False when it was there and was removed at this moment."""
    key = manifest_key(digest)
    if bucket.write(key, body, create_only=True):
        return True
    if bucket.read(key) not in (body, None):
        return bucket.write(key, body)
    return _count_on(bucket, key)


def _count_on(bucket: Bucket, key: str) -> bool:
    return bucket.freshen(key, older_than_seconds=_fresh_seconds(bucket))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another filesystem
        shutil.copyfile(source, target)


def _download(bucket: Bucket, entry: dict[str, Any], target: Path) -> bool:
    """Download a blob and compare it with its name, again if it arrived damaged."""
    for _ in range(TRANSFER_ATTEMPTS):
        try:
            if bucket.download(blob_key(entry["sha256"]), target) == entry["sha256"]:
                return True
        except FileNotFoundError:
            return False
        if bucket.root is not None:
            return False  # a local file reads the same again
    return False


def _fresh_seconds(bucket: Bucket) -> float:
    """Renewing costs nothing on a local tier and a copy request on a remote one."""
    return 0.0 if bucket.root is not None else FRESH_SECONDS


def counted_on_seconds(bucket: Bucket) -> float:
    """How long a blob that no manifest names is left alone: its writer may be about to publish."""
    return 60.0 if bucket.root is not None else 2 * FRESH_SECONDS


def _folder(hot: LocalBucket) -> Path:
    assert hot.root is not None
    path = hot.root / "scratch"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _safe_key(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise DataError(f"document key {key!r} leaves the store")
    return key
