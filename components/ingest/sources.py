"""Bring what a `uri` names onto local disk, and say what it was."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.contract import DataError, SpecError, StepError
from components.ingest import synthetic
from components.storage import file_sha256

OBJECT_SCHEMES = ("s3", "gs", "az", "abfs")
DOWNLOAD_CHUNK_BYTES = 8 << 20
HTTP_ATTEMPTS = 5
HTTP_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of one split, on local disk.

    `uri` is how the data is known: the file's name for local paths (no path of a machine ends up
    in an artifact), the full URI otherwise.
    """

    split: str
    uri: str
    path: Path
    files: tuple[Path, ...]
    stamp: tuple[tuple[int, int], ...]  # size and mtime_ns of each file when staged

    def check_unchanged(self) -> None:
        """Raise DataError when a file was written to since it was staged."""
        for path, stamp in zip(self.files, self.stamp, strict=True):
            if not path.exists() or _stamp(path) != stamp:
                raise DataError(
                    f"{path}: changed while it was read", remedy="run again when it is complete"
                )

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.stamp)

    def sha256(self) -> str:
        """Digest of the content: the file's own, or over names and digests of a folder's files."""
        if self.path.is_file():
            return _cached_sha256(self.path, *self.stamp[0])
        digest = hashlib.sha256()
        for path, stamp in zip(self.files, self.stamp, strict=True):
            name = path.relative_to(self.path).as_posix()
            digest.update(f"{name}\0{_cached_sha256(path, *stamp)}\n".encode())
        return digest.hexdigest()


def identity(uri: str) -> Any:
    """Return what changes when the content behind `uri` changes, without downloading it.

    Raises:
        DataError: it does not exist.
        SpecError: the scheme is unknown or the remote refuses.
    """
    scheme = _scheme(uri)
    if scheme == "synthetic":
        return uri
    if scheme in ("http", "https"):
        with _http(uri, method="HEAD") as response:
            headers = response.headers
            return [
                uri,
                headers.get("ETag") or headers.get("Last-Modified"),
                headers.get("Content-Length"),
            ]
    if scheme in OBJECT_SCHEMES:
        from components.lib.remote_files import head

        return [uri, *head(uri)]
    if scheme == "hf":
        return [uri, _hub_file(uri).resolve().name]  # the cache names blobs by their hash
    return stage("", uri, Path()).sha256()


def stage(split: str, uri: str, folder: Path) -> Source:
    """Make the data at `uri` available as local files, downloading below `folder` if needed.

    Raises:
        DataError: nothing is there, or it is empty.
        SpecError: the scheme is unknown.
    """
    scheme = _scheme(uri)
    name = uri
    if scheme == "synthetic":
        path = synthetic.write(uri, folder)
    elif scheme in ("http", "https"):
        path = _download_http(uri, folder)
    elif scheme in OBJECT_SCHEMES:
        from components.lib.remote_files import download

        path = download(uri, folder)
    elif scheme == "hf":
        path = _hub_file(uri)
    else:
        path = Path(uri.removeprefix("file://")).expanduser()
        name = path.name
    files = tuple(_files(path, uri))
    return Source(
        split=split, uri=name, path=path, files=files, stamp=tuple(_stamp(f) for f in files)
    )


def _scheme(uri: str) -> str:
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        return "file"
    known = ("synthetic", "http", "https", *OBJECT_SCHEMES, "hf")
    if scheme not in known:
        raise SpecError(f"data: scheme {scheme!r} of {uri!r} is not one of {', '.join(known)}")
    return scheme


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _cached_sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_sha256(path)


def _files(path: Path, uri: str) -> list[Path]:
    """List what to read: the file, a folder's data files, or an image folder's class folders.

    Symbolic links inside a folder are refused when they leave it.
    """
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError(f"{path}: file is empty", remedy="check how it was made")
        return [path]
    if not path.is_dir():
        raise DataError(f"{uri}: no such file or folder", remedy="check data.*.uri in the spec")
    root = path.resolve()
    found = []
    for base, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            file = Path(base) / name
            if name.startswith("."):
                continue
            if not file.resolve().is_relative_to(root):
                raise DataError(
                    f"{file}: symbolic link leaves the data folder", remedy="copy the file there"
                )
            found.append(file)
    if not found:
        raise DataError(f"{path}: folder is empty")
    return found


# -- http ------------------------------------------------------------------------------------------


def _http(uri: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(uri, method=method, headers=headers or {})
    try:
        return urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):
            raise DataError(f"{uri}: server answers {error.code} {error.reason}") from error
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError | TimeoutError):
            raise error.reason from error
        raise DataError(f"{uri}: cannot be reached: {error.reason}") from error


def _download_http(uri: str, folder: Path) -> Path:
    """Download with resume: each retry asks only for the bytes still missing."""
    from components.lib.retry import retrying

    folder.mkdir(parents=True, exist_ok=True)
    base = Path(urlsplit(uri).path).name or "data"
    key = hashlib.sha256(uri.encode()).hexdigest()[:12]
    target = folder / f"{key}-{re.sub(r'[^A-Za-z0-9._-]', '_', base)[-80:]}"
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)

    def attempt() -> None:
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with _http(uri, headers=headers) as response:
            mode = "ab" if response.status == 206 else "wb"
            expected = response.headers.get("Content-Length")
            before = have if mode == "ab" else 0
            with partial.open(mode) as stream:
                while chunk := response.read(DOWNLOAD_CHUNK_BYTES):
                    stream.write(chunk)
            if expected is not None and partial.stat().st_size - before != int(expected):
                raise ConnectionError(f"{uri}: body ended early")

    try:
        retrying(attempt, what=f"download of {uri}", attempts=HTTP_ATTEMPTS)
    except (urllib.error.HTTPError, OSError) as error:
        raise StepError(f"{uri}: {error}", remedy="try again later") from error
    partial.replace(target)
    return target


# -- Hugging Face Hub ------------------------------------------------------------------------------


def _hub_file(uri: str) -> Path:
    """Resolve ``hf://datasets/<owner>/<name>[@revision]/<path>`` through the Hub's local cache."""
    from huggingface_hub import hf_hub_download

    match = re.fullmatch(r"hf://(?:datasets/)?([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", uri)
    if match is None:
        raise SpecError(f"data: {uri!r} is not hf://datasets/<owner>/<name>[@revision]/<path>")
    repository, revision, name = match.groups()
    try:
        return Path(hf_hub_download(repository, name, revision=revision, repo_type="dataset"))
    except Exception as error:  # network, missing file, gated, offline without a cache …
        first = str(error).splitlines()[0] if str(error) else ""
        raise DataError(
            f"{uri}: the Hub does not give it: {type(error).__name__}: {first}",
            remedy="check the name, or fill the local cache with `hf download`",
        ) from error
