"""Receipts of a cluster compare containers with containers, and tell the waits apart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.storage import Store, Tiers
from pipelines.cost.way import HERE
from pipelines.plan import make_plan
from pipelines.reporting.collect import collect_report
from pipelines.spec import parse_spec

NEWSROOM = Path(__file__).parents[2] / "pipelines" / "examples" / "newsroom-ner.yaml"
NAMES = ("ingest", "decide", "place", "train")


def run_of(
    folder: Path, waits: dict[str, float], cached: str = "", precision: str = "microseconds"
) -> dict:
    """The report of a run on the cluster whose containers took what was predicted of them, each
    started so long after the one before."""
    spec = parse_spec(NEWSROOM.read_text(), source="spec.yaml", folder=NEWSROOM.parent)
    plan = make_plan(spec)
    store, at = Store(Tiers.under(folder)), 1_000_000.0
    for name in NAMES:
        total = plan.calibration["steps"][name]["container"]["value"]
        at += waits.get(name, 0.0)
        started = datetime.fromtimestamp(at, UTC)
        store.put_json(
            f"runs/r/steps/{name}.json",
            {"step": name, "kind": name, "cached": name == cached, "seconds": {"total": total},
 "started_at": started.isoformat(timespec=precision), "peak_memory_bytes": 1, "hardware": {}},
        )  # fmt: skip
        at += total
    return collect_report(store, "r", plan, "running")


def test_containers_are_compared_with_containers(tmp_path: Path) -> None:
    report = run_of(tmp_path, {"decide": 10.0, "place": 12.0, "train": 300.0})
    steps = {step["name"]: step for step in report["steps"]}
    for name in NAMES:
        assert steps[name]["comparison"]["seconds_error"] == pytest.approx(0.0)
        assert steps[name]["comparison"]["within_interval"]
        assert steps[name]["node"] != HERE
    assert steps["train"]["predicted"]["wait_s"] > 60.0  # a node, an image
    assert steps["ingest"]["measured"]["wait_s"] is None  # nothing ended before it
    assert steps["train"]["measured"]["wait_s"] == pytest.approx(300.0)
    assert report["prediction"]["measured_wait_seconds"] == pytest.approx(322.0)
    predicted = sum(steps[name]["predicted"]["wait_s"] for name in ("decide", "place", "train"))
    assert report["prediction"]["predicted_wait_seconds"] == pytest.approx(predicted)


def test_waiting_for_a_node_is_paid(tmp_path: Path) -> None:
    usd = [
        next(s for s in run_of(tmp_path / str(wait), {"train": wait})["steps"]
             if s["name"] == "train")["measured"]["usd"]
        for wait in (0.0, 600.0)
    ]  # fmt: skip
    assert usd[1] > usd[0]


def test_a_run_with_steps_taken_over_does_not_tell_its_waits(tmp_path: Path) -> None:
    report = run_of(tmp_path, {"train": 300.0}, cached="ingest")
    assert all(s["measured"]["wait_s"] is None for s in report["steps"] if s["measured"])
    assert report["prediction"]["measured_wait_seconds"] is None


def test_starts_in_whole_seconds_do_not_hide_the_step_before(tmp_path: Path) -> None:
    """Of a wait of a tenth of a second nothing is left; what came before the step before it is not
    counted instead."""
    short = {"decide": 0.1, "place": 0.1, "train": 0.1}
    report = run_of(tmp_path, short, precision="seconds")
    waits = [s["measured"]["wait_s"] for s in report["steps"] if s["measured"]]
    assert all(wait <= 1.1 for wait in waits if wait is not None)
    assert sum(wait is not None for wait in waits) >= 3
