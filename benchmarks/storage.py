"""Data plane measurements: ``python -m benchmarks.storage ingest|memory|objects|stage|year``.

ingest   rows/s and MB/s of the whole ingest step against `datasets` load + map with the same
         tokenizer, truncation and number of processes, alternating, median of the ratios.
memory   peak resident memory and speed of ingest on a file of a given size, no two rows alike.
objects  put and get MB/s of the store's object bucket against boto3's transfer manager on one
         Swift server, alternating, with few large and many small files; with ``--s3fs PYTHON`` also
         s3fs, by that interpreter.
stage    MB/s of laying an artifact out from a warm tier on Swift, from the hot tier, and as a
         stream of which each file is used as it comes.
year     a simulated year of 200 runs: our bill against simpler rules and the offline optimum.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SEED = 5
PIECE_MEGABYTES = 50.0
KEY_ID, SECRET = "test:tester", "testing"  # as in tests.swift_server
MIXES = ((48, 1), (8, 16), (1, 64), (1, 256))  # files, MiB of each

OURS = """
import json, sys, time
from components.ingest import step
from components.runtime import execute
from components.storage import Tiers
data, work = sys.argv[1:3]
data = {"train": {"uri": data}, "validation": {"fraction": 0.05}, "test": {"fraction": 0.05}}
arguments = {"task": "text-classification", "name": "b", "model": {"id": "minilm-l6"},
             "data": data, "max_length": 64}
config = {"step": "ingest", "arguments": arguments, "plan_hash": "0" * 64, "requested": {}}
if __name__ == "__main__":
    start = time.perf_counter()
    execute("ingest", step.run, config=json.dumps(config), inputs={}, run_id="b",
            store=Tiers.under(__import__("pathlib").Path(work)).to_json(), external=step.external)
    print(json.dumps({"seconds": time.perf_counter() - start}))
    for path in __import__("pathlib").Path(work).rglob("steps/ingest.json"):
        report = json.loads(path.read_text())
        print(json.dumps({"peak": report["peak_memory_bytes"], "phases": report["seconds"]}))
"""

THEIRS = """
import json, sys, time
data, work = sys.argv[1:3]
if __name__ == "__main__":
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from components.lib.references import resolve_tokenizer_folder
    tokenizer = AutoTokenizer.from_pretrained(resolve_tokenizer_folder({"id": "minilm-l6"}))
    start = time.perf_counter()
    rows = load_dataset("csv", data_files=data, cache_dir=work)["train"]
    def encode(batch):
        return tokenizer(batch["text"], truncation=True, max_length=64)
    rows = rows.map(encode, batched=True, num_proc=int(sys.argv[3]), remove_columns=["text"])
    print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(rows)}))
"""


def sentences() -> list[str]:
    """Return real sentences when ../shared has them, else those of the synthetic set."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    found: list[str] = []
    for name in ("banking77/train.csv", "twitter-financial-news/sent_train.csv"):
        if (shared / name).exists():
            with (shared / name).open(newline="", encoding="utf-8") as stream:
                found += [row["text"] for row in csv.DictReader(stream)]
    if not found:
        from components.ingest import synthetic

        rows = synthetic.sentences("synthetic://ner/train")
        found = [" ".join(word for word, _ in row) for row in rows]
    return found


def write_rows(path: Path, *, megabytes: float) -> int:
    """Write a CSV of about that size: pairs of real sentences with 2 % invented words, so that
    rare words keep coming as in real text; return the rows."""
    generator, pool, rows = random.Random(SEED), sentences(), 0
    letters = "abcdefghijklmnopqrstuvwxyz"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        while stream.tell() < megabytes * 1e6:
            for _ in range(1000):
                words = f"{generator.choice(pool)} {generator.choice(pool)}".split()
                for at in range(len(words)):
                    if generator.random() < 0.02:
                        words[at] = "".join(generator.choices(letters, k=8))
                writer.writerow([" ".join(words), str(generator.randrange(10))])
                rows += 1
    return rows


