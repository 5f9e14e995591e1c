"""The rule that chooses a variant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.contract import DataError, GateError, SpecError
from components.select import step as select
from components.select.rule import Candidate, Promise, judge, pick, table
from tests.inference_support import make_context, make_store


def candidate(name: str, right: int, *, rate: float, p99: float = 5.0, size: int = 100):
    """A variant that gets the first `right` of 100 examples right."""
    counts = np.stack([np.arange(100) < right, np.ones(100)], axis=1).astype(float)
    evaluation = {
        "variant": name, "metric": "accuracy", "value": right / 100, "ci95": [0, 1], "metrics": {},
        "latency_ms": {"p50": p99 / 2, "p90": p99, "p99": p99, "mean": p99 / 2},
        "split": "validation", "throughput_per_s": rate, "size_bytes": size,
        "usd_per_million": None,
    }  # fmt: skip
    return Candidate.of(evaluation, counts)


def choose(candidates, **promise):
    made = Promise.from_arguments({"max_quality_drop": 0.02, **promise})
    judged = judge(candidates, "fp32", made, seed=0)
    chosen = pick(judged, made)
    return chosen.name if chosen else None, {c.name: c for c in judged}


FP32 = candidate("fp32", 90, rate=10, p99=20, size=400)
INT8 = candidate("int8", 89, rate=40, p99=5)
PRUNED = candidate("prune50", 85, rate=80, p99=3, size=50)


def test_takes_the_cheapest_that_keeps_quality():
    name, judged = choose([FP32, INT8, PRUNED])
    assert name == "int8"
    assert judged["fp32"].accepted
    assert not judged["prune50"].accepted
    assert "loses 0.0500 accuracy, allowed 0.02" in judged["prune50"].reason


def test_a_larger_budget_takes_the_pruned_one():
    assert choose([FP32, INT8, PRUNED], max_quality_drop=0.05)[0] == "prune50"


def test_the_bound_is_stricter_than_the_point():
    name, judged = choose([FP32, INT8, PRUNED], gate="bound")
    assert name == "fp32"
    assert judged["int8"].drop.value == pytest.approx(0.01)
    assert "95 % bound" in judged["int8"].reason


def test_latency_rules_out():
    assert choose([FP32, INT8, PRUNED], p99_latency_ms=4.0)[0] is None
    assert choose([FP32, INT8], p99_latency_ms=6.0)[0] == "int8"


def test_time_prefers_latency():
    slow = candidate("int8", 90, rate=100, p99=9)
    quick = candidate("distill3", 90, rate=50, p99=2)
    assert choose([FP32, slow, quick])[0] == "int8"
    assert choose([FP32, slow, quick], minimize="time")[0] == "distill3"


def test_equal_speed_takes_the_smaller():
    same = candidate("fp16", 90, rate=10, p99=20, size=200)
    assert choose([FP32, same])[0] == "fp16"


def test_the_table_has_every_variant_and_its_reason():
    _, judged = choose([FP32, INT8, PRUNED])
    text = table([c.row() for c in judged.values()])
    assert len(text.splitlines()) == 4
    assert "prune50" in text
    assert "allowed" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gate": "luck"}, "compression.gate"),
        ({"minimize": "effort"}, "objective.minimize"),
        ({"max_quality_drop": -0.1}, "max_quality_drop"),
    ],
)
def test_bad_promises(arguments, message):
    with pytest.raises(SpecError, match=message):
        Promise.from_arguments(arguments)


def evaluations(store, folder: Path, candidates: list[Candidate]) -> list[str]:
    uris = []
    for item in candidates:
        made = folder / item.name
        made.mkdir(parents=True)
        (made / "evaluation.json").write_text(json.dumps(item.evaluation))
        np.savez(made / "outcomes.npz", counts=item.counts)
        uris.append(store.put_folder(made, kind="evaluation"))
    return uris


def run_select(tmp_path: Path, candidates: list[Candidate], **arguments):
    store = make_store(tmp_path / "store")
    uris = evaluations(store, tmp_path / "e", candidates)
    inputs = {"evaluations": uris, "onnx": uris, "dataset": ""}
    return select.run(make_context(store, "select", arguments, inputs))


def test_gate_fails_with_the_table(tmp_path: Path):
    with pytest.raises(GateError, match="prune50") as caught:
        run_select(tmp_path, [FP32, INT8, PRUNED], p99_latency_ms=1.0)
    assert caught.value.exit_code == 4
    assert "p99 5.00 ms, allowed 1 ms" in str(caught.value)
    assert "max_quality_drop" in caught.value.remedy


def test_without_a_reference_there_is_nothing_to_compare_with(tmp_path: Path):
    with pytest.raises(SpecError, match="fp32"):
        run_select(tmp_path, [INT8, PRUNED])


def test_refuses_to_choose_by_test(tmp_path: Path):
    for item in (seen := [candidate("fp32", 90, rate=1)]):
        item.evaluation["split"] = "test"
    with pytest.raises(SpecError, match="test"):
        run_select(tmp_path, seen)


def test_refuses_different_data(tmp_path: Path):
    other = Candidate.of({**INT8.evaluation, "split": "train"}, INT8.counts)
    with pytest.raises(DataError, match="different data"):
        run_select(tmp_path, [FP32, other])
