"""Spot, billing, storage, transfer and queueing against simulations and worked examples."""

from __future__ import annotations

import math
import random

import pytest

from pipelines.cost.catalog import StorageClass, load_catalog
from pipelines.cost.money import billed_seconds, transfer_usd
from pipelines.cost.regions import round_trip_ms
from pipelines.cost.serving import erlang_c, p99_seconds, replicas_for
from pipelines.cost.spot import (
    checkpoint_interval,
    daly_seconds,
    fallback_seconds,
    fallback_usd,
    rate_per_second,
    with_checkpoints,
)
from pipelines.cost.storage import Kept, keeping_usd

HOUR = 3600.0


def test_interval_reduces_to_youngs_for_short_saves() -> None:
    found = checkpoint_interval(1.0, 0.0, 1 / (24 * HOUR))
    assert found == pytest.approx(math.sqrt(2 * 24 * HOUR * 1.0), rel=0.01)


def test_interval_is_near_the_best_of_daly() -> None:
    save, recover, rate, work = 20.0, 120.0, 1 / (2 * HOUR), 10 * HOUR
    chosen = float(checkpoint_interval(save, recover, rate))
    best = min(daly_seconds(work, save, recover, t, rate) for t in range(60, 7200, 10))
    assert daly_seconds(work, save, recover, chosen, rate) <= best * 1.005


def test_daly_agrees_with_a_simulation() -> None:
    save, recover, rate, work, interval = 30.0, 100.0, 1 / (1 * HOUR), 5 * HOUR, 900.0
    random.seed(1)
    total = sum(_simulate(save, recover, rate, work, interval) for _ in range(3000)) / 3000
    assert daly_seconds(work, save, recover, interval, rate) == pytest.approx(total, rel=0.03)


def _simulate(save: float, recover: float, rate: float, work: float, interval: float) -> float:
    """Seconds of a job that restarts from its last checkpoint; interruptions hit recovery too."""
    clock, done = 0.0, 0.0
    until = random.expovariate(rate)
    while done < work:
        block = min(interval - save, work - done) + save
        if until > block:
            clock, until, done = clock + block, until - block, done + block - save
            continue
        clock += until
        until = random.expovariate(rate)
        while until < recover:
            clock += until
            until = random.expovariate(rate)
        clock, until = clock + recover, until - recover
    return clock


def test_fallback_agrees_with_a_simulation() -> None:
    work, recover, interval, rate = 2 * HOUR, 200.0, 1200.0, 1 / (3 * HOUR)
    random.seed(2)
    runs = []
    for _ in range(20000):
        hit = random.expovariate(rate)
        if hit >= work:
            runs.append((work, work, 0.0))
        else:
            # On average half an interval of work is lost and done again on demand.
            rest = work - hit + recover + random.uniform(0, interval)
            runs.append((hit + rest, hit, rest))
    seconds = sum(r[0] for r in runs) / len(runs)
    usd = sum(r[1] * 1.0 + r[2] * 3.0 for r in runs) / len(runs) / HOUR
    assert fallback_seconds(work, recover, interval, rate) == pytest.approx(seconds, rel=0.02)
    found = fallback_usd(work, recover, interval, rate, spot=1.0, on_demand=3.0)
    assert found == pytest.approx(usd, rel=0.02)


def test_a_safe_spot_market_costs_the_spot_price() -> None:
    found = fallback_usd(HOUR, 100.0, 900.0, 1e-12, spot=0.2, on_demand=1.0)
    assert found == pytest.approx(0.2, rel=1e-3)


def test_more_nodes_are_interrupted_more_often() -> None:
    assert rate_per_second(0.01, 8) == pytest.approx(8 * rate_per_second(0.01))


def test_checkpoints_are_paid_for() -> None:
    assert with_checkpoints(1000.0, 5.0, 300.0) == 1015.0


def test_billing_is_by_the_second_and_a_minute_at_least() -> None:
    assert billed_seconds(3.2) == 60
    assert billed_seconds(61.2) == 62


