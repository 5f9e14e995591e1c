"""Whether the first epoch takes the dataset as it arrives, and in which order it has to.

Waiting for all of a large dataset before the first step leaves the machine idle; where the index
says what is to come (`components.lib.shard_index`), the first epoch begins with a few shards. Its
rows then come in another order (`components.lib.batching.streamed_epoch`), so the decision is made
once and kept beside the checkpoints: a run that goes on elsewhere, where the dataset has meanwhile
arrived or left, sees the rows that it has not seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.lib import batching
from components.lib.dataset import read_manifest
from components.lib.shard_index import SplitIndex, read_index
from components.lib.streaming import Stager
from components.runtime import StepContext
from components.storage import Store
from components.train.job import Job

# Less than this is there within a second or two from any store, and is read into memory at once.
LEAST_BYTES = 64 << 20
NEEDED = ("train", "validation")
DECISION = "stream.json"
# All that is read before the first step, besides shards.
HEAD = ("manifest.json", "index-", "tokenizer/")


def decide(store: Store, uri: str, job: Job) -> tuple[bool, list[str]]:
    """Return whether the first epoch streams, and what there is to say about it; what was decided
    before for the same checkpoints stands.

    Args:
        store: the tiers.
        uri: the dataset.
        job: the run; where it streams, its dataset's folder has the head after this.
    """
    kept = Path(job.checkpoints) / DECISION
    with contextlib.suppress(FileNotFoundError):
        return bool(json.loads(kept.read_bytes())["streamed"]), []
    before = any(Path(job.checkpoints).glob("step-*"))  # of a run that knew nothing of this
    streamed, notes = (False, []) if before else _judge(store, uri, job)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"streamed": streamed}))
    partial.replace(kept)
    return streamed, notes


def _judge(store: Store, uri: str, job: Job) -> tuple[bool, list[str]]:
    hot = store.local_root("hot") is not None and "hot" in store.tiers_of(uri)
    if hot or store.size_bytes(uri) < LEAST_BYTES:
        return False, []
    fetch_head(store, uri, Path(job.dataset))
    manifest = read_manifest(Path(job.dataset))
    shards = manifest["splits"].get("train", {}).get("shards", [])
    size = sum(int(shard["bytes"]) for shard in shards)
    if size < LEAST_BYTES or len(shards) <= batching.FIRST_SHARDS:
        return False, []
    why = _hindrance(read_index(Path(job.dataset), manifest), manifest, job)
    if why:
        return False, [f"the dataset was staged whole before the first step: {why}"]
    return True, ["the first epoch took the dataset's shards as they arrived"]


def fetch_head(store: Store, uri: str, folder: Path) -> int:
    """Lay out what a dataset says about itself, its manifest, index and tokenizer; return bytes."""
    files = [path for prefix in HEAD for path in store.fetch_part(uri, prefix, folder)]
    return sum(path.stat().st_size for path in files)


def _hindrance(
    index: dict[str, SplitIndex] | None, manifest: dict[str, Any], job: Job
) -> str | None:
    """Return why this dataset or job can't stream, None if it can."""
    if index is None:
        return "it has no index (ingest it again to get one)"
    parts = [index.get(name) for name in NEEDED]
    if any(part is None or not part.rows or "object" in part.columns.values() for part in parts):
        return "a split is empty, or has columns of no fixed size"
    if manifest.get("document_context"):
        return "document_context reads across shards"
    if job.listwise:
        return "listwise ranking takes groups of rows that may lie in several shards"
    if job.search:
        return "the search for a learning rate evaluates within the first epoch"
    return None


def order_of_need(index: dict[str, SplitIndex], job: Job) -> list[tuple[str, int]]:
    """Return (split, shard) in the order in which the run, from its newest checkpoint on, will
    need them: the rest of the first epoch, validation, then what only later epochs read again."""
    train = index["train"]
    epoch = batching.streamed_epoch(train.shard_rows, seed=job.seed)
    # Batches of similar length are exchanged within so many rows.
    block = job.global_batch * batching.BUCKET_BATCHES
    seen = newest_step(Path(job.checkpoints)) * job.global_batch // block * block
    coming = train.shard_of_row[epoch.rows[seen:]]
    first = np.full(len(train.files), len(epoch.rows), np.int64)
    shards, at = np.unique(coming, return_index=True)
    first[shards] = at
    place = np.argsort(first[epoch.shards], kind="stable")
    numbers = epoch.shards[place]
    later = first[numbers] == len(epoch.rows)
    validation = [("validation", n) for n in range(len(index["validation"].files))]
    return [
        *(("train", int(n)) for n in numbers[~later]),
        *validation,
        *(("train", int(n)) for n in numbers[later]),
    ]


def newest_step(checkpoints: Path) -> int:
    """Return the step of the newest checkpoint, 0 without one; whether it is whole the loop sees,
    which then waits a little longer for an older one's rows."""
    names = [path.name[5:] for path in checkpoints.glob("step-*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def stager(store: Store, uri: str, job: Job) -> Stager:
    """Return what brings the dataset for `job` into its folder, where `fetch_head` was."""
    folder = Path(job.dataset)
    index = read_index(folder, read_manifest(folder))
    assert index is not None  # decided by `_hindrance`
    needed = {name: index[name] for name in NEEDED}
    return Stager(store, uri, folder, needed, order_of_need(needed, job))


@contextlib.contextmanager
def taken_in(context: StepContext, uri: str, job: Job) -> Iterator[tuple[Job, Stager | None]]:
    """Have the dataset whole in the job's folder, or on its way there while the block runs; what
    came is counted in the step's report."""
    with context.phase("stage_in"):
        streamed, notes = decide(context.store, uri, job)
        context.notes.extend(notes)
    if not streamed:
        context.fetch(uri)
        yield job, None
        return
    with context.phase("stage_in"):
        context.bytes_in += fetch_head(context.store, uri, context.reads(uri))
    with stager(context.store, uri, job) as coming:
        yield dataclasses.replace(job, streamed=True), coming
    context.bytes_in += coming.bytes
    context.workload["streamed_bytes"] = coming.bytes
    context.workload["streamed_seconds"] = round(coming.seconds, 4)
