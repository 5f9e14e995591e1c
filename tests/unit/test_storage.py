"""The store on local folders: atomic, verified, deduplicated, safe to collect."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from components.contract import DataError, StepError
from components.lib.blobs import open_bucket
from components.lib.buckets import blob_key
from components.lib.collect import collect, drop, evict
from components.lib.folders import DOOMED_PREFIX, LocalBucket, _process_table
from components.lib.retry import retrying
from components.storage import Store, Tiers, check_manifest, file_sha256, parse_uri


@pytest.fixture
def store(tmp_path):
    return Store(Tiers.under(tmp_path / "store"))


def folder_of(tmp_path, **files):
    folder = tmp_path / f"in-{time.time_ns()}"
    folder.mkdir()
    for name, body in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return folder


def blob_path(store, tier, digest):
    return store.local_root(tier) / blob_key(digest)


def digests(store, uri):
    return [entry["sha256"] for entry in store.manifest(uri)["files"]]


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def age_all(store, tier, seconds):
    for path in store.local_root(tier).rglob("*"):
        if path.is_file():
            age(path, seconds)


def test_put_and_fetch_round_trip_and_content_names(store, tmp_path):
    folder = folder_of(tmp_path, a="one", sub__b="two", empty="")
    uri = store.put_folder(folder, kind="dataset")
    assert uri == store.put_folder(folder, kind="dataset")
    assert parse_uri(uri)[0] == "dataset"
    assert store.size_bytes(uri) == 6
    out = store.fetch(uri, tmp_path / "out")
    assert {
        p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()
    } == {
        "a": "one",
        "sub/b": "two",
        "empty": "",
    }
    assert store.tiers_of(uri) == ["hot"]


def test_equal_content_is_stored_once(store, tmp_path):
    store.put_folder(folder_of(tmp_path, a="same", b="same"), kind="x")
    store.put_folder(folder_of(tmp_path, c="same"), kind="y")
    assert len(list(store.buckets["hot"].list("blobs"))) == 1


def test_two_writers_at_once_lose_nothing(store, tmp_path):
    folder = folder_of(tmp_path, **{f"f{n}": os.urandom(5000) for n in range(20)})
    uris = []
    threads = [
        threading.Thread(target=lambda: uris.append(store.put_folder(folder, kind="x")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(uris)) == 1
    store.verify(uris[0], "hot")
    assert not list(store.local_root("hot").rglob(".partial-*"))


def test_a_corrupted_blob_heals_from_another_tier_or_is_an_error(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="precious"), kind="x")
    path = blob_path(store, "hot", digests(store, uri)[0])

    def damage():
        path.chmod(0o644)
        path.write_bytes(b"Precious")

    damage()
    with pytest.raises(DataError, match="corrupted"):
        store.fetch(uri, tmp_path / "one")
    path.unlink()
    with pytest.raises(DataError, match="on no tier"):
        store.fetch(uri, tmp_path / "two")
    again = store.put_folder(folder_of(tmp_path, a="precious"), kind="x")
    store.copy_to_tier(again, "warm")
    damage()
    assert (store.fetch(uri, tmp_path / "three") / "a").read_text() == "precious"
    assert path.read_text() == "precious"


def test_a_damaged_manifest_is_not_believed(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    path = store.local_root("hot") / "manifests" / f"{parse_uri(uri)[1]}.json"
    path.write_text(path.read_text().replace("x", "y"))
    with pytest.raises(DataError, match="manifest does not match its name"):
        store.manifest(uri)
    store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    assert store.manifest(uri)["files"][0]["path"] == "a"


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_hostile_manifests_cannot_leave_the_folder(name):
    document = {"schema_version": 1, "files": [{"path": name, "sha256": "0" * 64, "bytes": 1}]}
    with pytest.raises(DataError, match="leaves the artifact's folder"):
        check_manifest(document, "artifact://x/y")


def test_other_hostile_manifests_and_keys(store, tmp_path):
    entry = {"path": "a", "sha256": "0" * 64, "bytes": 1}
    for document in (
        [],
        {"schema_version": 9, "files": []},
        {"schema_version": 1, "files": [{**entry, "sha256": "../../x"}]},
        {"schema_version": 1, "files": [entry, entry]},
    ):
        with pytest.raises(DataError):
            check_manifest(document, "artifact://x/y")
    for uri in ("artifact://x/../../etc", "artifact://x/" + "Z" * 64, "file:///x", "artifact://"):
        with pytest.raises(DataError, match="is not an artifact URI"):
            store.manifest(uri)
    with pytest.raises(DataError, match="leaves the store"):
        store.put_json("../outside.json", {})
    folder = folder_of(tmp_path, a="x")
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="symbolic link leaves"):
        store.put_folder(folder, kind="x")


def test_a_full_disk_leaves_nothing_half_written(store, tmp_path, monkeypatch):
    folder = folder_of(tmp_path, a="x" * 100)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StepError, match=r"cannot write .*No space left"):
        store.put_folder(folder, kind="x")
    monkeypatch.undo()
    assert not [p for p in store.local_root("hot").rglob("*") if p.is_file()]


def test_documents(store):
    store.put_json("runs/a/1.json", {"x": 1})
    store.put_json("runs/a/1.json", {"x": 2})
    assert store.get_json("runs/a/1.json") == {"x": 2}
    assert store.get_json("runs/a/2.json") is None
    assert list(store.list_json("runs")) == ["runs/a/1.json"]
    (store.local_root("hot") / "runs/a/1.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        store.get_json("runs/a/1.json")


def test_only_the_first_create_only_write_wins(tmp_path):
    bucket = LocalBucket(tmp_path)
    assert bucket.write("k", b"1", create_only=True)
    assert not bucket.write("k", b"2", create_only=True)
    assert bucket.read("k") == b"1"
    with pytest.raises(DataError, match="scheme 'ftp'"):
        open_bucket("ftp://x")


def test_fetch_keeps_what_it_brings_on_the_hot_tier(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="x"), kind="x", tier="warm")
    store.fetch(uri, tmp_path / "out")
    assert store.tiers_of(uri) == ["hot", "warm"]
    assert file_sha256(blob_path(store, "hot", digests(store, uri)[0])) == digests(store, uri)[0]


# -- collection ------------------------------------------------------------------------------------


def named(store, tmp_path, key, **files):
    uri = store.put_folder(folder_of(tmp_path, **files), kind="x")
    store.put_json(key, {"deep": [{"uri": uri}]})
    return uri


def test_collection_keeps_what_is_named_and_what_is_young(store, tmp_path):
    published = named(store, tmp_path, "published/m/latest.json", a="1", shared="s")
    run = named(store, tmp_path, "runs/r/steps/train.json", a="2")
    marker = named(store, tmp_path, "markers/f.json", a="3")
    lost = store.put_folder(folder_of(tmp_path, a="4", shared="s"), kind="x")
    age_all(store, "hot", 3 * 86400)
    young = store.put_folder(folder_of(tmp_path, a="5"), kind="x")
    planned = collect(store)
    assert planned.dry_run
    assert planned.artifacts == {"hot": [lost]}
    assert store.tiers_of(lost) == ["hot"]
    done = collect(store, dry_run=False)
    assert done.artifacts == planned.artifacts
    assert done.blobs == planned.blobs
    assert done.bytes == planned.bytes == 1
    assert store.tiers_of(lost) == []
    for uri in (published, run, marker, young):
        store.verify(uri, "hot")
    assert collect(store, dry_run=False).bytes == 0


def test_retention_lets_old_runs_go_but_never_published_models(store, tmp_path):
    run = named(store, tmp_path, "runs/r/steps/a.json", a="1")
    model = named(store, tmp_path, "published/m/1.json", a="2")
    age_all(store, "hot", 400 * 86400)
    done = collect(store, dry_run=False, retention_days=365)
    assert done.documents == ["runs/r/steps/a.json"]
    assert done.artifacts == {"hot": [run]}
    assert store.get_json("runs/r/steps/a.json") is None
    store.verify(model, "hot")


def test_a_blob_that_a_writer_counts_on_is_not_collected(store, tmp_path):
    lost = store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    digest = digests(store, lost)[0]
    age_all(store, "hot", 3 * 86400)
    bucket = store.buckets["hot"]
    cutoff = time.time() - 86400
    # The writer renews the blob between the collection's look and its removal.
    assert bucket.freshen(blob_key(digest), older_than_seconds=0)
    assert not bucket.delete(blob_key(digest), unless_newer_than=cutoff)
    assert bucket.read(blob_key(digest)) == b"x"


def test_a_killed_removal_is_undone(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    path = blob_path(store, "hot", digests(store, uri)[0])
    path.rename(path.with_name(f"{DOOMED_PREFIX}{_process_table()}-999999999-0-{path.name}"))
    assert (store.fetch(uri, tmp_path / "out") / "a").read_text() == "x"


def test_nothing_is_collected_beside_an_unreadable_manifest(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    (store.local_root("hot") / "manifests" / f"{parse_uri(uri)[1]}.json").write_text("{}")
    with pytest.raises(DataError, match="nothing is collected"):
        collect(store, dry_run=False)
    with pytest.raises(DataError, match="grace below one second"):
        collect(store, dry_run=False, grace_seconds=0)


def test_drop_and_evict_never_remove_the_last_copy(store, tmp_path):
    old = store.put_folder(folder_of(tmp_path, a="o" * 1000), kind="x")
    new = store.put_folder(folder_of(tmp_path, a="n" * 1000), kind="x")
    with pytest.raises(DataError, match="only the hot tier holds it"):
        drop(store, old, "hot")
    assert evict(store, limit_bytes=0) == []
    for uri in (old, new):
        store.copy_to_tier(uri, "warm")
    age_all(store, "hot", 7200)
    store.fetch(new, tmp_path / "out")  # used just now
    assert evict(store, limit_bytes=1500) == [old]
    assert store.tiers_of(old) == ["warm"]
    assert store.tiers_of(new) == ["hot", "warm"]


# -- retries ---------------------------------------------------------------------------------------


def test_retries_are_bounded_and_jittered():
    waits, calls = [], []

    def fails():
        calls.append(1)
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError):
        retrying(fails, what="x", attempts=5, wait=waits.append)
    assert len(calls) == 5
    assert len(waits) == 4
    assert all(0 <= wait <= 5 for wait in waits)
    assert len(set(waits)) == 4
    calls.clear()
    with pytest.raises(DataError):
        retrying(lambda: calls.append(1) or check_manifest([], "u"), what="x", wait=waits.append)
    assert len(calls) == 1


def test_manifest_document_is_canonical(store, tmp_path):
    uri = store.put_folder(folder_of(tmp_path, a="x"), kind="x")
    path = store.local_root("hot") / "manifests" / f"{parse_uri(uri)[1]}.json"
    assert json.loads(path.read_bytes()) == store.manifest(uri)