STANDARD = StorageClass(
    cloud="x", name="standard", usd_per_gb_month=0.023, put_usd_per_1000=0.005,
    get_usd_per_1000=0.0004, retrieval_usd_per_gb=0.0, min_days=0, min_object_bytes=0,
)  # fmt: skip
ARCHIVE = StorageClass(
    cloud="x", name="glacier-ir", usd_per_gb_month=0.004, put_usd_per_1000=0.02,
    get_usd_per_1000=0.01, retrieval_usd_per_gb=0.03, min_days=90, min_object_bytes=128 * 1024,
)  # fmt: skip


def kept(size: float, *, files: float = 1, reads: float = 0.0, days: float = 365.0) -> Kept:
    return Kept(name="a", bytes=size, files=files, reads_per_month=reads, days=days, instant=True)


def test_archive_pays_for_what_is_rarely_read() -> None:
    seldom, often = kept(100e9, reads=0.1), kept(100e9, reads=10.0)
    assert keeping_usd(seldom, ARCHIVE) < keeping_usd(seldom, STANDARD)
    assert keeping_usd(often, ARCHIVE) > keeping_usd(often, STANDARD)


def test_early_deletion_and_small_objects_are_billed() -> None:
    week = kept(100e9, days=7.0)
    assert keeping_usd(week, ARCHIVE) == pytest.approx(
        keeping_usd(kept(100e9, days=90.0), ARCHIVE), rel=1e-6
    )
    crumbs = kept(1e6, files=100_000)
    whole = kept(100_000 * 128 * 1024)
    capacity = whole.bytes / 1e9 * 0.004 * 365 / 30.4
    assert keeping_usd(crumbs, ARCHIVE) > capacity


def test_transfer_prices_by_scope() -> None:
    catalog = load_catalog()
    gb = 1e9

    def price(source: tuple[str, str], target: tuple[str, str]) -> float:
        return transfer_usd(catalog, gb, source=source, target=target)

    assert price(("aws", "us-east-1"), ("aws", "us-east-1")) == 0
    assert price(("aws", "eu-west-1"), ("aws", "us-east-1")) == pytest.approx(0.02)
    assert price(("aws", "us-east-1"), ("gcp", "us-east1")) == pytest.approx(0.09)
    assert price(("", ""), ("gcp", "us-east1")) == 0


def test_round_trips_are_near_published_ones() -> None:
    catalog = load_catalog()
    # Medians of cloudping.co style tables: Virginia-Dublin 67-75 ms, Virginia-Oregon 57-70 ms,
    # Frankfurt-Dublin 20-28 ms.
    assert 60 < round_trip_ms(catalog, "us-east-1", "eu-west-1") < 90
    assert 50 < round_trip_ms(catalog, "us-east-1", "us-west-2") < 80
    assert 12 < round_trip_ms(catalog, "eu-central-1", "eu-west-1") < 32


def test_erlang_c_worked_example() -> None:
    # Two servers, load 1.2: P(wait) = 0.45 (Erlang's table).
    assert erlang_c(2, 1.2) == pytest.approx(0.45, abs=0.001)
    assert erlang_c(1, 0.5) == pytest.approx(0.5)


def test_p99_agrees_with_a_simulation_of_the_queue() -> None:
    random.seed(3)
    service, servers, arrivals = 0.01, 4, 300.0
    free, clock, waits = [0.0] * servers, 0.0, []
    for _ in range(200_000):
        clock += random.expovariate(arrivals)
        start = max(clock, min(free))
        free[free.index(min(free))] = start + random.expovariate(1 / service)
        waits.append(start - clock)
    simulated = sorted(waits)[int(0.99 * len(waits))]
    assert p99_seconds(service, servers, arrivals) - 1.5 * service == pytest.approx(
        simulated, rel=0.08
    )


def test_replicas_grow_with_load_and_never_overload() -> None:
    assert replicas_for(0.005, 20.0, 0.05) == 1
    many = replicas_for(0.005, 2000.0, 0.05)
    assert many is not None
    assert 2000.0 * 0.005 / many <= 0.8
    assert replicas_for(0.1, 1.0, 0.05) is None
