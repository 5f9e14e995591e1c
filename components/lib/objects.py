"""Object stores (S3 and what speaks it, Google Cloud Storage, Azure Blob) through obstore.

Credentials come from the clients' own environment variables and roles, never from a URI. A URI may
carry options: ``s3://bucket/prefix?endpoint=http://host:port&region=…&storage_class=GLACIER_IR
&sse=aws:kms&kms_key=…``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from components.contract import DataError, SpecError, StepError
from components.lib.buckets import Entry
from components.lib.retry import retrying

T = TypeVar("T")

# obstore repeats a request itself; ours around it also repeats a transfer that arrived damaged.
REQUEST_RETRIES = 6
RETRY_SECONDS = 60
REQUEST_TIMEOUT_SECONDS = 30
TRANSFER_ATTEMPTS = 4
PART_BYTES = 16 << 20
MULTIPART_PARTS = 9_000  # S3 allows 10,000
RANGE_BYTES = 16 << 20
# One stream is quicker than several ranges until it takes about a second (at 100 MB/s).
STREAM_BYTES = 96 << 20
READ_BYTES = 4 << 20
CONCURRENCY = 8
# Longer than a request with all its repetitions: then the process that was removing is dead.
REMOVAL_SECONDS = 600.0
WAIT_SECONDS = 0.5
OPTIONS = {"endpoint", "region", "storage_class", "sse", "kms_key"}


class ObjectBucket:
    """A prefix of a bucket or container."""

    root: Path | None = None
    resolution_seconds = 0.5  # stores tell times in whole seconds

    def __init__(self, uri: str) -> None:
        self.uri = uri.partition("?")[0]
        self._store, self.storage_class = _open(uri)
        self._attributes = {"Storage-Class": self.storage_class} if self.storage_class else None

    def read(self, key: str) -> bytes | None:
        import obstore

        try:
            return self._call(lambda: bytes(obstore.get(self._store, key).bytes()), f"read {key}")
        except FileNotFoundError:
            return None

    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if create_only else "overwrite"
        try:
            # Small documents stay in the standard class: archives bill a minimum size.
            self._call(
                lambda: obstore.put(self._store, key, body, mode=mode, use_multipart=False),
                f"write {key}",
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def upload(self, key: str, source: Path) -> None:
        import obstore

        size = source.stat().st_size
        part = max(PART_BYTES, -(-size // MULTIPART_PARTS))

        def attempt() -> None:
            obstore.put(
                self._store,
                key,
                source,
                attributes=self._attributes,
                use_multipart=size > part,
                chunk_size=part,
                max_concurrency=CONCURRENCY,
            )

        # Not looked up afterwards: the server has compared every part with its signed SHA-256.
        self._call(attempt, f"upload {key}")

    def download(self, key: str, target: Path) -> str:
        """Read as one stream, or large objects in parallel ranges; see `Bucket.download`."""
        import obstore

        def attempt() -> str:
            answer = obstore.get(self._store, key)
            size = answer.meta["size"]
            if size > STREAM_BYTES:
                return self._ranges(key, size, target)
            digest, arrived = hashlib.sha256(), 0
            with target.open("wb") as stream:
                for body in answer.stream(min_chunk_size=READ_BYTES):
                    digest.update(body)
                    stream.write(body)
                    arrived += len(body)
            if arrived != size:
                raise ConnectionError(f"{self.uri}/{key}: {arrived} of {size} bytes arrived")
            return digest.hexdigest()

        return self._call(attempt, f"download {key}")

    def _ranges(self, key: str, size: int, target: Path) -> str:
        import obstore

        digest = hashlib.sha256()
        starts = range(0, size, RANGE_BYTES)

        def part(start: int) -> Any:
            end = min(start + RANGE_BYTES, size)
            body = obstore.get_range(self._store, key, start=start, end=end)
            if len(body) != end - start:
                raise ConnectionError(f"{self.uri}/{key}: {len(body)} of {end - start} bytes")
            return body

        with target.open("wb") as stream, ThreadPoolExecutor(CONCURRENCY) as pool:
            coming: deque[Future[Any]] = deque()
            for start in starts:
                coming.append(pool.submit(part, start))
                # At most so many parts are in memory; the oldest is used while others arrive.
                if len(coming) > CONCURRENCY:
                    body = coming.popleft().result()
                    digest.update(body)
                    stream.write(body)
            for future in coming:
                body = future.result()
                digest.update(body)
                stream.write(body)
        return digest.hexdigest()

    def freshen(self, key: str, *, older_than_seconds: float) -> bool:
        """See `Bucket.freshen`. The object itself stays as it is, in its storage class; an empty
        object beside it bears the new time.

        Stores have no removal that depends on another object, so both sides say what they are
        about to do before they look: this writes the mark, then looks for a removal under way; a
        removal announces itself, then looks for the mark. At least one sees the other, for stores
        show every finished write to every later read.
        """
        found = self.entry(key)
        if found is None:
            return False
        if older_than_seconds > 0 and found.modified > time.time() - older_than_seconds:
            return True
        end = time.monotonic() + 2 * REMOVAL_SECONDS
        while time.monotonic() < end:
            self.write(_mark(key), b"")
            removal = self.entry(_announcement(key))
            if removal is None:
                return self.entry(key) is not None
            if removal.modified < self.now() - REMOVAL_SECONDS:
                self.delete(_announcement(key))  # its process was killed
            else:
                time.sleep(WAIT_SECONDS)
        raise StepError(f"{self.uri}/{key}: being removed for too long", remedy="run again")

    def entry(self, key: str) -> Entry | None:
        import obstore

        try:
            meta = self._call(lambda: obstore.head(self._store, key), f"look up {key}")
        except FileNotFoundError:
            return None
        return Entry(key=key, bytes=meta["size"], modified=meta["last_modified"].timestamp())

    def list(self, prefix: str) -> Iterator[Entry]:
        marks = {e.key: e.modified for e in self._pages(_mark(prefix))} if prefix else {}
        for entry in self._pages(prefix):
            renewed = marks.get(_mark(entry.key), entry.modified)
            yield replace(entry, modified=max(entry.modified, renewed))

    def _pages(self, prefix: str) -> list[Entry]:
        import obstore

        def pages() -> list[Any]:
            return [meta for page in obstore.list(self._store, prefix=prefix) for meta in page]

        return [
            Entry(key=meta["path"], bytes=meta["size"], modified=meta["last_modified"].timestamp())
            for meta in self._call(pages, f"list {prefix}")
        ]

    def delete(self, key: str, *, unless_newer_than: float | None = None) -> bool:
        import obstore

        if unless_newer_than is not None:
            return self._delete_unless(key, unless_newer_than)
        try:
            self._call(lambda: obstore.delete(self._store, key), f"delete {key}")
        except FileNotFoundError:
            return False
        return True

    def _delete_unless(self, key: str, newer_than: float) -> bool:
        """Remove the object if it was not renewed since; see `freshen`."""
        announcement, token = _announcement(key), secrets.token_hex(8).encode()
        begun = time.monotonic()
        if not self._announce(announcement, token):
            return False  # another process is about to remove it
        found, mark = self.entry(key), self.entry(_mark(key))
        removed = False
        if found and max(found.modified, mark.modified if mark else 0.0) <= newer_than:
            # Still ours, and long before anybody may take this process for dead? If the removal
            # fails, it may yet happen, and the announcement stays.
            in_time = time.monotonic() - begun < REMOVAL_SECONDS / 10
            if in_time and self.read(announcement) == token:
                removed = self.delete(key)
                self.delete(_mark(key))
        if self.read(announcement) == token:
            self.delete(announcement)
        return removed

    def _announce(self, announcement: str, token: bytes) -> bool:
        for _ in range(2):
            if self.write(announcement, token, create_only=True):
                return True
            if self.read(announcement) == token:
                return True  # written, but the answer was lost
            other = self.entry(announcement)
            if other is not None and other.modified >= self.now() - REMOVAL_SECONDS:
                return False
            self.delete(announcement)  # its process was killed
        return False

    def now(self) -> float:
        """Return the server's time, by writing a probe: clocks differ by more than a second."""
        self.write("clock", b"")
        found = self.entry("clock")
        assert found is not None
        return found.modified

    def recover(self, folder: str) -> bool:
        return False

    def _call(self, work: Callable[[], T], what: str) -> T:
        """Run one operation with bounded retries, and translate what finally fails."""
        from obstore import exceptions as failures

        final = (
            FileNotFoundError,
            failures.AlreadyExistsError,
            failures.PreconditionError,
            failures.PermissionDeniedError,
            failures.UnauthenticatedError,
        )
        try:
            return retrying(
                work,
                what=what,
                attempts=TRANSFER_ATTEMPTS,
                retriable=lambda error: not isinstance(error, final),
            )
        except (FileNotFoundError, failures.AlreadyExistsError, failures.PreconditionError):
            raise
        except (failures.PermissionDeniedError, failures.UnauthenticatedError) as error:
            if "InvalidObjectState" in str(error):
                raise DataError(
                    f"{self.uri}: cannot {what}: it is archived",
                    remedy="suanli tier restore brings an artifact back",
                ) from error
            raise DataError(
                f"{self.uri}: the store refuses to {what}: {_first_line(error)}",
                remedy="check the credentials in the environment and their rights on this bucket",
            ) from error
        except (failures.BaseError, OSError) as error:
            raise StepError(
                f"{self.uri}: cannot {what}: {_first_line(error)}",
                remedy="the store was asked several times; run again when it answers",
            ) from error


