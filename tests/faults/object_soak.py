"""The soak with the warm tier on a real S3 server behind a faulty network.

``python -m tests.faults.object_soak --kills 200``: OpenStack Swift, and between it and the store a
proxy that spoils one request in twenty. Everything else is as in `storage_soak`.

Clients of an object store do not outlive a fork, so the process that kills uses none itself: every
look at the store is a child's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.lib import objects
from components.lib.objects import ObjectBucket
from components.storage import Store, Tiers
from tests.fault_proxy import fault_proxy
from tests.faults import storage_soak as soak
from tests.swift_server import KEY_ID, SECRET, client, swift

FAULTS = ["reset", "internal", "slow_down", "truncated", "wrong_bytes", "wrong_upload"]
SHARE = 0.05
ROUND_SECONDS = (0.5, 3.0)
# Longer than anything on an object store is counted on; its times are in whole seconds.
PASSING_SECONDS, TICK_SECONDS = 4 * 3600.0, 2.5


def age_objects(when: Path) -> None:
    """Let objects older than the time in the file `when` look hours older; for this process."""
    real_entry, real_pages = ObjectBucket.entry, ObjectBucket._pages
    limit = float(when.read_text()) if when.exists() else 0.0

    def aged(entry: objects.Entry) -> objects.Entry:
        if entry.modified >= limit:
            return entry
        return dataclasses.replace(entry, modified=entry.modified - PASSING_SECONDS)

    def entry(self: ObjectBucket, key: str) -> objects.Entry | None:
        found = real_entry(self, key)
        return None if found is None else aged(found)

    ObjectBucket.entry = entry  # type: ignore[method-assign]
    ObjectBucket._pages = lambda self, p: [aged(e) for e in real_pages(self, p)]  # type: ignore


def in_child(work: Callable[[], Any], folder: Path) -> Any:
    """Run `work` in a forked process and return its JSON-able result."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = soak._fork(lambda: answer.write_text(json.dumps(work())) and None)
    os.waitpid(child, 0)
    return json.loads(answer.read_text())


def run(folder: Path, *, kills: int, seed: int, direct: str, faulty: str) -> soak.Outcome:
    """Run rounds until `kills` processes were killed; work through `faulty`, look by `direct`."""
    generator, outcome = random.Random(seed), soak.Outcome()
    hot, cold = str(folder / "hot"), str(folder / "cold")
    tiers, looked = (
        Tiers(hot=hot, cold=cold, warm=f"s3://soak/warm?endpoint={endpoint}")
        for endpoint in (faulty, direct)
    )
    when, damaged = folder / "passed", set[str]()

    def with_store(work: Callable[[Store], Any]) -> Callable[[], Any]:
        def inside() -> Any:
            age_objects(when)
            return work(Store(looked))

        return inside

    def damage(store: Store) -> list[str]:
        found = set(damaged)
        soak._damage(store, random.Random(generator.random()), found)
        return sorted(found)

    def check(store: Store) -> list[str]:
        found = soak.Outcome()
        soak._check(store, damaged, found)
        return found.problems

    def tidy(store: Store) -> None:
        soak._forget_old_runs(store)

    while outcome.kills < kills and not outcome.problems:
        seeds = [generator.random() for _ in range(soak.WORKERS)]
        works = [functools.partial(soak._work, tiers, folder, seed) for seed in seeds]
        works.append(functools.partial(soak._collect_for_ever, tiers))
        workers = [soak._fork(with_store(lambda _, work=work: work())) for work in works]
        soak._let_work(folder / "operations.log", generator.uniform(*ROUND_SECONDS))
        soak.kill(workers, outcome)
        if generator.random() < 0.2:
            damaged = set(in_child(with_store(damage), folder))
        if generator.random() < 0.5:
            soak._let_time_pass(Store(dataclasses.replace(tiers, warm=str(folder / "none"))))
            when.write_text(str(time.time() + TICK_SECONDS / 2))
            time.sleep(TICK_SECONDS)
        if outcome.kills % 20 < len(workers):
            outcome.problems += in_child(with_store(check), folder)
        in_child(with_store(tidy), folder)
    outcome.problems += in_child(with_store(check), folder)
    return soak.count(outcome, folder, damaged)


def serve(folder: Path) -> int:
    """Run the server and the proxy in a child, which writes the endpoints; return its number."""

    def work() -> None:
        with swift(folder / "swift") as target, fault_proxy(target, seed=3) as (address, proxy):
            client(target).create_bucket(Bucket="soak")
            proxy.faults, proxy.share = FAULTS, SHARE
            (folder / "endpoints").write_text(f"{target} {address}")
            end = []
            signal.signal(signal.SIGTERM, lambda *_: end.append(1))
            while not end:
                time.sleep(0.2)
            print("faults met:", dict(proxy.met), flush=True)

    return soak._fork(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="suanli-soak-") as name:
        folder = Path(name)
        server = serve(folder)
        try:
            while not (folder / "endpoints").exists():
                if os.waitpid(server, os.WNOHANG) != (0, 0):
                    raise SystemExit("the server did not start")
                time.sleep(0.1)
            direct, faulty = (folder / "endpoints").read_text().split()
            kills, seed = arguments.kills, arguments.seed
            outcome = run(folder, kills=kills, seed=seed, direct=direct, faulty=faulty)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGTERM)
                os.waitpid(server, 0)
    return soak.report(outcome, start)


if __name__ == "__main__":
    sys.exit(main())
