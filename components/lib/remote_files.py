"""Source data in object stores: who they are, and a copy of them here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from components.contract import DataError
from components.lib.objects import ObjectBucket


def head(uri: str) -> list[Any]:
    """Return etag and size of one remote object (or of all below a prefix), as its identity.

    Raises:
        DataError: nothing is there.
    """
    bucket, name = _parent(uri)
    same = bucket.identity(name)
    if same is not None:
        return list(same)
    found = [[e.key, e.bytes, e.modified] for e in ObjectBucket(uri).list("")]
    if not found:
        raise DataError(f"{uri}: no such object", remedy="check data.*.uri in the spec")
    return found


def download(uri: str, folder: Path) -> Path:
    """Download one object, or all below a prefix into a folder, and return the path.

    Raises:
        DataError: nothing is there, or a key leaves the folder.
    """
    bucket, name = _parent(uri)
    target = folder / hashlib.sha256(uri.encode()).hexdigest()[:12]
    target.mkdir(parents=True, exist_ok=True)
    if bucket.entry(name) is not None:
        bucket.download(name, target / name)
        return target / name
    bucket = ObjectBucket(uri)
    for found in bucket.list(""):
        path = target / found.key
        if not path.resolve().is_relative_to(target.resolve()):
            raise DataError(f"{uri}: key {found.key!r} leaves its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.download(found.key, path)
    if not any(target.iterdir()):
        raise DataError(f"{uri}: no such object", remedy="check data.*.uri in the spec")
    return target


def _parent(uri: str) -> tuple[ObjectBucket, str]:
    path, separator, options = uri.partition("?")
    base, _, name = path.rpartition("/")
    return ObjectBucket(base + separator + options), name
