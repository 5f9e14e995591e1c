"""Each way in which processes at one store could lose an artifact, played move by move.

The other process's move is made at the one moment where it hurts, by a hook in the first one's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from components import runtime, storage
from components.contract import DataError, StepError
from components.lib import folders, object_removal, object_transfers, objects
from components.lib.blobs import open_bucket
from components.lib.buckets import blob_key, manifest_key
from components.lib.collect import collect, drop, evict
from components.lib.folders import DOOMED_PREFIX, LocalBucket
from components.lib.objects import ObjectBucket
from components.storage import Store, Tiers
from pipelines import tiers

DAY = 86_400.0
OTHER_TABLE = "0ther0ne"


@pytest.fixture(params=["folder", "object store"])
def store(request, tmp_path, monkeypatch):
    """Three folders, or with warm and cold in the memory of an object-store client."""
    names = Tiers.under(tmp_path / "store")
    if request.param == "object store":
        from obstore.store import MemoryStore

        shared: dict[str, MemoryStore] = {}
        monkeypatch.setattr(
            objects, "open_store", lambda uri: (shared.setdefault(uri, MemoryStore()), None)
        )
        monkeypatch.setattr(object_removal, "WAIT_SECONDS", 0.01)
        names = Tiers(hot=names.hot, warm="s3://warm", cold="s3://cold")
    return Store(names)


@pytest.fixture
def local(tmp_path):
    return Store(Tiers.under(tmp_path / "store"))


def put(store, tmp_path, *, tier="hot", body=b"precious"):
    folder = tmp_path / f"in-{time.time_ns()}"
    folder.mkdir()
    (folder / "a").write_bytes(body)
    return store.put_folder(folder, kind="x", tier=tier)


def manifest_of(uri):
    return manifest_key(uri.rpartition("/")[2])


def blob_of(store, uri):
    return blob_key(store.manifest(uri)["files"][0]["sha256"])


def days_later(monkeypatch, *stores, days=3.0):
    """Make all that is stored old: files by their times, object stores by their clock."""
    for store in stores:
        for bucket in store.buckets.values():
            if isinstance(bucket, LocalBucket):
                for path in [p for p in Path(bucket.root).rglob("*") if p.is_file()]:
                    os.utime(path, (path.stat().st_mtime - days * DAY,) * 2)
            else:
                age = objects_older(bucket, days * DAY)
                monkeypatch.setattr(bucket, "entry", age)


def objects_older(bucket, seconds):
    """`entry` of what is there now tells an earlier time, until it is written again."""
    real, then = bucket.entry, time.time()

    def entry(key):
        found = real(key)
        if found is None or found.modified > then:
            return found
        return objects.replace(found, modified=found.modified - seconds)

    real_pages = bucket._pages
    bucket._pages = lambda prefix: [
        e if e.modified > then else objects.replace(e, modified=e.modified - seconds)
        for e in real_pages(prefix)
    ]
    return entry


def once(work):
    """Return a hook that does `work` when first called."""
    left = [work]

    def hook():
        if left:
            left.pop()()

    return hook


def before(monkeypatch, target, name, move, *, when=lambda *_: True):
    real = getattr(target, name)

    def hooked(*arguments, **options):
        if when(*arguments):
            move()
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, hooked)


def after(monkeypatch, target, name, move, *, when=lambda *_: True):
    real = getattr(target, name)

    def hooked(*arguments, **options):
        result = real(*arguments, **options)
        if when(*arguments):
            move()
        return result

    monkeypatch.setattr(target, name, hooked)


def tries(work):
    """Return a move that may be refused with a clear error, never in another way."""

    def move():
        with contextlib.suppress(DataError):
            work()

    return move


def assert_whole(store, uri, tmp_path):
    out = store.fetch(uri, tmp_path / f"out-{time.time_ns()}")
    assert (out / "a").read_bytes() == b"precious"


# -- two that each remove the other's copy ---------------------------------------------------------


@pytest.mark.parametrize("moment", ["verified", "about to remove"])
def test_two_drops_never_remove_both_copies(store, tmp_path, monkeypatch, moment):
    uri = put(store, tmp_path)
    store.copy_to_tier(uri, "warm")
    other = Store(store.tiers)
    move = once(tries(lambda: drop(other, uri, "warm")))
    if moment == "verified":
        after(monkeypatch, store, "verify", move)
    else:
        hot = store.buckets["hot"]
        before(monkeypatch, hot, "delete", move, when=lambda key, *_: key == manifest_of(uri))
    tries(lambda: drop(store, uri, "hot"))()
    assert len(store.tiers_of(uri)) == 1
    assert_whole(store, uri, tmp_path)


def test_three_drops_in_a_ring_leave_a_copy(store, tmp_path, monkeypatch):
    uri = put(store, tmp_path)
    for tier in ("warm", "cold"):
        store.copy_to_tier(uri, tier)
    second, third = Store(store.tiers), Store(store.tiers)
    for party, counted in ((store, ["warm"]), (second, ["cold"]), (third, ["hot"])):
        monkeypatch.setattr(party, "tiers_of", lambda _, counted=counted: counted)
    moves = {
        "hot": once(tries(lambda: drop(second, uri, "warm"))),
        "warm": once(tries(lambda: drop(third, uri, "cold"))),
    }
    for party, tier in ((store, "hot"), (second, "warm")):
        after(monkeypatch, party, "renew", moves[tier])
    tries(lambda: drop(store, uri, "hot"))()
    assert_whole(Store(store.tiers), uri, tmp_path)


# -- the collector and whoever counts on what it removes -------------------------------------------


@pytest.mark.parametrize("moment", ["drop has verified", "collector has judged"])
def test_a_drop_and_a_collection_never_remove_both_copies(store, tmp_path, monkeypatch, moment):
    """The run that names the artifact is written after the put: at this moment nothing does."""
    uri = put(store, tmp_path)
    store.copy_to_tier(uri, "warm")
    collector = Store(store.tiers)
    days_later(monkeypatch, store, collector)
    hot = Path(store.tiers.hot)
    os.utime(hot / manifest_of(uri))  # put again just now: young on the hot tier only
    if moment == "drop has verified":
        move = once(lambda: collect(collector, dry_run=False))
        after(monkeypatch, store, "verify", move)
        tries(lambda: drop(store, uri, "hot"))()
    else:
        move = once(tries(lambda: drop(store, uri, "hot")))
        warm = collector.buckets["warm"]
        before(monkeypatch, warm, "delete", move, when=lambda key, *_: key == manifest_of(uri))
        collect(collector, dry_run=False)
    assert_whole(Store(store.tiers), uri, tmp_path)


def test_a_manifest_that_goes_while_it_is_published_is_written_again(local, tmp_path, monkeypatch):
    uri = put(local, tmp_path)
    hot = local.buckets["hot"]
    gone = once(lambda: (Path(hot.root) / manifest_of(uri)).unlink())
    after(monkeypatch, hot, "read", gone, when=lambda key: key == manifest_of(uri))
    assert put(local, tmp_path) == uri
    assert_whole(local, uri, tmp_path)


def test_a_step_that_finds_its_marker_keeps_what_the_collector_has_judged(
    local, tmp_path, monkeypatch
):
    uri = put(local, tmp_path)
    report = {"seconds": {"total": 1.0}}
    local.put_json("markers/f.json", {"output": uri, "report": report})
    days_later(monkeypatch, local, days=400)
    resumed = []
    before(
        monkeypatch,
        local.buckets["hot"],
        "delete",
        once(lambda: resumed.append(runtime._from_marker(Store(local.tiers), "f", "s", "r", "p"))),
        when=lambda key, *_: key.startswith("markers/"),
    )
    collect(local, dry_run=False)
    assert resumed == [uri]
    assert_whole(local, uri, tmp_path)


def test_a_document_written_again_during_a_collection_stays_and_keeps(local, tmp_path, monkeypatch):
    uri = put(local, tmp_path)
    local.put_json("runs/r.json", {"output": uri})
    days_later(monkeypatch, local, days=400)
    move = once(lambda: local.put_json("runs/r.json", {"output": uri}))
    before(monkeypatch, local.buckets["hot"], "delete", move, when=lambda key, *_: "runs" in key)
    collect(Store(local.tiers), dry_run=True)
    collect(local, dry_run=False)
    assert local.get_json("runs/r.json") == {"output": uri}
    assert_whole(local, uri, tmp_path)


def test_what_is_published_while_a_collection_looks_around_is_young(local, tmp_path, monkeypatch):
    """Even when looking takes longer than the grace."""
    made = []
    start = time.time()
    after(
        monkeypatch,
        local.buckets["hot"],
        "list",
        once(lambda: made.append(put(local, tmp_path))),
        when=lambda prefix: prefix == "markers",
    )
    hours = [0.0]
    before(monkeypatch, local.buckets["cold"], "list", lambda: hours.__setitem__(0, 7200.0))
    for bucket in local.buckets.values():
        monkeypatch.setattr(bucket, "now", lambda: start + hours[0])
    collect(local, dry_run=False, grace_seconds=3600)
    assert_whole(local, made[0], tmp_path)


# -- writers slower than a removal is patient ------------------------------------------------------


@pytest.mark.parametrize("way", ["put", "copy"])
def test_a_blob_that_goes_during_a_long_write_is_stored_again(local, tmp_path, monkeypatch, way):
    uri = put(local, tmp_path, tier="warm")
    late = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda real=time.monotonic: real() + late[0])
    real = storage.canonical_json

    def long_after(document):
        hot = local.local_root("hot") / blob_of(local, uri)
        if not late[0] and hot.exists():
            late[0] = 1000.0
            hot.unlink()
        return real(document)

    monkeypatch.setattr(storage, "canonical_json", long_after)
    if way == "put":
        assert put(local, tmp_path) == uri
    else:
        local.copy_to_tier(uri, "hot")
    assert late[0]
    local.verify(uri, "hot")


def test_a_second_fetch_into_one_folder_leaves_no_manifest_without_blobs(local, tmp_path):
    uri = put(local, tmp_path, tier="warm")
    local.fetch(uri, tmp_path / "out")
    drop(local, uri, "hot")
    (local.local_root("hot") / blob_of(local, uri)).unlink(missing_ok=True)
    local.fetch(uri, tmp_path / "out")
    local.verify(uri, "hot")


def test_a_blob_evicted_while_it_is_laid_out_comes_back(local, tmp_path, monkeypatch):
    uri = put(local, tmp_path, tier="warm")
    store = local.local_root("hot") / blob_of(local, uri)
    real = os.link
    evicted = once(store.unlink)

    def link(source, target):
        if Path(source) == store:
            evicted()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert_whole(local, uri, tmp_path)


# -- what a removal has taken away but not yet judged ----------------------------------------------


def doom(path, *, table=None, process=999_999_999):
    doomed = f"{DOOMED_PREFIX}{table or folders._process_table()}-{process}-0-{path.name}"
    return path.rename(path.with_name(doomed))


def test_a_reader_looks_again_for_what_may_come_back(local, tmp_path):
    uri = put(local, tmp_path)
    doom(local.local_root("hot") / manifest_of(uri))
    assert local.manifest(uri)["kind"] == "x"
    doom(local.local_root("hot") / blob_of(local, uri))
    local.verify(uri, "hot")
    doom(local.local_root("hot") / blob_of(local, uri))
    assert_whole(local, uri, tmp_path)


def test_a_reader_waits_for_a_removal_that_gives_back(local, tmp_path):
    uri = put(local, tmp_path)
    path = local.local_root("hot") / manifest_of(uri)
    doomed = doom(path, process=os.getpid())  # alive
    back = threading.Timer(0.03, lambda: doomed.rename(path))
    back.start()
    assert local.manifest(uri)["kind"] == "x"
    back.join()


def test_recovery_never_replaces_a_newer_file(local, tmp_path):
    bucket = local.buckets["hot"]
    bucket.write("k", b"old")
    days = time.time() - 3 * DAY
    os.utime(bucket.path("k"), (days, days))
    doom(bucket.path("k"))
    bucket.write("k", b"new")
    assert bucket.recover("")
    assert bucket.read("k") == b"new"
    assert bucket.entry("k").modified > days + DAY
    assert not bucket.recover("")


def test_giving_back_never_replaces_a_newer_file(local, monkeypatch):
    """Renewed, taken away, written by another, then judged too new to remove."""
    bucket = local.buckets["hot"]
    bucket.write("k", b"one")
    past = time.time() - 3 * DAY
    os.utime(bucket.path("k"), (past, past))
    real, later = os.rename, time.time() + 100

    def rename(source, target):
        os.utime(source)
        real(source, target)
        bucket.write("k", b"two")
        os.utime(bucket.path("k"), (later, later))

    monkeypatch.setattr(os, "rename", rename)
    assert not bucket.delete("k", unless_newer_than=past + DAY)
    assert bucket.entry("k").modified == pytest.approx(later)
    assert not bucket.recover("")


def test_process_numbers_of_another_pod_mean_nothing_here(local, monkeypatch):
    bucket = local.buckets["hot"]
    bucket.write("k", b"x")
    doom(bucket.path("k"), table=OTHER_TABLE)  # no such process here, yet alive there
    assert bucket.recover("")
    assert bucket.read("k") is None
    monkeypatch.setattr(folders, "DOOMED_SECONDS", -1.0)
    bucket.recover("")
    assert bucket.read("k") == b"x"
    doom(bucket.path("k"), table=OTHER_TABLE, process=os.getpid())
    bucket.recover("")
    assert bucket.read("k") == b"x"


def test_a_removal_bears_that_another_takes_it_for_dead(local, monkeypatch):
    bucket = local.buckets["hot"]
    bucket.write("k", b"x")
    monkeypatch.setattr(folders, "DOOMED_SECONDS", -1.0)
    real = os.rename

    def rename(source, target):
        real(source, target)
        monkeypatch.setattr(os, "rename", real)
        LocalBucket(Path(bucket.root)).recover("")

    monkeypatch.setattr(os, "rename", rename)
    assert not bucket.delete("k", unless_newer_than=time.time() + 1)
    assert bucket.read("k") == b"x"


def test_no_blob_goes_while_a_manifest_may_come_back(local, tmp_path, monkeypatch):
    uri = put(local, tmp_path)
    days_later(monkeypatch, local)
    path = local.local_root("hot") / manifest_of(uri)
    doomed = doom(path, table=OTHER_TABLE)
    assert collect(local, dry_run=False).blobs == {}
    doomed.rename(path)
    assert_whole(local, uri, tmp_path)


# -- refusals are skipped --------------------------------------------------------------------------


def test_evict_and_sweep_go_on_without_what_others_use(local, tmp_path, monkeypatch):
    uris = [put(local, tmp_path, body=b"%d" % n) for n in range(2)]
    for uri in uris:
        local.copy_to_tier(uri, "warm")
    days_later(monkeypatch, local, days=300)
    hot = local.buckets["hot"]
    used = manifest_of(uris[0])
    before(
        monkeypatch,
        hot,
        "delete",
        lambda: hot.freshen(used, older_than_seconds=0),
        when=lambda key, *_: key == used,
    )
    with pytest.raises(DataError, match="being used or moved by another process"):
        drop(local, uris[0], "hot")
    assert evict(local, limit_bytes=0) == [uris[1]]

    class Moving:
        best_tier, idle_days, age_days, tiers = "warm", 300.0, 300.0, ("hot", "warm")
        uri = uris[0]

    monkeypatch.setattr(tiers, "status", lambda *_: [Moving()])
    [(_, words)] = tiers.sweep(local, None, dry_run=False)
    assert "by another process" in words


# -- object stores: a removal and a renewal at once ------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    from obstore.store import MemoryStore

    shared = MemoryStore()
    monkeypatch.setattr(objects, "open_store", lambda _: (shared, None))
    monkeypatch.setattr(object_removal, "WAIT_SECONDS", 0.01)
    found = open_bucket("s3://shared")
    found.write("blobs/k", b"x")
    return found


def test_an_object_renewed_before_the_removal_looks_stays(bucket):
    limit = bucket.now()
    assert bucket.freshen("blobs/k", older_than_seconds=0)
    assert not bucket.delete("blobs/k", unless_newer_than=limit)
    [listed] = bucket.list("blobs")
    assert listed.modified > limit
    assert bucket.delete("blobs/k", unless_newer_than=bucket.now())
    assert not bucket.freshen("blobs/k", older_than_seconds=0)
    assert [e.key for e in bucket._pages("")] == ["clock"]


def test_an_object_renewed_after_the_removal_looked_is_told_gone(bucket, monkeypatch):
    told = []
    other = ObjectBucket("s3://shared")
    renewal = threading.Thread(
        target=lambda: told.append(other.freshen("blobs/k", older_than_seconds=0))
    )
    real = bucket.read

    def read(key):  # the last look before the removal
        if not renewal.ident:
            renewal.start()
            while other.entry("renewed/blobs/k") is None:
                time.sleep(0.001)
        return real(key)

    monkeypatch.setattr(bucket, "read", read)
    assert bucket.delete("blobs/k", unless_newer_than=time.time() + 1)
    renewal.join(10)
    assert told == [False]
    assert bucket.entry("blobs/k") is None


def test_only_one_removes_and_a_killed_one_blocks_nobody_for_long(bucket, monkeypatch):
    bucket.write("removing/blobs/k", b"another")
    assert not bucket.delete("blobs/k", unless_newer_than=time.time() + 1)
    monkeypatch.setattr(object_removal, "REMOVAL_SECONDS", 0.2)
    time.sleep(0.25)
    assert bucket.freshen("blobs/k", older_than_seconds=0)
    bucket.write("removing/blobs/k", b"another")
    time.sleep(0.25)
    assert bucket.delete("blobs/k", unless_newer_than=time.time() + 1)
    assert bucket.entry("removing/blobs/k") is None


@pytest.mark.parametrize("single", [10, 1000])
def test_a_file_that_changes_while_it_is_stored_never_gets_a_wrong_name(
    bucket, tmp_path, monkeypatch, single
):
    source = tmp_path / "source"
    source.write_bytes(b"a" * 100)
    monkeypatch.setattr(object_transfers, "SINGLE_BYTES", single)
    # In parts it is read twice, so that the change shows; in one request once, before the change.
    before(monkeypatch, bucket._transfers, "put", lambda: source.write_bytes(b"b" * 100))
    if single < 100:
        with pytest.raises(StepError, match="changed while it was stored"):
            bucket.adopt(source)
    else:
        assert bucket.adopt(source) == (hashlib.sha256(b"a" * 100).hexdigest(), 100)
    for entry in bucket.list("blobs"):
        body = bucket.read(entry.key)
        assert entry.key in ("blobs/k", blob_key(hashlib.sha256(body).hexdigest()))


@pytest.mark.parametrize("arrives", [True, False])
def test_a_range_goes_on_where_it_broke(bucket, tmp_path, monkeypatch, arrives):
    """A slow line breaks every request after a while: only what brings nothing is an error."""
    import obstore

    body = bytes(range(256)) * 400
    (tmp_path / "source").write_bytes(body)
    bucket.upload("blobs/large", tmp_path / "source")
    for name, size in (("STREAM_BYTES", 1000), ("RANGE_BYTES", 40_000), ("RANGE_READ_BYTES", 1)):
        monkeypatch.setattr(object_transfers, name, size)
    monkeypatch.setattr(objects, "TRANSFER_ATTEMPTS", 1)
    real, asked = obstore.get, []

    class Breaks:
        def __init__(self, answer):
            self.meta, self._answer = answer.meta, answer

        def stream(self, **_):
            if arrives:
                yield bytes(self._answer.bytes())[:9_000]
            raise OSError("the line broke")

    def get(store, path, **options):
        asked.append(options.get("options"))
        return Breaks(real(store, path, **options))

    monkeypatch.setattr(obstore, "get", get)
    if arrives:
        digest = bucket.download("blobs/large", tmp_path / "target")
        assert digest == hashlib.sha256(body).hexdigest()
        assert (tmp_path / "target").read_bytes() == body
        assert len(asked) == 1 + 5 + 5 + 3
    else:
        with pytest.raises(StepError, match="the line broke"):
            bucket.download("blobs/large", tmp_path / "target")