def _mark(key: str) -> str:
    return f"renewed/{key}"


def _announcement(key: str) -> str:
    return f"removing/{key}"


def _first_line(error: Exception) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 300 else text[:300] + "…"


def _open(uri: str) -> tuple[Any, str | None]:
    import obstore.store

    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = set(options) - OPTIONS
    if unknown:
        raise SpecError(
            f"storage: option {sorted(unknown)[0]!r} of {uri!r} is not known",
            remedy=f"use {', '.join(sorted(OPTIONS))}",
        )
    endpoint = options.get("endpoint")
    if parts.scheme == "s3":
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    config = _config(parts.scheme, options, endpoint)
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_SECONDS),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
    }
    retry: dict[str, Any] = {
        "max_retries": REQUEST_RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    from_url: Any = obstore.store.from_url  # its overloads tell the stores apart by config type
    try:
        store = from_url(plain, config=config or None, client_options=client, retry_config=retry)
    except Exception as error:
        raise SpecError(f"storage: {uri!r} cannot be opened: {_first_line(error)}") from error
    return store, options.get("storage_class")


def _config(scheme: str, options: dict[str, str], endpoint: str | None) -> dict[str, Any]:
    """Return a store's settings; what is not named here comes from its own environment."""
    if scheme == "gs":
        return {"base_url": endpoint} if endpoint else {}
    if scheme != "s3":
        return {"endpoint": endpoint} if endpoint else {}
    config: dict[str, Any] = {
        "region": options.get("region") or os.environ.get("AWS_REGION") or "us-east-1"
    }
    if endpoint:
        config["endpoint"] = endpoint
        config["virtual_hosted_style_request"] = False
    if "sse" in options:
        config["server_side_encryption"] = options["sse"]
    if "kms_key" in options:
        config["sse_kms_key_id"] = options["kms_key"]
    return config


def head(uri: str) -> list[Any]:
    """Return etag and size of one remote object (or of all below a prefix), as its identity.

    Raises:
        DataError: nothing is there.
    """
    import obstore

    parts = uri.partition("?")
    base, _, name = parts[0].rpartition("/")
    bucket = ObjectBucket(base + parts[1] + parts[2])
    try:
        meta = bucket._call(lambda: obstore.head(bucket._store, name), f"look up {name}")
        return [meta.get("e_tag"), meta["size"]]
    except FileNotFoundError:
        pass
    found = [[e.key, e.bytes, e.modified] for e in ObjectBucket(uri).list("")]
    if not found:
        raise DataError(f"{uri}: no such object", remedy="check data.*.uri in the spec")
    return found


def download(uri: str, folder: Path) -> Path:
    """Download one object, or all below a prefix into a folder, and return the path.

    Raises:
        DataError: nothing is there, or a key leaves the folder.
    """
    parts = uri.partition("?")
    base, _, name = parts[0].rpartition("/")
    bucket = ObjectBucket(base + parts[1] + parts[2])
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
