"""The store on a real S3 server (OpenStack Swift), directly and through a faulty network.

Swift does conditional puts, copies, multipart uploads and checks signatures; storage classes,
restores and encryption headers are tested against moto only (see the last tests).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time

import pytest

from components.contract import DataError, SpecError, StepError, SuanliError
from components.ingest import sources
from components.lib import archive, object_transfers, object_uri, objects
from components.lib.collect import collect, drop
from components.lib.objects import ObjectBucket
from components.storage import Store, Tiers, parse_uri
from pipelines.tiers import lifecycle_rules, restore
from tests.fault_proxy import fault_proxy
from tests.swift_server import KEY_ID, SECRET, client, swift

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with swift(tmp_path_factory.mktemp("swift")) as address:
        client(address).create_bucket(Bucket="tiers")
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def store_at(tmp_path, endpoint, name):
    return Store(
        Tiers(
            hot=str(tmp_path / "hot"),
            warm=f"s3://tiers/{name}/warm?endpoint={endpoint}",
            cold=f"s3://tiers/{name}/cold?endpoint={endpoint}",
        )
    )


def folder_of(tmp_path, name="in", **files):
    folder = tmp_path / name
    folder.mkdir()
    for file, body in files.items():
        (folder / file).write_bytes(body)
    return folder


def test_put_fetch_move_and_collect(tmp_path, endpoint, monkeypatch):
    monkeypatch.setattr(object_transfers, "STREAM_BYTES", 20 << 20)
    monkeypatch.setattr(object_transfers, "SINGLE_BYTES", 20 << 20)
    monkeypatch.setattr(object_transfers, "RANGE_BYTES", 7 << 20)
    store = store_at(tmp_path, endpoint, "basic")
    big = os.urandom(24 << 20)  # multipart up, parallel ranges down
    folder = folder_of(tmp_path, big=big, small=b"s", empty=b"")
    uri = store.put_folder(folder, kind="model", tier="warm")
    assert store.tiers_of(uri) == ["warm"]
    assert uri == store.put_folder(folder, kind="model", tier="warm")
    out = store.fetch(uri, tmp_path / "out")
    assert (out / "big").read_bytes() == big
    assert store.tiers_of(uri) == ["hot", "warm"]
    store.copy_to_tier(uri, "cold")
    store.verify(uri, "cold")
    drop(store, uri, "warm")
    assert store.tiers_of(uri) == ["hot", "cold"]
    assert collect(store).artifacts == {}  # young
    store.put_json("runs/r.json", {"uri": uri})
    assert collect(store).kept_artifacts == 2


def test_documents_on_a_remote_hot_tier(tmp_path, endpoint):
    remote = f"s3://tiers/docs/hot?endpoint={endpoint}"
    store = Store(Tiers(hot=remote, warm=str(tmp_path / "w"), cold=str(tmp_path / "c")))
    assert store.local_root("hot") is None
    store.put_json("runs/a.json", {"n": 1})
    store.put_json("runs/a.json", {"n": 2})
    assert store.get_json("runs/a.json") == {"n": 2}
    assert store.get_json("runs/b.json") is None
    assert list(store.list_json("runs")) == ["runs/a.json"]
    uri = store.put_folder(folder_of(tmp_path, a=b"x"), kind="x")
    assert (store.fetch(uri, tmp_path / "out") / "a").read_bytes() == b"x"


def test_create_only_writes(endpoint):
    """In a race Swift lets several create-only puts through (AWS documents that it does not);
    names are content hashes, so racing writers write the same bytes and nothing is lost."""
    bucket = ObjectBucket(f"s3://tiers/race?endpoint={endpoint}")
    won = []
    threads = [
        threading.Thread(
            target=lambda n=n: won.append(bucket.write("k", b"%d" % n, create_only=True))
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) >= 1
    assert bucket.read("k") in {b"%d" % n for n in range(6)}
    assert not bucket.write("k", b"late", create_only=True)
    assert bucket.read("k") != b"late"


def test_what_is_renewed_is_not_removed_and_stays_as_it_is(endpoint):
    bucket = ObjectBucket(f"s3://tiers/renew?endpoint={endpoint}")
    bucket.write("blobs/k", b"body")
    before = bucket.entry("blobs/k")
    time.sleep(1.1)
    assert bucket.freshen("blobs/k", older_than_seconds=0)
    assert bucket.entry("blobs/k") == before
    [listed] = bucket.list("blobs")
    assert listed.modified > before.modified
    assert not bucket.delete("blobs/k", unless_newer_than=before.modified)
    assert bucket.read("blobs/k") == b"body"
    assert bucket.delete("blobs/k", unless_newer_than=bucket.now())
    assert not bucket.freshen("blobs/k", older_than_seconds=0)
    assert list(bucket.list("removing")) == list(bucket.list("renewed")) == []


def test_ingest_reads_from_s3(tmp_path, endpoint):
    client(endpoint).put_object(Bucket="tiers", Key="data/a.csv", Body=b"text,label\na,b\n")
    uri = f"s3://tiers/data/a.csv?endpoint={endpoint}"
    staged = sources.stage("train", uri, tmp_path)
    assert staged.path.read_bytes() == b"text,label\na,b\n"
    first = sources.identity(uri)
    client(endpoint).put_object(Bucket="tiers", Key="data/a.csv", Body=b"text,label\nb,b\n")
    assert sources.identity(uri) != first
    folder = sources.stage("train", f"s3://tiers/data?endpoint={endpoint}", tmp_path / "f")
    assert [path.name for path in folder.files] == ["a.csv"]
    with pytest.raises(DataError, match="no such object"):
        sources.identity(f"s3://tiers/nowhere?endpoint={endpoint}")


def test_wrong_credentials_are_a_clear_error(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    bucket = ObjectBucket(f"s3://tiers/x?endpoint={endpoint}")
    with pytest.raises(DataError, match="the store refuses") as caught:
        bucket.write("k", b"x")
    assert "wrong" not in str(caught.value)
    with pytest.raises(SpecError, match="option 'endpiont'"):
        ObjectBucket("s3://tiers/x?endpiont=y")


FAULTS = [
    "reset", "internal", "slow_down", "truncated", "wrong_bytes", "wrong_upload", "lost_answer",
    "delay",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_passing_fault_is_survived(tmp_path, endpoint, fault, monkeypatch):
    monkeypatch.setattr(object_transfers, "STREAM_BYTES", 50_000)  # large files come in ranges
    monkeypatch.setattr(object_transfers, "RANGE_BYTES", 40_000)
    with fault_proxy(endpoint, seed=7) as (address, proxy):
        store = store_at(tmp_path, address, f"fault-{fault}")
        proxy.faults, proxy.share = [fault], 0.25
        for number in range(3):
            body = hashlib.sha256(b"%d" % number).digest() * 3000
            uri = store.put_folder(
                folder_of(tmp_path, f"in{number}", a=body, b=b"x"), kind="x", tier="warm"
            )
            out = store.fetch(uri, tmp_path / f"out{number}")
            assert (out / "a").read_bytes() == body
        proxy.share = 0.0
        store.verify(uri, "warm")
        assert proxy.met[fault] > 0


def test_a_mix_of_faults_never_shows_a_half_written_artifact(tmp_path, endpoint):
    with fault_proxy(endpoint, seed=11) as (address, proxy):
        faulty = store_at(tmp_path / "a", address, "mix")
        healthy = store_at(tmp_path / "b", endpoint, "mix")
        proxy.faults, proxy.share = FAULTS, 0.45
        whole, failed = 0, 0
        for number in range(12):
            folder = folder_of(tmp_path, f"in{number}", a=os.urandom(20_000), b=os.urandom(10))
            try:
                faulty.put_folder(folder, kind="x", tier="warm")
            except SuanliError:
                failed += 1
        warm = healthy.buckets["warm"]
        for entry in warm.list("manifests"):
            digest = entry.key.removeprefix("manifests/").removesuffix(".json")
            healthy.verify(f"artifact://x/{digest}", "warm")
            whole += 1
        assert whole >= 12 - failed
        assert sum(proxy.met.values()) > 20


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("slow_down", StepError, "cannot write"),
        ("reset", StepError, "cannot write"),
        ("skewed", DataError, "refuses|cannot"),
        ("expired", SuanliError, "ExpiredToken|cannot"),
    ],
)
def test_a_lasting_fault_ends_in_a_clear_error(
    tmp_path, endpoint, fault, error, message, monkeypatch
):
    monkeypatch.setattr(object_uri, "REQUEST_RETRIES", 1)
    with fault_proxy(endpoint) as (address, proxy):
        bucket = ObjectBucket(f"s3://tiers/lasting?endpoint={address}")
        proxy.faults, proxy.share = [fault], 1.0
        start = time.monotonic()
        with pytest.raises(error, match=message):
            bucket.write(f"k-{fault}", b"x", create_only=True)
        assert time.monotonic() - start < 60
    assert ObjectBucket(f"s3://tiers/lasting?endpoint={endpoint}").read(f"k-{fault}") is None


def test_a_server_that_does_not_answer_times_out(endpoint, monkeypatch):
    monkeypatch.setattr(object_uri, "REQUEST_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(object_uri, "REQUEST_RETRIES", 0)
    monkeypatch.setattr(objects, "TRANSFER_ATTEMPTS", 2)
    with fault_proxy(endpoint) as (address, proxy):
        bucket = ObjectBucket(f"s3://tiers/silent?endpoint={address}")
        proxy.faults, proxy.share = ["timeout"], 1.0
        with pytest.raises(StepError, match="asked several times"):
            bucket.read("k")


# -- what Swift does not do: against moto only ----------------------------------------------------


@pytest.fixture
def moto(monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    address = f"http://{host}:{port}"
    client(address).create_bucket(Bucket="tiers")
    yield address
    server.stop()


def test_storage_class_encryption_and_restore(tmp_path, moto):
    cold = f"s3://tiers/cold?endpoint={moto}&storage_class=DEEP_ARCHIVE&sse=AES256"
    store = Store(Tiers(hot=str(tmp_path / "h"), warm=str(tmp_path / "w"), cold=cold))
    uri = store.put_folder(folder_of(tmp_path, a=b"x" * 1000), kind="x", tier="warm")
    store.copy_to_tier(uri, "cold")
    key = f"cold/blobs/{store.manifest(uri)['files'][0]['sha256'][:2]}"
    found = client(moto).list_objects_v2(Bucket="tiers", Prefix=key)["Contents"][0]
    assert found["StorageClass"] == "DEEP_ARCHIVE"
    head = client(moto).head_object(Bucket="tiers", Key=found["Key"])
    assert head["ServerSideEncryption"] == "AES256"
    # The manifest stays readable: it is small and needed to ask for anything else.
    manifest = client(moto).head_object(
        Bucket="tiers", Key=f"cold/manifests/{parse_uri(uri)[1]}.json"
    )
    assert manifest.get("StorageClass", "STANDARD") == "STANDARD"
    seen = []
    assert archive.needs_restore(cold)
    archive.restore_objects(
        cold,
        [f"blobs/{found['Key'].partition('blobs/')[2]}"],
        poll_seconds=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (1, 1)


def test_a_move_to_an_archive_is_checked_without_reading_it(tmp_path, moto):
    cold = f"s3://tiers/deep?endpoint={moto}&storage_class=DEEP_ARCHIVE"
    store = Store(Tiers(hot=str(tmp_path / "h"), warm=str(tmp_path / "w"), cold=cold))
    uri = store.put_folder(folder_of(tmp_path, a=b"x" * 1000), kind="x")
    store.copy_to_tier(uri, "cold")
    with pytest.raises(DataError, match="it is archived"):
        store.buckets["cold"].download(
            f"blobs/{store.manifest(uri)['files'][0]['sha256'][:2]}/"
            f"{store.manifest(uri)['files'][0]['sha256']}",
            tmp_path / "direct",
        )
    drop(store, uri, "hot")
    assert store.tiers_of(uri) == ["cold"]
    seen = []
    restore(store, uri, poll_seconds=0, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1, 1)
    assert (store.fetch(uri, tmp_path / "out") / "a").read_bytes() == b"x" * 1000


def test_a_restore_that_takes_too_long_is_reported(tmp_path, moto, monkeypatch):
    bucket = client(moto)
    bucket.put_object(Bucket="tiers", Key="p/a", Body=b"x", StorageClass="GLACIER")
    monkeypatch.setattr(archive, "_readable", lambda *_: False)
    with pytest.raises(StepError, match="1 of 1 objects are still being restored"):
        archive.restore_objects(f"s3://tiers/p?endpoint={moto}", ["a"], timeout_seconds=0)


def test_lifecycle_rules_are_accepted(moto):
    rules = lifecycle_rules("s3", retention_days=90)
    client(moto).put_bucket_lifecycle_configuration(Bucket="tiers", LifecycleConfiguration=rules)
    kept = client(moto).get_bucket_lifecycle_configuration(Bucket="tiers")["Rules"]
    assert {rule["ID"] for rule in kept} == {rule["ID"] for rule in rules["Rules"]}
    assert json.loads(json.dumps(lifecycle_rules("gcs", retention_days=90)))["rule"]
    with pytest.raises(ValueError, match="s3 and gcs"):
        lifecycle_rules("azure", retention_days=1)
