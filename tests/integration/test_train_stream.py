"""Training begins while its dataset still arrives."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from components.contract import StepError
from components.ingest import shards
from components.lib import batching, prefetch
from components.lib.buckets import blob_key
from components.lib.dataset import read_manifest
from components.lib.shard_index import read_index
from components.runtime import execute
from components.storage import Store, Tiers
from components.train import step, stream
from tests.ingesting import ingest, write
from tests.train_support import TINY

TASK = "text-classification"
ROWS, BLOCK, BATCH = 640, 32, 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Texts in 20 shards."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for _ in range(ROWS):
        label = int(random.integers(0, 2))
        words = random.choice(["north", "south", "rain"] if label else ["cash", "bond", "rain"], 6)
        lines.append(f"{' '.join(words[: random.integers(2, 7)])},{label}")
    body = "\n".join(lines) + "\n"
    held = "\n".join(lines[:65]) + "\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK_ROWS", BLOCK)
        names = ("train", "validation", "test")
        data = {n: write(folder, f"{n}.csv", body if n == "train" else held) for n in names}
        return ingest(folder / "w", data, TASK)[0]


def run_step(folder, dataset, monkeypatch, *, delay=0.0, **training):
    """Run the step on a dataset that only the warm tier holds, each file of it `delay` late."""
    monkeypatch.setattr(stream, "LEAST_BYTES", 1)
    # On a machine whose disk is nearly full the reserve would drop what these tests look for.
    monkeypatch.setattr(prefetch, "RESERVED_BYTES", 0)
    tiers = Tiers.under(folder / "store")
    store = Store(tiers)
    uri = store.put_folder(dataset, kind="dataset", tier="warm")
    real = Store.lay_out

    def late(self, entry, destination):
        if str(entry["path"]).startswith(("train-", "validation-")):
            time.sleep(delay * (1 + int(entry["sha256"][0], 16) / 8))
        return real(self, entry, destination)

    monkeypatch.setattr(Store, "lay_out", late)
    arguments = {
        "task": TASK, "model": TINY,
        "training": {"epochs": 2, "global_batch": BATCH, "precision": "fp32",
                     "learning_rate": 1e-3, "threads": 1, "dropout": 0.0, **training},
    }  # fmt: skip
    config = {"step": "train", "arguments": arguments, "plan_hash": "p", "requested": {}}
    try:
        output = execute(
            "train", step.run, config=json.dumps(config), inputs={"dataset": uri},
            store=tiers.to_json(), run_id="r",
        )  # fmt: skip
    finally:
        monkeypatch.setattr(Store, "lay_out", real)
    return store, output, store.get_json("runs/r/steps/train.json")


@pytest.fixture(scope="module")
def quick(dataset, tmp_path_factory):
    """A run whose shards come at once: store, output, report."""
    with pytest.MonkeyPatch.context() as patch:
        return run_step(tmp_path_factory.mktemp("quick"), dataset, patch)


def losses(report):
    return [point["loss"] for point in report["series"]["loss"]]


@pytest.mark.slow
def test_a_streamed_run_is_the_same_whenever_its_shards_arrive(
    dataset, quick, tmp_path, monkeypatch
):
    store, output, slow = run_step(tmp_path / "slow", dataset, monkeypatch, delay=1.0)
    assert output == quick[1]  # the model, bit for bit
    assert losses(quick[2]) == losses(slow)
    assert slow["seconds"]["stream_wait"] > 0.1
    assert slow["seconds"]["load"] > 0
    assert "the first epoch took the dataset's shards as they arrived" in slow["notes"]
    size = sum((dataset / s["file"]).stat().st_size
               for n in ("train", "validation")
               for s in read_manifest(dataset)["splits"][n]["shards"])  # fmt: skip
    assert slow["workload"]["streamed_bytes"] == size
    assert slow["workload"]["streamed_seconds"] > slow["seconds"]["stream_wait"] / 2
    assert slow["bytes_in"] > size
    [dataset_uri] = slow["metrics"]["artifacts_read"]
    assert "hot" in store.tiers_of(dataset_uri)


@pytest.mark.slow
def test_two_ranks_take_the_same_batches_as_one(dataset, quick, tmp_path, monkeypatch):
    _, _, two = run_step(tmp_path / "two", dataset, monkeypatch, delay=0.5, processes=2)
    assert two["workload"]["processes"] == 2
    assert len(losses(two)) == 2 * ROWS // BATCH
    assert np.abs(np.array(losses(quick[2])) - losses(two)).max() <= 1e-3  # rounding, amplified


def children():
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found += [child] if "components.train.loop" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_killed_in_the_first_epoch_it_goes_on_with_what_it_has_not_seen(
    dataset, quick, tmp_path, monkeypatch
):
    _, expected, straight = quick
    killed = threading.Event()

    def kill_when_it_has_a_checkpoint():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not killed.is_set():
            saved = list(tmp_path.glob("killed/store/hot/scratch/*/checkpoints/step-*/whole.json"))
            for child in children() if saved else []:
                os.kill(child.pid, signal.SIGKILL)
                at.append(max(int(path.parent.name[5:]) for path in saved))
                killed.set()
                return
            time.sleep(0.005)

    at: list[int] = []
    killer = threading.Thread(target=kill_when_it_has_a_checkpoint)
    killer.start()
    _, output, report = run_step(
        tmp_path / "killed", dataset, monkeypatch, delay=0.6, checkpoint_interval_s=0.01
    )
    killed.set()
    killer.join()
    assert at
    assert at[0] < ROWS // BATCH  # still in the first epoch
    assert any(note.startswith("resumed from step") for note in report["notes"])
    assert report["workload"]["steps"] < 2 * ROWS // BATCH
    assert losses(report) == losses(straight)
    assert output == expected


@pytest.mark.slow
def test_a_damaged_shard_ends_the_step_before_it_is_used(dataset, tmp_path, monkeypatch):
    index = read_index(dataset, read_manifest(dataset))["train"]
    epoch = batching.streamed_epoch(index.shard_rows, seed=0)
    store = Store(Tiers.under(tmp_path / "store"))
    uri = store.put_folder(dataset, kind="dataset", tier="warm")
    last = index.files[int(epoch.shards[-1])]
    entry = next(e for e in store.manifest(uri)["files"] if e["path"] == last)
    path = store.local_root("warm") / blob_key(entry["sha256"])
    path.chmod(0o644)
    path.write_bytes(b"x" * int(entry["bytes"]))
    # What is stored again as a blob that is there is looked at, not written.
    monkeypatch.setattr(Store, "put_folder", lambda *_, **__: uri)
    with pytest.raises(StepError, match=r"does not arrive whole: blob .* corrupted on warm"):
        run_step(tmp_path, dataset, monkeypatch, checkpoint_interval_s=0.0)
    error = store.get_json("runs/r/errors/train.json")
    assert (error["kind"], error["exit_code"]) == ("step_failed", 1)
    assert "run the producing step again" in error["remedy"]
    # Only whole steps are counted, and all those whose rows had come.
    needed = np.flatnonzero(index.shard_of_row[epoch.rows] == epoch.shards[-1])[0] // BATCH
    saved = [int(p.name[5:]) for p in Path(tmp_path).glob("store/hot/scratch/*/checkpoints/step-*")]
    assert saved
    assert max(saved) <= needed
