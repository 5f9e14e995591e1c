"""Kill, damage and collect at random while processes use one store; then look for losses.

``python -m tests.faults.storage_soak --kills 1000``. Every round starts writers, readers, movers
and a collector as processes, kills them with SIGKILL at a random moment, sometimes damages a blob
that has a copy elsewhere, and then checks the invariants:

1. every artifact that was acknowledged (a run names it) is whole and verified on some tier;
2. every manifest on every tier has all its blobs, so no orphan manifest promises what is not there;
3. no blob's bytes differ from its name, except those damaged on purpose and not yet read.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from components.contract import DataError, SuanliError
from components.lib.buckets import blob_key
from components.lib.collect import collect, drop, evict
from components.storage import TIERS, Store, Tiers, file_sha256

# As long as in production in kind: far above what any operation takes on however busy a machine.
# Time passes between the rounds instead, when no process is at work: every file grows older.
GRACE_SECONDS = 3600.0
PASSING_SECONDS = 2 * GRACE_SECONDS
# Two or three operations a round at least.
LEAST_LOG_BYTES = 8
LONGEST_ROUND_SECONDS = 10.0
WORKERS = 3
KEPT_RUNS = 40


@dataclass(slots=True)
class Outcome:
    """What happened in all rounds."""

    kills: int = 0
    acknowledged: int = 0
    damaged: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def soak(folder: Path, *, kills: int, seed: int) -> Outcome:
    """Run rounds until `kills` processes were killed; see the module."""
    generator = random.Random(seed)
    tiers = Tiers.under(folder / "store")
    outcome = Outcome()
    damaged: set[str] = set()
    while outcome.kills < kills and not outcome.problems:
        seeds = [generator.random() for _ in range(WORKERS)]
        workers = [_fork(functools.partial(_work, tiers, folder, seed)) for seed in seeds]
        workers.append(_fork(functools.partial(_collect_for_ever, tiers)))
        _let_work(folder / "operations.log", generator.uniform(0.005, 0.3))
        kill(workers, outcome)
        if generator.random() < 0.2:
            _damage(Store(tiers), generator, damaged)
        if generator.random() < 0.6:
            _let_time_pass(Store(tiers))
        if outcome.kills % 20 < len(workers):
            _check(Store(tiers), damaged, outcome)
        _forget_old_runs(Store(tiers))
    _check(Store(tiers), damaged, outcome)
    return count(outcome, folder, damaged)


def count(outcome: Outcome, folder: Path, damaged: set[str]) -> Outcome:
    """Fill in what the workers noted below `folder`."""
    outcome.damaged = len(damaged)
    log = folder / "operations.log"
    outcome.operations = Counter(log.read_text().split()) if log.exists() else Counter()
    outcome.acknowledged = outcome.operations["put"]
    return outcome


def kill(workers: list[int], outcome: Outcome) -> None:
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        outcome.kills += 1


def _let_work(log: Path, seconds: float) -> None:
    """Wait so long, and on a busy machine until something was done."""
    before = log.stat().st_size if log.exists() else 0
    time.sleep(seconds)
    end = time.monotonic() + LONGEST_ROUND_SECONDS
    while time.monotonic() < end:
        if log.exists() and log.stat().st_size - before > LEAST_LOG_BYTES:
            return
        time.sleep(0.005)


def _fork(work: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException as error:  # reported by the parent through the log
        sys.stderr.write(f"worker: {type(error).__name__}: {error}\n")
    os._exit(0)


def _work(tiers: Tiers, folder: Path, seed: float) -> None:
    store, generator = Store(tiers), random.Random(seed)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix="worker-"))
    log = os.open(folder / "operations.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        operation = generator.choice(["put", "put", "get", "copy", "drop", "evict"])
        try:
            _operate(store, operation, generator, scratch)
        except SuanliError as error:
            # Collected, dropped or damaged meanwhile by another process: told, not hidden.
            if not isinstance(error, DataError):
                raise
            operation = f"refused-{operation}"
        os.write(log, f"{operation}\n".encode())


def _operate(store: Store, operation: str, generator: random.Random, scratch: Path) -> None:
    if operation == "put":
        folder = scratch / f"in-{generator.random()}"
        folder.mkdir()
        for number in range(generator.randint(1, 4)):
            # A small vocabulary of contents: most blobs are shared by several artifacts.
            body = bytes([generator.randrange(12)]) * generator.choice([10, 5_000, 200_000])
            (folder / f"f{number}").write_bytes(body)
        uri = store.put_folder(folder, kind="soak", tier=generator.choice(TIERS[:2]))
        store.put_json(f"runs/{os.getpid()}-{time.time_ns()}.json", {"output": uri})
        shutil.rmtree(folder)
        return
    runs = list(store.list_json("runs"))
    if operation == "evict":
        evict(store, limit_bytes=500_000)
    elif runs:
        document = store.get_json(generator.choice(runs))
        if document is None:
            return
        uri = document["output"]
        if operation == "get":
            out = scratch / f"out-{generator.random()}"
            store.fetch(uri, out)
            for entry in store.manifest(uri)["files"]:
                if file_sha256(out / entry["path"]) != entry["sha256"]:
                    raise AssertionError(f"{uri}: {entry['path']} was handed out corrupted")
            shutil.rmtree(out)
        elif operation == "copy":
            store.copy_to_tier(uri, generator.choice(TIERS))
        elif len(store.tiers_of(uri)) > 1:
            drop(store, uri, generator.choice(store.tiers_of(uri)))


def _collect_for_ever(tiers: Tiers) -> None:
    while True:
        collect(Store(tiers), dry_run=False, grace_seconds=GRACE_SECONDS, retention_days=None)


def _let_time_pass(store: Store) -> None:
    """Make everything as old as if hours had passed: what nothing names becomes collectable, and
    nobody counts on a blob any more."""
    roots = [root for tier in TIERS if (root := store.local_root(tier)) is not None]
    for root in roots:
        for path in [p for name in ("blobs", "manifests") for p in (root / name).rglob("*")]:
            if path.is_file():
                then = path.stat().st_mtime - PASSING_SECONDS
                os.utime(path, (then, then))


def _forget_old_runs(store: Store) -> None:
    """Let the collector have something to do: only the newest runs keep naming artifacts."""
    for key in sorted(store.list_json("runs"), key=_time_of)[:-KEPT_RUNS]:
        store.buckets["hot"].delete(key)


def _time_of(key: str) -> int:
    return int(key.rpartition("-")[2].removesuffix(".json"))


def _damage(store: Store, generator: random.Random, damaged: set[str]) -> None:
    """Flip a bit of a hot blob whose every artifact is named and whole on another tier too."""
    runs = [store.get_json(key)["output"] for key in store.list_json("runs")]
    candidates: dict[str, bool] = {}
    for entry in list(store.buckets["hot"].list("manifests")):
        uri = f"artifact://soak/{entry.key.rsplit('/', 1)[-1].removesuffix('.json')}"
        safe = uri in runs and any(_whole(store, uri, tier) for tier in TIERS[1:])
        for file in store.manifest(uri)["files"]:
            candidates[file["sha256"]] = candidates.get(file["sha256"], True) and safe
    digests = sorted(digest for digest, safe in candidates.items() if safe)
    if digests:
        digest = generator.choice(digests)
        path = store.local_root("hot") / blob_key(digest)
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.unlink()
        path.write_bytes(body)
        damaged.add(digest)


def _whole(store: Store, uri: str, tier: str) -> bool:
    try:
        store.verify(uri, tier)
        return tier in store.tiers_of(uri)
    except DataError:
        return False


def _check(store: Store, damaged: set[str], outcome: Outcome) -> None:
    problems = outcome.problems
    for tier in TIERS:
        bucket = store.buckets[tier]
        bucket.recover("")
        for entry in list(bucket.list("manifests")):
            body = bucket.read(entry.key) or b""
            name = entry.key.rsplit("/", 1)[-1].removesuffix(".json")
            if hashlib.sha256(body).hexdigest() != name:
                problems.append(f"{tier}: manifest {name} is damaged")
                continue
            for file in json.loads(body)["files"]:
                if bucket.entry(blob_key(file["sha256"])) is None:
                    problems.append(f"{tier}: orphan manifest {name} lacks {file['sha256']}")
        for entry in list(bucket.list("blobs")):
            name = entry.key.rsplit("/", 1)[-1]
            found = hashlib.sha256(bucket.read(entry.key) or b"").hexdigest()
            if found != name and name not in damaged:
                problems.append(f"{tier}: blob {name} is corrupted")
    for key in store.list_json("runs"):
        uri = store.get_json(key)["output"]
        with tempfile.TemporaryDirectory() as folder:
            try:
                store.fetch(uri, Path(folder) / "out")
            except DataError as error:
                problems.append(f"lost: {uri}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="suanli-soak-") as folder:
        outcome = soak(Path(folder), kills=arguments.kills, seed=arguments.seed)
    return report(outcome, start)


def report(outcome: Outcome, start: float) -> int:
    """Print what happened since the monotonic time `start`; return the exit code."""
    print(
        f"{outcome.kills} kills, {outcome.acknowledged} acknowledged puts, "
        f"{outcome.damaged} blobs damaged on purpose, {time.monotonic() - start:.0f} s"
    )
    print("operations:", dict(outcome.operations))
    print("\n".join(outcome.problems) or "no artifact lost or corrupted, no orphan manifest")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
