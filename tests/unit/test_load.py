"""The load generator gives a verdict for every scenario, and a reason for every refusal."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

from components.lib import load
from components.lib.dataset import Split

SPLIT = Split(
    name="test", rows=8, offsets=np.arange(9), input_ids=np.arange(8),
    lengths=np.ones(8, dtype=np.int64), columns={},
)  # fmt: skip


def runner(seconds: float) -> SimpleNamespace:
    """Answers a request in about `seconds`, batches of four in the same time."""

    def iterate(split: Split):
        for rows in np.array_split(np.arange(split.rows), -(-split.rows // 4)):
            time.sleep(seconds)
            yield rows, None

    return SimpleNamespace(run_row=lambda *_: time.sleep(seconds), iterate=iterate)


def test_every_scenario_gets_a_verdict():
    found = load.measure(runner(2e-4), SPLIT, seconds=0.2, p99_latency_ms=1000.0)
    assert set(found) == {*load.SCENARIOS, "seconds"}
    assert found["SingleStream"]["queries"] >= load.LEAST_QUERIES
    server = found["Server"]
    # Long enough to certify the percentile, whatever the wanted duration.
    assert server["queries"] >= load.SERVER_QUERIES
    assert server["offered_per_second"] <= 4000
    assert found["Offline"]["samples_per_second"] > found["SingleStream"]["samples_per_second"]
    for scenario in load.SCENARIOS:
        assert found[scenario]["valid"] == (not found[scenario]["why_invalid"])


@pytest.mark.parametrize(
    "service_s, bound_ms, reason",
    [(5e-3, 1000.0, "queries are too few to certify"), (1e-4, 1e-3, "latency|longer than")],
)
def test_an_invalid_server_says_why(service_s: float, bound_ms: float, reason: str):
    rows = np.arange(8)
    offered = 0.5 / service_s if service_s > 1e-3 else 2000.0
    found = load.serve(runner(service_s), SPLIT, rows, 0.2, offered=offered, bound_ms=bound_ms)
    assert not found["valid"]
    assert re.search(reason, found["why_invalid"])
