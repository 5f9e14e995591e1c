"""`suanli tier`: where everything is, what it costs, what moves; and the policy behind it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from components.contract import DataError
from components.storage import Store, Tiers, parse_uri
from pipelines.cli import main
from pipelines.cost.catalog import load_catalog
from pipelines.cost.tiering import (
    Interest,
    Usage,
    best_class,
    chance_in_use,
    day_usd,
    expected_reads,
    move_usd,
)
from pipelines.tiers import (
    copy_out,
    gc,
    lifecycle_rules,
    restore,
    status,
    sweep,
    tier_class,
    tuned_model,
)

CATALOG = load_catalog()
CLASSES = {
    name: CATALOG.storage_class("aws", name)
    for name in ("standard", "infrequent", "glacier-ir", "archive")
}
GB = 10**9


def usage(**changes):
    base = Usage(bytes=10 * GB, files=10, age_days=10, idle_days=10, reads=0)
    return dataclasses.replace(base, **changes)


# -- policy ----------------------------------------------------------------------------------------


def test_busy_is_standard_idle_is_cold_and_patience_buys_the_archive():
    busy = usage(planned_reads_per_day=1.0, planned_days=200.0, idle_days=1, reads=10)
    assert best_class(busy, CLASSES) == "standard"
    idle = usage(idle_days=200, age_days=200, reads=3)
    assert best_class(idle, CLASSES) == "glacier-ir"
    quiet = Interest(revival_per_day=0.0001)
    patient = usage(idle_days=200, age_days=200, reads=1, deadline_seconds=2 * 86400)
    assert best_class(patient, CLASSES, interest=quiet) == "archive"
    assert best_class(dataclasses.replace(patient, deadline_seconds=60), CLASSES) != "archive"


def test_what_goes_soon_does_not_pay_for_least_days():
    assert best_class(usage(remaining_days=3, idle_days=1), CLASSES) == "standard"


def test_small_objects_are_not_moved_to_classes_that_bill_a_least_size():
    tiny = usage(bytes=4000, files=40, idle_days=100, age_days=100, remaining_days=60)
    assert best_class(tiny, CLASSES) == "standard"
    assert day_usd(tiny, CLASSES["glacier-ir"]) > day_usd(tiny, CLASSES["standard"])


def test_published_models_stay_warm_and_silence_lowers_the_chance_of_use():
    assert best_class(usage(published=True, idle_days=300), CLASSES) == "standard"
    chances = [chance_in_use(usage(idle_days=d, reads=5), Interest()) for d in (0, 10, 50, 200)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(1.0)
    assert expected_reads(usage(reads=5, idle_days=0), Interest(), 30) > expected_reads(
        usage(reads=5, idle_days=60), Interest(), 30
    )
    done = usage(planned_reads_per_day=1.0, planned_days=-3.0)
    assert chance_in_use(done, Interest()) == 0.0


def test_money_of_moves():
    here, there = CLASSES["glacier-ir"], CLASSES["standard"]
    sample = usage()
    assert move_usd(sample, here, here, 5) == 0
    early = move_usd(sample, here, there, 0) - move_usd(sample, here, there, 90)
    assert early == pytest.approx(10 * 0.004 / 30.4 * 90, rel=1e-6)
    retrieval = move_usd(sample, here, there, 90) - move_usd(sample, here, there, 90, at_hand=True)
    assert retrieval == pytest.approx(10 * 0.03, rel=0.05)


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Local folders, priced as if warm and cold were S3."""
    found = Store(Tiers.under(tmp_path / "store"))
    names = {"hot": "block", "warm": "standard", "cold": "glacier-ir"}
    monkeypatch.setattr(
        "pipelines.tiers.tier_class", lambda s, c, tier: c.storage_class("aws", names[tier])
    )
    return found


def put(store, tmp_path, size, **kwargs):
    folder = tmp_path / f"in{time.time_ns()}"
    folder.mkdir()
    (folder / "f").write_bytes(os.urandom(size))
    return store.put_folder(folder, kind="model", **kwargs)


def age(store, days):
    for tier in ("hot", "warm", "cold"):
        for path in store.local_root(tier).rglob("*"):
            if path.is_file():
                os.utime(path, (time.time() - days * 86400,) * 2)