def run_script(script: str, *arguments: str) -> list[dict[str, float]]:
    """Run one side in a fresh process; return the JSON lines that it printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name, *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def ingest(megabytes: float, repeats: int) -> None:
    processes = len(os.sched_getaffinity(0))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.csv"
        rows = write_rows(data, megabytes=megabytes)
        size = data.stat().st_size / 1e6
        for number in range(repeats):
            ours = run_script(OURS, str(data), f"{folder}/ours{number}")
            theirs = run_script(THEIRS, str(data), f"{folder}/theirs{number}", str(processes))
            mine, other = ours[0]["seconds"], theirs[0]["seconds"]
            ratios.append(other / mine)
            print(f"ours {mine:.1f} s, datasets {other:.1f} s, ratio {other / mine:.2f}")
            print("  phases", ours[1]["phases"])
    print(
        f"{rows:,} rows, {size:.0f} MB, {processes} processes: ours {rows / mine:,.0f} rows/s, "
        f"{size / mine:.1f} MB/s; median ratio to datasets {statistics.median(ratios):.2f}"
    )


def write_documents(path: Path, *, megabytes: float) -> int:
    """Write JSON lines of about that size and return their number: texts of 1 to 40 real
    sentences, evenly in the logarithm, with 1 % invented words. A piece of them is written again
    and again, each time behind another first word, so that no two texts are alike."""
    generator, pool = random.Random(SEED), sentences()
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines: list[bytes] = []
    size = 0
    while size < min(megabytes, PIECE_MEGABYTES) * 1e6:
        count = round(math.exp(generator.uniform(0, math.log(40))))
        words = " ".join(generator.choices(pool, k=count)).split()
        for at in range(len(words)):
            if generator.random() < 0.01:
                words[at] = "".join(generator.choices(letters, k=8))
        row = {"label": str(generator.randrange(10)), "text": " ".join(words)}
        head, _, rest = json.dumps(row, ensure_ascii=False).partition('"text": "')
        lines.append(f'{head}"text": "\0{rest}\n'.encode())
        size += len(lines[-1])
    with path.open("wb") as stream:
        number = 0
        while stream.tell() < megabytes * 1e6:
            stream.writelines(line.replace(b"\0", b"w%05d " % number) for line in lines)
            number += 1
    return len(lines) * number


def memory(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        rows = write_documents(data, megabytes=megabytes)
        size = data.stat().st_size
        lines = run_script(OURS, str(data), f"{folder}/work")
        seconds = lines[0]["seconds"]
        print(
            f"{size / 1e9:.2f} GB, {rows:,} rows, no two alike: {seconds:.0f} s, "
            f"{rows / seconds:,.0f} rows/s, {size / 1e6 / seconds:.1f} MB/s, peak "
            f"{lines[1]['peak'] / 1e6:.0f} MB over all processes"
        )
        print("  phases", lines[1]["phases"])


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
    with parts; boto3's transfer manager with as many requests and parts as large as ours.
    """
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    from components.lib.manifests import PARALLEL_BLOBS
    from components.lib.object_transfers import CONCURRENCY, PART_BYTES
    from components.lib.objects import ObjectBucket

    bucket = ObjectBucket(f"s3://bench/p?endpoint={endpoint}")
    config = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=CONCURRENCY)
    paths = sorted(folder.iterdir())
    target = folder / "out"
    target.mkdir()

    def ours(move: Callable[[Path], object]) -> Callable[[], object]:
        def run() -> None:
            with ThreadPoolExecutor(PARALLEL_BLOBS) as pool:
                list(pool.map(move, paths))

        return run

    def theirs(verb: str) -> Callable[[], object]:
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

    sides: dict[str, dict[str, Callable[[], object]]] = {
        "put": {"ours": ours(lambda path: bucket.upload(path.name, path)), "boto3": theirs("put")},
        "get": {
            "ours": ours(lambda path: bucket.download(path.name, target / path.name)),
            "boto3": theirs("get"),
        },
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


def year(seeds: int) -> None:
    from benchmarks.storage_year import simulate
    from pipelines.cost.catalog import load_catalog

    catalog = load_catalog()
    classes = {
        name: prices
        for name in ("standard", "infrequent", "glacier-ir", "archive")
        if (prices := catalog.storage_class("aws", name)) is not None
    }
    ratios = []
    for seed in range(1, seeds + 1):
        bill = simulate(classes, seed)
        ratios.append(bill.ours / bill.optimum)
        print(
            f"seed {seed}: ours {bill.ours:.2f} USD, optimum {bill.optimum:.2f} (ratio "
            f"{ratios[-1]:.3f}), Intelligent-Tiering {bill.intelligent:.2f}, standard "
            f"{bill.standard:.2f}, ours without plans {bill.without_plans:.2f}; missed deadlines "
            f"{bill.missed}; hot {100 * bill.hot_share:.0f} % of bytes"
        )
    print(f"mean ratio to the offline optimum {statistics.mean(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["ingest", "memory", "objects", "stage", "year"])
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--files", type=int, help="only the mix of so many files (objects)")
    parser.add_argument("--s3fs", metavar="PYTHON", help="an interpreter that has s3fs")
    arguments = parser.parse_args()
    if arguments.what == "ingest":
        ingest(arguments.megabytes, arguments.repeats)
    elif arguments.what == "memory":
        memory(arguments.megabytes)
    elif arguments.what == "objects":
        objects(arguments.repeats, arguments.s3fs, arguments.files)
    elif arguments.what == "stage":
        stage(arguments.megabytes, arguments.repeats)
    else:
        year(arguments.repeats)


if __name__ == "__main__":
    main()
