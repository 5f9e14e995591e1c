"""The store on Azure Blob, as Azurite speaks it."""

from __future__ import annotations

import os

import pytest

from components.contract import DataError
from components.lib.collect import collect, drop
from components.lib.objects import ObjectBucket
from components.storage import Store, Tiers
from tests.azurite_server import ACCOUNT, KEY, azurite, create_container

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with azurite(tmp_path_factory.mktemp("azurite")) as address:
        create_container(address, "tiers")
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)


def test_put_fetch_move_and_collect(tmp_path, endpoint):
    warm, cold = (f"az://tiers/{name}?endpoint={endpoint}" for name in ("warm", "cold"))
    store = Store(Tiers(hot=str(tmp_path / "hot"), warm=warm, cold=cold))
    folder = tmp_path / "in"
    folder.mkdir()
    big = os.urandom(20 << 20)  # in several blocks
    (folder / "big").write_bytes(big)
    (folder / "empty").touch()
    uri = store.put_folder(folder, kind="model", tier="warm")
    assert uri == store.put_folder(folder, kind="model", tier="warm")
    assert (store.fetch(uri, tmp_path / "out") / "big").read_bytes() == big
    store.copy_to_tier(uri, "cold")
    drop(store, uri, "hot")
    drop(store, uri, "warm")
    assert store.tiers_of(uri) == ["cold"]
    with pytest.raises(DataError, match="only the cold tier holds it"):
        drop(store, uri, "cold")
    assert collect(store).artifacts == {}  # young
    store.verify(uri, "cold")


def test_conditional_writes_and_removals(endpoint, monkeypatch):
    bucket = ObjectBucket(f"az://tiers/conditions?endpoint={endpoint}")
    assert bucket.write("blobs/k", b"1", create_only=True)
    assert not bucket.write("blobs/k", b"2", create_only=True)
    limit = bucket.now() - 1
    assert bucket.freshen("blobs/k", older_than_seconds=0)
    assert not bucket.delete("blobs/k", unless_newer_than=limit)
    assert bucket.read("blobs/k") == b"1"
    assert bucket.delete("blobs/k", unless_newer_than=bucket.now() + 1)
    assert not bucket.freshen("blobs/k", older_than_seconds=0)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY.replace("E", "F"))
    with pytest.raises(DataError, match="the store refuses"):
        ObjectBucket(f"az://tiers/conditions?endpoint={endpoint}").read("blobs/k")
