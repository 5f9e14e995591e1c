"""Artifacts come to the hot tier ahead of their use, and room is made for them."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import namedtuple

import pytest

from components.contract import DataError
from components.lib import prefetch
from components.lib.buckets import blob_key
from components.lib.prefetch import Prefetch, artifacts_in, make_room
from components.lib.streaming import stream_files
from components.runtime import execute
from components.storage import Store, Tiers

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def store(tmp_path, monkeypatch):
    # No reserve: on a machine whose disk is nearly full it would drop what these tests look for.
    monkeypatch.setattr(prefetch, "RESERVED_BYTES", 0)
    return Store(Tiers.under(tmp_path / "store"))


def put(store, tmp_path, *, tier="warm", **files):
    folder = tmp_path / f"in-{time.time_ns()}"
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return store.put_folder(folder, kind="x", tier=tier)


def test_inputs_come_while_the_step_starts(store, tmp_path):
    uri = put(store, tmp_path, a=b"x" * 1000)
    seen = {}

    def run(context):
        end = time.monotonic() + 20
        while uri and "hot" not in store.tiers_of(uri) and time.monotonic() < end:
            time.sleep(0.005)  # imports and set-up
        seen["hot before it was asked for"] = "hot" in store.tiers_of(uri)
        context.fetch(uri)
        return context.put(context.folder("empty"), kind="y")

    config = {"step": "s", "arguments": {}, "plan_hash": "0" * 64, "requested": {}}
    inputs = {"one": uri, "many": [uri, "artifact://gone/" + "0" * 64], "text": "no artifact"}
    assert artifacts_in(inputs) == [uri, "artifact://gone/" + "0" * 64]
    execute(
        "place", run, config=json.dumps(config), inputs=inputs, store=store.tiers.to_json(),
        run_id="r",
    )  # fmt: skip
    assert seen == {"hot before it was asked for": True}


def test_whoever_needs_it_waits_and_leaving_stops_after_the_file_it_is_at(
    store, tmp_path, monkeypatch
):
    first, second = put(store, tmp_path, a=b"1"), put(store, tmp_path, a=b"2", b=b"3")
    go = threading.Event()
    real = store.copy_to_tier

    def slow(uri, tier, **options):
        go.wait(20)
        real(uri, tier, **options)

    monkeypatch.setattr(store, "copy_to_tier", slow)
    with Prefetch(store, [first, second]) as coming:
        go.set()
        coming.wait(first)
        assert "hot" in store.tiers_of(first)
        coming.wait("artifact://x/" + "0" * 64)  # nobody asked for that one: no wait
        go.clear()
        threading.Timer(0.05, go.set).start()
    assert store.tiers_of(second) in (["warm"], ["hot", "warm"])
    with Prefetch(store, [second]) as coming:
        pass
    if "hot" not in store.tiers_of(second):
        assert len(list(store.buckets["hot"].list("manifests"))) == 1  # never half of one


def test_room_is_made_from_what_another_tier_holds(store, tmp_path, monkeypatch):
    old = put(store, tmp_path, a=b"o" * 1000)
    store.fetch(old, tmp_path / "out")
    only = put(store, tmp_path, tier="hot", a=b"n" * 1000)
    monkeypatch.setattr(prefetch, "RESERVED_BYTES", 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000, 0, 5_000))
    assert make_room(store, 1000) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000, 9_500, 500))
    assert make_room(store, 1000) == [old]
    assert store.tiers_of(old) == ["warm"]
    assert store.tiers_of(only) == ["hot"]


def test_a_stream_reads_ahead_but_not_everything_and_ends_at_a_damaged_file(
    store, tmp_path, monkeypatch
):
    files = {f"f{n}": b"%d" % n * 50 for n in range(12)}
    uri = put(store, tmp_path, **files)
    began = []
    real = store.lay_out
    monkeypatch.setattr(store, "lay_out", lambda e, d: (began.append(e["path"]), real(e, d))[1])
    stream = stream_files(store, uri, sorted(files), tmp_path / "out", ahead=2)
    assert next(stream).read_bytes() == files["f0"]
    time.sleep(0.05)
    assert 1 <= len(began) <= 4
    stream.close()
    bad = next(e for e in store.manifest(uri)["files"] if e["path"] == "f5")
    path = store.local_root("warm") / blob_key(bad["sha256"])
    path.chmod(0o644)
    path.write_bytes(b"x" * int(bad["bytes"]))
    (store.local_root("hot") / blob_key(bad["sha256"])).unlink(missing_ok=True)
    with pytest.raises(DataError, match="corrupted on warm"):
        list(stream_files(store, uri, ["f5"], tmp_path / "again"))
