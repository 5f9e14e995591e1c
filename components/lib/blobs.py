"""Blobs on three tiers: files named by their SHA-256, every byte compared with it when read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.lib.buckets import Bucket, blob_key, file_sha256, look
from components.lib.folders import LocalBucket
from components.lib.manifests import count_on

TRANSFER_ATTEMPTS = 6
LAY_OUT_ATTEMPTS = 5


def open_bucket(uri: str) -> Bucket:
    """Open a tier by its URI: a folder, ``file://``, or ``s3://``, ``gs://``, ``az://``.

    Raises:
        DataError: another scheme.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalBucket(Path(rest if separator else uri))
    if scheme in ("s3", "gs", "az", "abfs"):
        from components.lib.objects import ObjectBucket  # loads obstore

        return ObjectBucket(uri)
    raise DataError(f"storage: scheme {scheme!r} of {uri!r} is not one of file, s3, gs, az")


class Blobs:
    """Finds, checks and lays out blobs. An entry is a manifest's: ``path``, ``sha256``, ``bytes``.

    Args:
        buckets: the tiers by name, nearest first; one is called ``hot``.
    """

    def __init__(self, buckets: Mapping[str, Bucket]) -> None:
        self.buckets = buckets

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

    def present(self, bucket: Bucket, entry: dict[str, Any]) -> bool:
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
        return count_on(bucket, key)

    def _lay_out(self, entry: dict[str, Any], target: Path) -> None:
        if target.is_file() and file_sha256(target) == entry["sha256"]:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        hot = self.buckets["hot"]
        if not isinstance(hot, LocalBucket):
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
                os.replace(self.local_copy(entry, Path(folder)), target)
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
        if self.present(hot, entry):
            return path
        with tempfile.TemporaryDirectory(prefix="suanli-", dir=_folder(hot)) as folder:
            hot.take(blob_key(entry["sha256"]), self.local_copy(entry, Path(folder), avoid="hot"))
        return path

    def local_copy(self, entry: dict[str, Any], folder: Path, *, avoid: str = "") -> Path:
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
                if download_verified(bucket, entry, target):
                    return target
                corrupted.append(name)
        if avoid and self.buckets[avoid].entry(key) is not None:
            corrupted.insert(0, avoid)
        where = f"corrupted on {', '.join(corrupted)}" if corrupted else "on no tier"
        raise DataError(
            f"blob {entry['sha256']} ({entry['path']}) is {where}",
            remedy="run the producing step again",
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another filesystem
        shutil.copyfile(source, target)


def download_verified(bucket: Bucket, entry: dict[str, Any], target: Path) -> bool:
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


def _folder(hot: LocalBucket) -> Path:
    assert hot.root is not None
    path = hot.root / "scratch"
    path.mkdir(parents=True, exist_ok=True)
    return path
