"""Object stores against boto3 and s3fs, and staging from them: see `benchmarks.storage`."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

KEY_ID, SECRET = "test:tester", "testing"  # as in tests.swift_server
MIXES = ((48, 1), (8, 16), (1, 64), (1, 256))  # files, MiB of each

S3FS = """
import sys, s3fs
endpoint, key, secret = sys.argv[1:4]
fs = s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=endpoint,
                       client_kwargs={"region_name": "us-east-1"},
                       config_kwargs={"s3": {"addressing_style": "path"}})
print("ready", flush=True)
for line in sys.stdin:
    verb, source, target = line.split()
    getattr(fs, verb)(source, target)
    print("done", flush=True)
"""


class S3fs:
    """s3fs in an interpreter of its own: its pinned botocore is not the one that boto3 has here."""

    def __init__(self, python: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", S3FS, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def __call__(self, verb: str, source: str, target: str) -> None:
        assert self._process.stdin is not None
        print(verb, source, target, file=self._process.stdin, flush=True)
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("s3fs failed")


@contextlib.contextmanager
def swift_bucket(folder: Path) -> Iterator[tuple[str, Any]]:
    """Run Swift with an empty bucket ``bench``; yield its endpoint and a boto3 client."""
    from tests.swift_server import client, swift

    os.environ.update(AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET)
    with swift(folder / "swift") as endpoint:
        boto = client(endpoint)
        boto.create_bucket(Bucket="bench")
        yield endpoint, boto


def objects(repeats: int, s3fs_python: str | None, only: int | None) -> None:
    with tempfile.TemporaryDirectory() as name, swift_bucket(Path(name)) as (endpoint, boto):
        s3fs = S3fs(s3fs_python, endpoint, KEY_ID, SECRET) if s3fs_python else None
        for count, megabytes in (mix for mix in MIXES if only in (None, mix[0])):
            folder = Path(name) / f"{count}x{megabytes}"
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:03d}").write_bytes(os.urandom(megabytes << 20))
            for verb, sides in _object_sides(folder, endpoint, boto, s3fs).items():
                rounds = list(_rounds(sides, repeats))
                total = count * megabytes
                speeds = {k: total / statistics.median(r[k] for r in rounds) for k in sides}
                words = ", ".join(f"{k} {speed:.0f} MiB/s" for k, speed in speeds.items())
                ratios = ", ".join(
                    f"{statistics.median(r[k] / r['ours'] for r in rounds):.2f} of {k}"
                    for k in sides
                    if k != "ours"
                )
                size = f"{count} x {megabytes} MiB"
                print(f"{verb} {size}: {words}; median ratio {ratios} ({repeats} rounds)")
            shutil.rmtree(folder)


def _object_sides(
    folder: Path, endpoint: str, boto: Any, s3fs: S3fs | None
) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what moves every file of `folder` by each side, for put and for get.

    All move files of an artifact at once: ours as many as `Store` does, each with one request or
    with parts; boto3's transfer manager with its own settings (parts of 8 MiB, ten requests at a
    time) and, as ``boto3 so set``, with parts as large and as many as ours.
    """
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    from components.lib.manifests import PARALLEL_BLOBS
    from components.lib.object_transfers import PART_BYTES, PARTS_AT_A_TIME
    from components.lib.objects import ObjectBucket

    bucket = ObjectBucket(f"s3://bench/p?endpoint={endpoint}")
    own = TransferConfig()
    same = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=PARTS_AT_A_TIME)
    paths = sorted(folder.iterdir())
    target = folder / "out"
    target.mkdir()

    def ours(move: Callable[[Path], object]) -> Callable[[], object]:
        def run() -> None:
            with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
                list(pool.map(move, paths))

        return run

    def theirs(verb: str, config: Any) -> Callable[[], object]:
        def run() -> None:
            with create_transfer_manager(boto, config) as manager:
                ways = {
                    "put": lambda path: manager.upload(str(path), "bench", path.name),
                    "get": lambda path: manager.download(
                        "bench", path.name, str(target / path.name)
                    ),
                }
                for future in [ways[verb](path) for path in paths]:
                    future.result()

        return run

    moves: dict[str, Callable[[Path], object]] = {
        "put": lambda path: bucket.upload(path.name, path),
        "get": lambda path: bucket.download(path.name, target / path.name),
    }
    sides = {
        verb: {
            "ours": ours(move),
            "boto3": theirs(verb, own),
            "boto3 so set": theirs(verb, same),
        }
        for verb, move in moves.items()
    }
    if s3fs is not None and len(paths) == 1:
        other, path = s3fs, str(paths[0])
        sides["put"]["s3fs"] = lambda: other("put", path, "bench/third")
        sides["get"]["s3fs"] = lambda: other("get", "bench/third", str(target / "third"))
    return sides


def _rounds(sides: dict[str, Callable[[], object]], repeats: int) -> Iterator[dict[str, float]]:
    """Time every side once a round, each round in another order."""
    names = list(sides)
    for number in range(repeats):
        times = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            sides[name]()
            times[name] = time.perf_counter() - start
        yield times


def stage(megabytes: int, repeats: int) -> None:
    from components.lib.collect import drop
    from components.lib.streaming import stream_files
    from components.storage import Store, Tiers

    files, found = 16, []
    with tempfile.TemporaryDirectory() as name, swift_bucket(Path(name)) as (endpoint, _):
        root = Path(name)
        warm = f"s3://bench/warm?endpoint={endpoint}"
        store = Store(Tiers(hot=str(root / "hot"), warm=warm, cold=str(root / "cold")))
        (root / "in").mkdir()
        names = [f"shard-{n:02d}" for n in range(files)]
        for file in names:
            (root / "in" / file).write_bytes(os.urandom((megabytes << 20) // files))
        uri = store.put_folder(root / "in", kind="bench", tier="warm")
        for number in range(repeats):
            times = {}
            start = time.perf_counter()
            store.fetch(uri, root / f"cold-start-{number}")
            times["stage-in"] = time.perf_counter() - start
            start = time.perf_counter()
            store.fetch(uri, root / f"hit-{number}")
            times["cache hit"] = time.perf_counter() - start
            _empty_hot(store, uri, drop)
            start = time.perf_counter()
            stream = stream_files(store, uri, names, root / f"stream-{number}")
            next(stream).read_bytes()
            times["first file of a stream"] = time.perf_counter() - start
            for path in stream:
                path.read_bytes()
            times["stream"] = time.perf_counter() - start
            _empty_hot(store, uri, drop)
            found.append(times)
    for key in found[0]:
        seconds = statistics.median(times[key] for times in found)
        size = megabytes / files if key.startswith("first") else megabytes
        print(f"{key}: {seconds:.3f} s, {size / seconds:.0f} MiB/s")


def _empty_hot(store: Any, uri: str, drop: Callable[..., int]) -> None:
    """Leave nothing of the artifact on the hot tier, though it was used a moment ago."""
    root = store.local_root("hot")
    if "hot" in store.tiers_of(uri):
        drop(store, uri, "hot")
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
