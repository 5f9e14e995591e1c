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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract import MANIFEST_VERSION, DataError, StepError, canonical_json
from components.lib.buckets import (
    Bucket,
    LocalBucket,
    blob_key,
    manifest_key,
    open_bucket,
)

TIERS = ("hot", "warm", "cold")
TRANSFER_ATTEMPTS = 6
PARALLEL_BLOBS = 4
# A blob found present is renewed when it is older than this, well below any collection's grace.
FRESH_SECONDS = 3600.0


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
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{path}: symbolic link leaves the artifact's folder")
            digest, size = _store_file(bucket, path)
            name = path.relative_to(folder).as_posix()
            files.append({"path": name, "sha256": digest, "bytes": size})
        body = canonical_json(
            {"schema_version": MANIFEST_VERSION, "kind": kind, "files": files}
        ).encode()
        digest = hashlib.sha256(body).hexdigest()
        _publish(bucket, digest, body)
        return f"artifact://{kind}/{digest}"

    def manifest(self, uri: str) -> dict[str, Any]:
        """Return the manifest of the artifact at `uri` from the nearest tier that has it.

        Raises:
            DataError: no tier has it, or its bytes do not match its name.
        """
        _, digest = parse_uri(uri)
        damaged = []
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
        entries = self.manifest(uri)["files"]
        destination.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            target = destination / entry["path"]
            if not target.resolve().is_relative_to(destination.resolve()):
                raise DataError(f"{uri}: path {entry['path']!r} leaves the artifact's folder")
        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            list(pool.map(lambda e: self._lay_out(e, destination / e["path"]), entries))
        hot = self.buckets["hot"]
        if hot.root is not None and not hot.freshen(
            manifest_key(parse_uri(uri)[1]), older_than_seconds=0
        ):
            body = canonical_json(self.manifest(uri)).encode()
            _publish(hot, parse_uri(uri)[1], body)
        return destination

    def fetch_part(self, uri: str, prefix: str, destination: Path) -> list[Path]:
        """Lay out the files of the artifact at `uri` whose path starts with `prefix`, verified, and
        return them; the rest stays where it is.

        Raises:
            DataError: see `fetch`.
        """
        found = []
        for entry in self.manifest(uri)["files"]:
            target = destination / entry["path"]
            if not str(entry["path"]).startswith(prefix):
                continue
            if not target.resolve().is_relative_to(destination.resolve()):
                raise DataError(f"{uri}: path {entry['path']!r} leaves the artifact's folder")
            self._lay_out(entry, target)
            found.append(target)
        return found

    def size_bytes(self, uri: str) -> int:
        """Return the sum of the artifact's file sizes."""
        return sum(int(entry["bytes"]) for entry in self.manifest(uri)["files"])

    def copy_to_tier(self, uri: str, tier: str) -> None:
        """Make the artifact present on `tier`, verified, blobs first, manifest last."""
        manifest = self.manifest(uri)
        bucket = self.buckets[tier]

        def copy(entry: dict[str, Any]) -> None:
            key = blob_key(entry["sha256"])
            if self._present(bucket, entry):
                return
            with tempfile.TemporaryDirectory(prefix="suanli-") as folder:
                path = self._local_copy(entry, Path(folder), avoid=tier)
                bucket.upload(key, path)

        with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
            list(pool.map(copy, manifest["files"]))
        _publish(bucket, parse_uri(uri)[1], canonical_json(manifest).encode())

    def tiers_of(self, uri: str) -> list[str]:
        """Return the tiers on which the artifact's manifest is present."""
        key = manifest_key(parse_uri(uri)[1])
        return [name for name, bucket in self.buckets.items() if bucket.entry(key) is not None]

    def verify(self, uri: str, tier: str) -> None:
        """Read every byte of the artifact on `tier` and compare it with its names.

        Raises:
            DataError: a blob is missing or corrupted.
        """
        with tempfile.TemporaryDirectory(prefix="suanli-") as folder:
            for entry in self.manifest(uri)["files"]:
                if not _download(self.buckets[tier], entry, Path(folder) / "blob"):
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
        found = bucket.entry(key)
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
        if isinstance(hot, LocalBucket):
            source: Path = self._into_hot(hot, entry)
        else:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
                os.replace(self._local_copy(entry, Path(folder)), target)
            return
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def _into_hot(self, hot: LocalBucket, entry: dict[str, Any]) -> Path:
        """Return the blob's path on the local hot tier, verified, bringing it there if needed."""
        path = hot.path(blob_key(entry["sha256"]))
        if not path.exists():
            hot.recover(f"blobs/{entry['sha256'][:2]}")
        if path.is_file() and file_sha256(path) == entry["sha256"]:
            hot.freshen(blob_key(entry["sha256"]), older_than_seconds=0)
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
        corrupted = []
        target = folder / str(entry["sha256"])
        for name, bucket in self.buckets.items():
            if name == avoid or bucket.entry(blob_key(entry["sha256"])) is None:
                continue
            if _download(bucket, entry, target):
                return target
            corrupted.append(name)
        where = f"corrupted on {', '.join(corrupted)}" if corrupted else "on no tier"
        if avoid and self.buckets[avoid].entry(blob_key(entry["sha256"])) is not None:
            where = f"corrupted on {', '.join([avoid, *corrupted])}"
        raise DataError(
            f"blob {entry['sha256']} ({entry['path']}) is {where}",
            remedy="run the producing step again",
        )


def read_manifest(bucket: Bucket, digest: str) -> bytes | None:
    """Return the manifest's verified bytes, read again if they arrived damaged; None if absent.

    Raises:
        DataError: they do not match their name.
    """
    for _ in range(TRANSFER_ATTEMPTS):
        body = bucket.read(manifest_key(digest))
        if body is None or hashlib.sha256(body).hexdigest() == digest:
            return body
        if bucket.root is not None:
            break  # a local file reads the same again
    raise DataError(f"{manifest_key(digest)} does not match its name")


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
            raise StepError(f"{path}: changed while it was stored", remedy="run the step again")
    return digest, size


def _publish(bucket: Bucket, digest: str, body: bytes) -> None:
    """Write the manifest, create-only; when it was there, replace it if it was damaged."""
    key = manifest_key(digest)
    if not bucket.write(key, body, create_only=True):
        if bucket.read(key) != body:
            bucket.write(key, body)
        bucket.freshen(key, older_than_seconds=_fresh_seconds(bucket))


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


def _folder(hot: LocalBucket) -> Path:
    assert hot.root is not None
    path = hot.root / "scratch"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _safe_key(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise DataError(f"document key {key!r} leaves the store")
    return key
