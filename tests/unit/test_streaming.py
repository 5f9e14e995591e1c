"""A dataset that arrives: its index, the plan of its first epoch, and who waits for what."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.contract import DataError, StepError
from components.ingest import shards
from components.lib import batching, flat_split, streaming
from components.lib.buckets import blob_key
from components.lib.dataset import load_split, read_manifest
from components.lib.images import pixels
from components.lib.shard_index import join_rows, read_index, write_row
from components.lib.streaming import Arrivals, Stager
from components.storage import Store, Tiers
from components.train import stream
from components.train.feed import take
from tests.ingesting import ingest, write
from tests.train_support import make_dataset, make_job

BLOCK = 16


@pytest.fixture
def store(tmp_path):
    return Store(Tiers.under(tmp_path / "store"))


def texts(folder, monkeypatch, rows=160, validation=40):
    """Ingest short texts into shards of 16 rows; return the folder."""
    monkeypatch.setattr(shards, "BLOCK_ROWS", BLOCK)
    body = [f"text {n} {'here ' * (n % 7)}end,{n % 3}\n" for n in range(rows)]
    data = {
        "train": write(folder, "t.csv", "text,label\n" + "".join(body)),
        "validation": write(folder, "v.csv", "text,label\n" + "".join(body[:validation])),
        "test": write(folder, "e.csv", "text,label\n" + "".join(body[:20])),
    }
    return ingest(folder / "w", data, "text-classification")[0]


def head(store, folder, destination):
    uri = store.put_folder(folder, kind="dataset", tier="warm")
    stream.fetch_head(store, uri, destination)
    return uri, read_index(destination, read_manifest(destination))


def test_the_index_says_what_the_shards_hold(tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    manifest = read_manifest(folder)
    index = read_index(folder, manifest)
    for name, part in index.items():
        split = load_split(folder, name)
        assert part.lengths.tolist() == split.lengths.tolist()
        assert part.tokens.tolist() == np.unique(split.input_ids).tolist()
        values, counts = np.unique(split.columns["label"], return_counts=True)
        assert part.label_counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert part.columns == {"input_ids": "int32", "label": "int32", "example": "int64"}
    assert index["train"].shard_rows.tolist() == [BLOCK] * 10
    path = folder / manifest["index"]["file"]
    body = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match="index is missing"):
        read_index(folder, manifest)
    path.write_bytes(body[:-1] + b"x")
    with pytest.raises(DataError, match="does not match its SHA-256"):
        read_index(folder, manifest)
    path.write_bytes(body)
    other = json.loads(json.dumps(manifest))
    other["splits"]["train"]["shards"].reverse()
    with pytest.raises(DataError, match="other train shards"):
        read_index(folder, other)
    assert read_index(folder, {**manifest, "index": None}) is None


@pytest.mark.parametrize("task", ["token-classification", "text-pair-ranking", "causal-lm"])
def test_the_index_of_other_tasks(task, tmp_path):
    folder = make_dataset(tmp_path / "d", task, rows=20)
    part = indexed(folder, task)["train"]
    split = load_split(folder, "train")
    assert part.lengths.tolist() == split.lengths.tolist()
    assert part.tokens.tolist() == np.unique(split.input_ids).tolist()
    if task == "token-classification":
        scored = split.columns["labels"][split.columns["labels"] >= 0]
        assert part.label_counts == {n: int((scored == n).sum()) for n in (0, 1)}
        assert part.columns["labels"] == "int32"
    else:
        assert part.label_counts == {}
    assert part.label_max == (1.0 if task == "text-pair-ranking" else None)


def indexed(folder, task):
    """Give a dataset of one shard a split its index."""
    manifest, rows = read_manifest(folder), []
    for name in ("train", "validation"):
        rows.append(folder.parent / f"{name}.row")
        table = pq.read_table(folder / f"{name}.parquet")
        write_row(rows[-1], table, task=task, split=name, file=f"{name}.parquet")
    manifest["index"] = join_rows(rows, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_index(folder, manifest)


def test_a_broken_ingest_leaves_the_same_index(tmp_path, monkeypatch):
    whole = read_manifest(texts(tmp_path / "whole", monkeypatch))
    real, done = shards.write_block, []

    def dies(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    monkeypatch.setattr(shards, "write_block", dies)
    with pytest.raises(KeyboardInterrupt):
        texts(tmp_path / "broken", monkeypatch)
    monkeypatch.setattr(shards, "write_block", real)
    assert read_manifest(texts(tmp_path / "broken", monkeypatch))["index"] == whole["index"]


def test_the_first_epoch_has_each_row_once_and_begins_with_few_shards():
    random = np.random.default_rng(0)
    for count in (1, 2, 5, 40):
        sizes = random.integers(0, 300, count) + 1
        epoch = batching.streamed_epoch(sizes, seed=3)
        assert sorted(epoch.rows.tolist()) == list(range(sizes.sum()))
        assert sorted(epoch.shards.tolist()) == list(range(count))
    sizes = np.full(40, 300)
    epoch = batching.streamed_epoch(sizes, seed=3)
    shard = np.repeat(np.arange(40), sizes)[epoch.rows]
    assert set(shard[:100]) <= set(epoch.shards[: batching.FIRST_SHARDS])
    window = 300 * (batching.WINDOW_SHARDS + batching.FIRST_SHARDS)
    for place, number in enumerate(epoch.shards):
        used = np.flatnonzero(shard == number)
        assert used.max() - used.min() < window  # what a window has to hold
        assert used.min() >= 300 * (place - batching.WINDOW_SHARDS)
    assert not np.array_equal(epoch.rows, batching.streamed_epoch(sizes, seed=4).rows)


@pytest.mark.parametrize("bucketed", [False, True])
def test_streamed_batches_are_full_and_have_each_row_once(bucketed):
    sizes = np.full(12, 50)
    order = batching.streamed_epoch(sizes, seed=1).rows
    lengths = np.random.default_rng(0).integers(4, 60, 600)
    batches = batching.streamed_batches(order, lengths, 16, seed=1, bucketed=bucketed)
    assert sorted(np.concatenate(batches).tolist()) == list(range(600))
    assert sorted(map(len, batches)) == [8] + [16] * 37
    spread = np.mean([lengths[b].max() - lengths[b].min() for b in batches])
    assert bool(spread < 10) == bucketed


def test_what_arrives_is_what_was_stored_whatever_the_order(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri, index = head(store, folder, tmp_path / "d")
    real = store.lay_out

    def delayed(entry, destination):
        time.sleep(int(entry["sha256"][:2], 16) / 255 * 0.02)
        return real(entry, destination)

    monkeypatch.setattr(store, "lay_out", delayed)
    order = [(n, i) for n in ("validation", "train") for i in range(len(index[n].files))][::-1]
    with Stager(store, uri, tmp_path / "d", index, order) as coming:
        arrivals = Arrivals(tmp_path / "d", index)
        for name in ("train", "validation"):
            whole, arrived = load_split(folder, name), arrivals.split(name)
            rows = np.random.default_rng(0).permutation(whole.rows)[:50]
            arrivals.wait(name, rows)
            for column, values in take(whole, rows).columns.items():
                assert np.array_equal(take(arrived, rows).columns[column], values)
            arrivals.wait(name)
            assert isinstance(arrived.input_ids, np.memmap)
            assert np.array_equal(arrived.input_ids, whole.input_ids)
            assert np.array_equal(arrived.offsets, whole.offsets)
            assert arrived.lengths.dtype == whole.lengths.dtype
        end = time.monotonic() + 20
        while "hot" not in store.tiers_of(uri) and time.monotonic() < end:
            time.sleep(0.01)
    assert "hot" in store.tiers_of(uri)  # the test split as well, for later steps
    assert coming.bytes == sum((folder / f).stat().st_size for n in ("train", "validation")
                               for f in index[n].files)  # fmt: skip
    assert coming.failure is None


def test_images_arrive_too(store, tmp_path):
    folder = make_dataset(tmp_path / "in", "image-classification", rows=20)
    indexed(folder, "image-classification")
    uri, index = head(store, folder, tmp_path / "d")
    with Stager(store, uri, tmp_path / "d", index, [("train", 0), ("validation", 0)]):
        arrivals = Arrivals(tmp_path / "d", index)
        arrivals.wait("train")
        whole, arrived = load_split(folder, "train"), arrivals.split("train")
        assert list(arrived.images) == list(whole.images)
        assert arrived.lengths.tolist() == whole.lengths.tolist()
        every = np.arange(20)
        assert np.array_equal(pixels(arrived, every, 16), pixels(whole, every, 16))


def damage(store, uri, name):
    entry = next(e for e in store.manifest(uri)["files"] if e["path"] == name)
    path = store.local_root("warm") / blob_key(entry["sha256"])
    path.chmod(0o644)
    path.write_bytes(b"x" * int(entry["bytes"]))


def test_a_damaged_shard_is_an_error_for_who_needs_it_and_only_then(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri, index = head(store, folder, tmp_path / "d")
    damage(store, uri, index["train"].files[7])
    order = [("train", i) for i in range(10)]
    with Stager(store, uri, tmp_path / "d", index, order) as coming:
        arrivals = Arrivals(tmp_path / "d", index)
        arrivals.wait("train", np.arange(7 * BLOCK))
        with pytest.raises(StepError, match=r"does not arrive whole: blob .* corrupted on warm"):
            arrivals.wait("train", np.array([7 * BLOCK]))
    assert coming.failure is not None
    assert "hot" not in store.tiers_of(uri)


def test_a_shard_that_is_not_as_the_index_says_is_refused(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri, index = head(store, folder, tmp_path / "d")
    with Stager(store, uri, tmp_path / "d", index, []) as coming:
        flat = coming._flat["train"]
        for number, wrong in ((0, index["train"].files[1]), (1, index["validation"].files[0])):
            with pytest.raises(DataError, match="not the shard that the index describes"):
                flat.fill(number, folder / wrong)
        assert not flat.is_ready(0)


def test_readers_do_not_wait_for_a_stager_that_was_killed(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri, index = head(store, folder, tmp_path / "d")
    with Stager(store, uri, tmp_path / "d", index, []):
        pass  # gone, without a word
    monkeypatch.setattr(streaming, "SILENT_SECONDS", 0.2)
    with pytest.raises(StepError, match="nobody has brought the dataset"):
        Arrivals(tmp_path / "d", index).wait("train")


def test_a_full_disk_is_an_error_and_not_a_signal(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri, index = head(store, folder, tmp_path / "d")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flat_split.os, "pwrite", full)
    with (
        Stager(store, uri, tmp_path / "d", index, [("train", 0)]),
        pytest.raises(StepError, match="No space left on device"),
    ):
        Arrivals(tmp_path / "d", index).wait("train")


def test_few_shards_are_in_memory_or_on_their_way_at_a_time(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch, rows=480)
    uri, index = head(store, folder, tmp_path / "d")
    lock, flying, most = threading.Lock(), [0], [0]
    real_fill, real_lay = flat_split.FlatSplit.fill, store.lay_out
    filled = []

    def lay(entry, destination):
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        path = real_lay(entry, destination)
        with lock:
            flying[0] -= 1
        laid.append(path)
        return path

    laid = []

    def slow(self, number, path):
        time.sleep(0.01)
        assert len(laid) - len(filled) <= streaming.AHEAD_SHARDS + 2
        filled.append(number)
        real_fill(self, number, path)

    monkeypatch.setattr(store, "lay_out", lay)
    monkeypatch.setattr(flat_split.FlatSplit, "fill", slow)
    order = [("train", i) for i in range(30)]
    with Stager(store, uri, tmp_path / "d", index, order) as coming:
        Arrivals(tmp_path / "d", index).wait("train")
    assert coming.failure is None
    assert filled == list(range(30))
    assert most[0] <= streaming.AHEAD_SHARDS


def test_the_decision_is_made_once(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    uri = store.put_folder(folder, kind="dataset", tier="warm")

    def asked(name, **fields):
        job = make_job(tmp_path / name, tmp_path / name / "d", "text-classification", **fields)
        return stream.decide(store, uri, job)

    assert asked("small") == (False, [])
    monkeypatch.setattr(stream, "LEAST_BYTES", 1)
    streamed, [note] = asked("large")
    assert streamed
    assert "as they arrived" in note
    assert asked("listwise", listwise=True)[1] == [
        "the dataset was staged whole before the first step: listwise ranking takes groups of rows "
        "that may lie in several shards"
    ]
    assert "evaluates within the first epoch" in asked("search", search=2)[1][0]
    assert not asked("small")[0]  # as before, or a resumed run would see other rows
    (tmp_path / "old/checkpoints/step-00000004").mkdir(parents=True)
    assert asked("old") == (False, [])
    store.fetch(uri, tmp_path / "hot")
    assert asked("hot") == (False, [])
    assert asked("large") == (True, [])


def test_a_dataset_without_an_index_is_staged_whole_and_says_so(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch)
    manifest = read_manifest(folder)
    (folder / manifest.pop("index")["file"]).unlink()
    path = folder / "manifest.json"
    path.unlink()  # hard-linked to the store
    path.write_text(json.dumps(manifest))
    uri = store.put_folder(folder, kind="dataset", tier="warm")
    monkeypatch.setattr(stream, "LEAST_BYTES", 1)
    job = make_job(tmp_path / "old", tmp_path / "old/d", "text-classification")
    streamed, [note] = stream.decide(store, uri, job)
    assert not streamed
    assert "it has no index" in note


def test_a_resumed_run_brings_first_what_it_has_not_seen(store, tmp_path, monkeypatch):
    folder = texts(tmp_path, monkeypatch, rows=480)
    index = read_index(folder, read_manifest(folder))
    job = make_job(tmp_path, folder, global_batch=8)
    monkeypatch.setattr(batching, "BUCKET_BATCHES", 1)
    epoch = batching.streamed_epoch(index["train"].shard_rows, seed=0)
    everything = stream.order_of_need(index, job)
    used = index["train"].shard_of_row[epoch.rows]
    numbers = [n for split, n in everything if split == "train"]
    assert numbers == list(dict.fromkeys(used.tolist()))
    assert everything[-3:] == [("validation", n) for n in range(3)]
    (tmp_path / "checkpoints/step-00000040").mkdir(parents=True)
    later = stream.order_of_need(index, job)
    assert sorted(later) == sorted(everything)
    split_at = later.index(("validation", 0))
    unseen = set(index["train"].shard_of_row[epoch.rows[320:]].tolist())
    assert {n for _, n in later[:split_at]} == unseen
    assert 0 < len(unseen) < 30


def test_a_pod_of_a_train_job_brings_its_dataset_too(store, tmp_path, monkeypatch):
    import torch

    from components.train import node
    from components.train.setup import load_data
    from components.train.world import World

    folder = texts(tmp_path, monkeypatch)
    uri = store.put_folder(folder, kind="dataset", tier="warm")
    monkeypatch.setattr(stream, "LEAST_BYTES", 1)
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    for name, least, streamed in (("a", 1, True), ("b", 1 << 40, False)):
        monkeypatch.setattr(stream, "LEAST_BYTES", least)
        job = make_job(tmp_path / name, node.place_of(uri), "text-classification",
                       class_weights="balanced")  # fmt: skip
        with node.taken_in(store, uri, world, job) as ready:
            assert ready.streamed is streamed
            data = load_data(ready)
            if streamed:
                data.arrivals.wait("train")
                weights = data.task.class_weights
            assert data.train.tokens == load_split(folder, "train").tokens
    assert np.array_equal(data.task.class_weights, weights)
