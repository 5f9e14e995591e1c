"""Content-addressed artifacts on hot, warm and cold tiers.

An artifact is a folder. Its files are stored as blobs named by SHA-256; a manifest that lists them
is written last, create-only, and the manifest's own SHA-256 names the artifact:
``artifact://<kind>/<sha256>``. Readers verify every byte against the names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contract import MANIFEST_VERSION, DataError, StepError, canonical_json

TIERS = ("hot", "warm", "cold")
CHUNK_BYTES = 1 << 20


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
    if scheme != "artifact" or not kind or len(digest) != 64:
        raise DataError(f"{uri!r} is not an artifact URI of the form artifact://<kind>/<sha256>")
    return kind, digest


class Store:
    """Artifacts and small JSON documents on three tiers."""

    def __init__(self, tiers: Tiers) -> None:
        self.tiers = tiers
        self._roots = {name: Path(getattr(tiers, name)) for name in TIERS}

    def local_root(self, tier: str) -> Path | None:
        """Return the tier's folder when it is a local one."""
        return self._roots[tier]

    # -- documents -------------------------------------------------------------------------------

    def put_json(self, key: str, value: Any) -> None:
        """Write a small JSON document under `key` on the hot tier, atomically."""
        path = self._roots["hot"] / key
        self._write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode())

    def get_json(self, key: str) -> Any | None:
        """Read the document under `key`, or None when there is none.

        Raises:
            DataError: the document is not JSON.
        """
        path = self._roots["hot"] / key
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(
                f"{path}: not JSON: {error}", remedy="delete it and run again"
            ) from error

    def list_json(self, prefix: str) -> Iterator[str]:
        """Yield the keys of the documents under `prefix`, sorted."""
        root = self._roots["hot"]
        for path in sorted((root / prefix).rglob("*.json")):
            yield str(path.relative_to(root))

    # -- artifacts -------------------------------------------------------------------------------

    def put_folder(self, folder: Path, *, kind: str, tier: str = "hot") -> str:
        """Store every file below `folder` and return the artifact's URI; the same content always
        gives the same URI."""
        root = self._roots[tier]
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest = file_sha256(path)
            blob = self._blob(root, digest)
            if not blob.exists():
                self._copy_atomic(path, blob)
            files.append(
                {
                    "path": path.relative_to(folder).as_posix(),
                    "sha256": digest,
                    "bytes": path.stat().st_size,
                }
            )
        manifest = canonical_json(
            {"schema_version": MANIFEST_VERSION, "kind": kind, "files": files}
        ).encode()
        digest = hashlib.sha256(manifest).hexdigest()
        self._write_atomic(self._manifest(root, digest), manifest)
        return f"artifact://{kind}/{digest}"

    def manifest(self, uri: str) -> dict[str, Any]:
        """Return the manifest of the artifact at `uri` from the nearest tier that has it.

        Raises:
            DataError: no tier has it, or its bytes do not match its name.
        """
        _, digest = parse_uri(uri)
        for name in TIERS:
            path = self._manifest(self._roots[name], digest)
            if path.exists():
                body = path.read_bytes()
                if hashlib.sha256(body).hexdigest() != digest:
                    raise DataError(
                        f"{path}: manifest does not match its name", remedy="restore it"
                    )
                document: dict[str, Any] = json.loads(body)
                return document
        raise DataError(
            f"{uri}: no tier holds this artifact", remedy="run the producing step again"
        )

    def fetch(self, uri: str, destination: Path) -> Path:
        """Lay the artifact at `uri` out below `destination`, verified, and return that folder.

        Blobs on a local tier of the same filesystem are hard-linked, so treat files as read-only.

        Raises:
            DataError: a blob is missing or corrupted, or a path leaves the folder.
        """
        for entry in self.manifest(uri)["files"]:
            target = destination / entry["path"]
            if not target.resolve().is_relative_to(destination.resolve()):
                raise DataError(f"{uri}: path {entry['path']!r} leaves the artifact's folder")
            source = self._find_blob(entry["sha256"])
            if file_sha256(source) != entry["sha256"]:
                raise DataError(f"{source}: blob is corrupted", remedy="delete it and run again")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                self._link_or_copy(source, target)
        return destination

    def size_bytes(self, uri: str) -> int:
        """Return the sum of the artifact's file sizes."""
        return sum(int(entry["bytes"]) for entry in self.manifest(uri)["files"])

    def copy_to_tier(self, uri: str, tier: str) -> None:
        """Make the artifact present on `tier`, blobs first, manifest last."""
        manifest = self.manifest(uri)
        root = self._roots[tier]
        for entry in manifest["files"]:
            blob = self._blob(root, entry["sha256"])
            if not blob.exists():
                self._copy_atomic(self._find_blob(entry["sha256"]), blob)
        body = canonical_json(manifest).encode()
        self._write_atomic(self._manifest(root, parse_uri(uri)[1]), body)

    def tiers_of(self, uri: str) -> list[str]:
        """Return the tiers on which the artifact's manifest is present."""
        digest = parse_uri(uri)[1]
        return [name for name in TIERS if self._manifest(self._roots[name], digest).exists()]

    # -- files -----------------------------------------------------------------------------------

    @staticmethod
    def _blob(root: Path, digest: str) -> Path:
        return root / "blobs" / digest[:2] / digest

    @staticmethod
    def _manifest(root: Path, digest: str) -> Path:
        return root / "manifests" / f"{digest}.json"

    def _find_blob(self, digest: str) -> Path:
        for name in TIERS:
            blob = self._blob(self._roots[name], digest)
            if blob.exists():
                return blob
        raise DataError(f"blob {digest} is on no tier", remedy="run the producing step again")

    @staticmethod
    def _link_or_copy(source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def _copy_atomic(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
        os.close(handle)
        try:
            shutil.copyfile(source, name)
            os.chmod(name, 0o444)
            os.replace(name, target)
        except OSError as error:
            os.unlink(name)
            raise StepError(
                f"cannot write {target}: {error}", remedy="check space and rights"
            ) from error

    def _write_atomic(self, path: Path, body: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(body)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except OSError as error:
            os.unlink(name)
            raise StepError(
                f"cannot write {path}: {error}", remedy="check space and rights"
            ) from error