def test_status_says_where_who_and_how_much(store, tmp_path):
    uri = put(store, tmp_path, 1000)
    store.copy_to_tier(uri, "warm")
    age(store, 100)
    published = put(store, tmp_path, 500)
    store.put_json("published/m/latest.json", {"uri": published})
    store.put_json(
        "runs/r/steps/train.json",
        {
            "started_at": (datetime.now(UTC) - timedelta(days=100)).isoformat(),
            "cached": False,
            "metrics": {"artifacts_read": [uri, uri]},
        },
    )
    found = {h.uri: h for h in status(store, CATALOG)}
    old = found[uri]
    assert old.tiers == ("hot", "warm")
    assert old.bytes == 1000
    assert old.reads == 2
    assert old.named_by == "runs/r/steps/train.json"
    assert old.age_days == pytest.approx(100, abs=0.1)
    assert old.usd_per_month == pytest.approx(1000 / 1e9 * (0.08 + 0.023))
    assert found[published].named_by == "published/m/latest.json"
    plain = status(store)
    assert {h.usd_per_month for h in plain} == {None}


def test_sweep_moves_verified_copies_and_keeps_what_is_in_use(store, tmp_path):
    uri = put(store, tmp_path, 300_000)
    age(store, 200)
    fresh = put(store, tmp_path, 300_000)
    planned = sweep(store, CATALOG)
    assert uri in [holding.uri for holding, _ in planned]
    assert store.tiers_of(uri) == ["hot"]
    sweep(store, CATALOG, dry_run=False)
    assert store.tiers_of(uri) == [
        next(h.best_tier for h in status(store, CATALOG) if h.uri == uri)
    ]
    assert "hot" not in store.tiers_of(uri)
    assert "hot" in store.tiers_of(fresh)
    # The move renewed the manifest's time, yet the artifact is as old and idle as before.
    holding = next(h for h in status(store, CATALOG) if h.uri == uri)
    assert holding.idle_days == pytest.approx(200, abs=0.1)
    assert uri not in [holding.uri for holding, _ in sweep(store, CATALOG)]


def test_a_damaged_copy_stops_the_move(store, tmp_path, monkeypatch):
    uri = put(store, tmp_path, 300_000)
    age(store, 200)
    real = store.buckets["cold"].upload

    def damages(key, source):
        real(key, source)
        path = store.local_root("cold") / key
        path.chmod(0o644)
        path.write_bytes(b"x")

    for tier in ("warm", "cold"):
        monkeypatch.setattr(store.buckets[tier], "upload", damages)
    monkeypatch.setattr(store.buckets["warm"], "upload", real)
    holding = next(h for h in status(store, CATALOG) if h.uri == uri)
    if holding.best_tier == "cold":
        [(_, words)] = sweep(store, CATALOG, dry_run=False)
        assert "not moved" in words
        assert "missing or corrupted" in words
    store.verify(uri, "hot")


def test_restore_and_gc(store, tmp_path):
    uri = put(store, tmp_path, 1000, tier="cold")
    restore(store, uri)
    assert store.tiers_of(uri) == ["hot", "cold"]
    age(store, 5)
    planned = gc(store)
    assert sorted(planned.artifacts) == ["cold", "hot"]
    gc(store, dry_run=False)
    assert store.tiers_of(uri) == []
    with pytest.raises(DataError, match="no tier holds"):
        restore(store, uri)


def test_tiers_are_priced_by_their_uri():
    store = Store.__new__(Store)
    store.tiers = Tiers(hot="/x", warm="gs://b", cold="s3://b?storage_class=DEEP_ARCHIVE")
    assert tier_class(store, CATALOG, "hot") is None
    warm, cold = tier_class(store, CATALOG, "warm"), tier_class(store, CATALOG, "cold")
    assert (warm.cloud, warm.name) == ("gcp", "standard")
    assert (cold.cloud, cold.name) == ("aws", "archive")
    assert parse_uri("artifact://x/" + "0" * 64) == ("x", "0" * 64)


def test_lifecycle_rules_are_printed_for_the_clouds_own_tools(capsys):
    for provider in ("s3", "gcs"):
        arguments = ["--provider", provider, "--cold-after-days", "45", "--retention-days", "90"]
        with pytest.raises(SystemExit) as left:
            main(["tier", "lifecycle", *arguments])
        assert left.value.code == 0
        rules = json.loads(capsys.readouterr().out)
        assert rules == lifecycle_rules(provider, retention_days=90, cold_after_days=45)


def test_the_tuned_model_of_a_run_is_copied_out(store, tmp_path):
    """A copy to change at will: the store's own files stay as they are."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    uri = store.put_folder(folder, kind="model")
    with pytest.raises(DataError, match="no finished training"):
        tuned_model(store, "r1")
    store.put_json("runs/r1/steps/train.json", {"output": uri})
    assert tuned_model(store, "r1") == uri
    copy_out(store, uri, tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("changed")
    assert (store.fetch(uri, tmp_path / "again") / "config.json").read_text() == "{}"
    with pytest.raises(DataError, match="not empty"):
        copy_out(store, uri, tmp_path / "base")
