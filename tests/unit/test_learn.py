"""A run's receipt corrects the next prediction, and only where it has evidence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.contract import DataError, Hardware, SpecError, StepReport
from components.storage import Store, Tiers
from pipelines.cost.calibration import Calibration, Observation, fit_residuals
from pipelines.cost.catalog import load_catalog
from pipelines.cost.chain import StepCost
from pipelines.cost.coefficients import constants_hash
from pipelines.cost.estimate import Estimate
from pipelines.cost.learnt import Work, adjusted, device_of, learnt_ratio, narrowed
from pipelines.cost.machine import machine_of
from pipelines.learn import learn
from pipelines.plan import make_plan
from pipelines.spec import parse_spec
from tests.machines import measured_here
from tests.plans import sample_plan
from tests.support import suanli

NEWSROOM = Path(__file__).parents[2] / "pipelines" / "examples" / "newsroom-ner.yaml"
HARDWARE = Hardware(cpu_model="Test CPU", cpu_count=2, memory_bytes=1 << 34)


STARTED = "2026-01-01T00:00:00+00:00"


def report(
    step: str, seconds: float, *, cached: bool = False, fingerprint: str = "",
    started: str = STARTED,
) -> StepReport:  # fmt: skip
    return StepReport(
        step=step, kind=step.split("-")[0], fingerprint=fingerprint or step, plan_hash="p",
        output="u", cached=cached, started_at=started,
        seconds={"total": seconds}, workload={}, requested={}, hardware=HARDWARE, bytes_in=0,
        bytes_out=0, peak_memory_bytes=1, peak_gpu_memory_bytes=None, energy_joules=None,
        metrics={}, series={}, notes=[],
    )  # fmt: skip


def finished_run(
    folder: Path, times: float, constants: str = "", started: str = STARTED, **factors: Any
) -> Path:
    """A run of the sample plan on this machine whose steps took `times` as long as predicted."""
    plan = sample_plan()
    here = tuple(replace(step, node="here") for step in plan.steps)
    bare = {
        s.step: {"seconds": s.seconds.value / factors.get(s.step, 1.0), "precision": "bf16",
                 "model": "minilm-l6", "gpu": None}
        for s in here
    }  # fmt: skip
    known = {"factors": factors, "steps": bare, "constants": constants or constants_hash()}
    plan = replace(plan, steps=here, calibration=known)
    run = folder / "run-1"
    run.mkdir(parents=True)
    tiers = Tiers.under(folder / "store")
    store = Store(tiers)
    for step in plan.steps:
        done = report(step.step, step.seconds.value * times, started=started)
        store.put_json(f"runs/run-1/steps/{step.step}.json", done.to_json())
    (run / "plan.json").write_text(json.dumps(plan.to_json()))
    (run / "run.json").write_text(json.dumps({"run_id": "run-1", "tiers": tiers.to_json()}))
    return run


def cost(seconds: float) -> StepCost:
    one = Estimate(value=1.0, low=0.5, high=2.0)
    return StepCost(seconds=Estimate.of(seconds, 2.0), memory_bytes=one, disk_bytes=0.0)


def training(device: str = "", gpu: str | None = None) -> Work:
    here = device or device_of("here", HARDWARE)
    return Work(kind="train", device=here, precision="bf16", model="minilm-l6", gpu=gpu)


def test_twice_as_slow_is_learnt(tmp_path: Path) -> None:
    lesson = learn([finished_run(tmp_path, 2.0)])
    assert lesson.errors["all"]["before_median"] == pytest.approx(0.5, abs=0.01)
    assert lesson.errors["all"]["after_median"] < 0.05
    seconds = sample_plan().step("train").seconds.value
    better, factor = adjusted(cost(seconds), lesson.calibration, training())
    assert factor == pytest.approx(2.0, rel=0.05)
    assert better.seconds.value == pytest.approx(2 * seconds, rel=0.05)
    assert better.seconds.high / better.seconds.low < 4.0  # narrower than before


def test_a_run_that_other_constants_planned_is_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another version"):
        learn([finished_run(tmp_path, 2.0, constants="older")])


def test_another_machine_learns_nothing(tmp_path: Path) -> None:
    lesson = learn([finished_run(tmp_path, 2.0)])
    same, factor = adjusted(
        cost(100.0), lesson.calibration, training(device="g5.xlarge", gpu="A10G")
    )
    assert factor == 1.0
    assert same == cost(100.0)


def test_a_calibrated_plan_is_not_learnt_twice(tmp_path: Path) -> None:
    """The plan's figures hold a factor of 2 already; its steps took what it said."""
    names = {step.step: 2.0 for step in sample_plan().steps}
    lesson = learn([finished_run(tmp_path, 1.0, **names)])
    half = cost(sample_plan().step("train").seconds.value / 2)
    assert adjusted(half, lesson.calibration, training())[1] == pytest.approx(2.0, rel=0.05)


def test_cached_and_repeated_steps_are_no_evidence(tmp_path: Path) -> None:
    first = finished_run(tmp_path, 2.0)
    once = learn([first]).rows
    assert learn([first, first]).rows == once
    again = finished_run(tmp_path / "again", 2.0, started="2026-01-02T00:00:00+00:00")
    assert learn([first, again]).rows == 2 * once  # the same work, done twice
    store = Store(Tiers.under(tmp_path / "store"))
    for key in list(store.list_json("runs/run-1/steps")):
        store.put_json(key, {**store.get_json(key), "cached": True})
    with pytest.raises(DataError, match="cached"):
        learn([first])


def test_the_file_round_trips_through_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "calibration.yaml"
    done = suanli("calibrate", finished_run(tmp_path, 1.5), "-o", output)
    assert done.returncode == 0, done.stderr
    assert "median error before" in done.stdout
    document = yaml.safe_load(output.read_text())
    again = Calibration.from_json(document)
    assert again.evidence["runs"] == ["run-1"]
    assert document["errors"]["all"]["after_median"] < document["errors"]["all"]["before_median"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not the folder of a run"):
        learn([tmp_path])
    done = suanli("calibrate", tmp_path, "-o", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert not (tmp_path / "c.yaml").exists()


def test_the_speed_at_which_data_moved_is_learnt_and_used(tmp_path: Path) -> None:
    run = finished_run(tmp_path, 1.0)
    store = Store(Tiers.under(tmp_path / "store"))
    moved = {
        # Ingest read a local source: that says nothing of the store, what it wrote does.
        "ingest": (1 << 40, 1 << 24, {"stage_in": 0.1, "stage_out": 1.0}),
        # Most of it came beside the training, in a second, of which the run waited a tenth.
        "train": (3 << 24, 0, {"stage_in": 0.1, "stage_out": 0.0, "stream_wait": 0.1}),
    }
    streamed = {"streamed_bytes": 5 << 23, "streamed_seconds": 0.9}
    for step, (read, written, phases) in moved.items():
        document = store.get_json(f"runs/run-1/steps/{step}.json")
        document.update(bytes_in=read, bytes_out=written)
        document["seconds"].update(phases)
        document["workload"].update(streamed if step == "train" else {})
        store.put_json(f"runs/run-1/steps/{step}.json", document)
    calibration = learn([run]).calibration
    name = device_of("here", HARDWARE)
    assert calibration.transfers == {name: 2 << 24}
    assert Calibration.from_json(calibration.to_json()).transfers == calibration.transfers
    catalog = replace(load_catalog(), transfers={"g5.xlarge": 12e6})
    speeds = {
        i.name: machine_of(i, catalog).store_bytes_per_second
        for i in catalog.instances
        if i.name in ("g5.xlarge", "g5.2xlarge")
    }
    assert speeds["g5.xlarge"] == 12e6
    assert speeds["g5.2xlarge"] > 100e6


def test_a_calibrated_plan_expects_data_at_the_speed_it_came(tmp_path: Path) -> None:
    spec = parse_spec(NEWSROOM.read_text(), source="spec.yaml", folder=tmp_path)
    cache = measured_here(tmp_path)
    plans = []
    for speed in (1e9, 1e6):
        transfers = {device_of("here"): speed}
        calibration = Calibration(effects={}, spreads={}, noise=0.1, transfers=transfers)
        plans.append(make_plan(spec, here=True, cache_dir=cache, calibration=calibration))
    fast, slow = ({s.step: s.seconds.value for s in plan.steps} for plan in plans)
    assert slow["train"] > fast["train"] + 1.0


def on_gpu(
    device: str = "g5.xlarge", gpu: str = "A10G", kind: str = "train", model: str = "minilm-l6"
) -> Work:
    return Work(kind=kind, device=device, precision="bf16", model=model, gpu=gpu)


def slow(work: Work, seconds: float, times: float, runs: int = 1) -> Calibration:
    one = Observation(effects=work.effects(seconds), log_ratio=math.log(times))
    return fit_residuals([one] * runs)


def factor(calibration: Calibration, work: Work, seconds: float) -> float:
    return adjusted(cost(seconds), calibration, work)[1]


def test_a_run_on_a_gpu_serves_other_nodes_with_it_and_work_alike_most() -> None:
    learnt = slow(on_gpu(), 600.0, 1.5)
    same = factor(learnt, on_gpu(), 600.0)
    elsewhere = factor(learnt, on_gpu(device="g5.12xlarge"), 600.0)
    larger, far = (factor(learnt, on_gpu(), seconds) for seconds in (1200.0, 60000.0))
    model = factor(learnt, on_gpu(model="bert-large"), 600.0)
    kind = factor(learnt, on_gpu(kind="evaluate"), 600.0)
    assert 1.3 < same < 1.5
    assert same > elsewhere > larger > far
    assert far < 1.15
    assert far == pytest.approx(factor(learnt, on_gpu(), 6.0))
    assert model < 1.15
    assert 1.0 < kind < model
    assert factor(learnt, on_gpu(device="p4d.24xlarge", gpu="A100-SXM4-40GB"), 600.0) == 1.0


def test_many_sizes_at_once_are_as_one_by_one() -> None:
    learnt = fit_residuals([
        Observation(effects=on_gpu().effects(seconds), log_ratio=math.log(times))
        for seconds, times in ((40.0, 1.3), (90.0, 1.1), (5000.0, 0.8))
    ])  # fmt: skip
    seconds = np.array([0.3, 1.0, 3.9, 40.0, 64.0, 300.0, 5000.0, 1e6])
    found = learnt_ratio(learnt, on_gpu(), seconds)
    for i, value in enumerate(seconds.tolist()):
        one = learnt.apply(on_gpu().effects(value))
        assert (found[0][i], found[1][i]) == pytest.approx(one)


def test_an_interval_narrows_only_where_this_work_was_measured() -> None:
    learnt, wide = slow(on_gpu(), 600.0, 1.5, runs=20), np.array([2.0])
    for work, same in ((on_gpu(), False), (on_gpu(kind="evaluate"), True)):
        found = learnt_ratio(learnt, work, np.array([600.0]))
        assert bool(narrowed(learnt, work, found[1], wide)[0] == 2.0) == same


def test_receipts_change_what_is_chosen(tmp_path: Path) -> None:
    """The GPU that seemed the cheapest took four times as long: another is taken."""
    text = (
        NEWSROOM.read_text()
        .replace("epochs: 3", "epochs: 300, precision: fp16")
        .replace("deadline: 2h", "deadline: 1h")
    )
    spec = parse_spec(text, source="spec.yaml", folder=NEWSROOM.parent)
    before = make_plan(spec)
    chosen, known = before.step("train"), before.calibration["steps"]["train"]
    work = Work(
        kind="train", device=chosen.node, precision=known["precision"], model=known["model"],
        gpu=known["gpu"],
    )  # fmt: skip
    learnt = slow(work, known["seconds"], 4.0, runs=5)
    after = make_plan(spec, calibration=learnt)
    assert after.step("train").node != chosen.node
    only = spec.model_copy(
        update={"objective": spec.objective.model_copy(update={"hardware": [chosen.node]})}
    )
    plain, slower = make_plan(only), make_plan(only, calibration=learnt)
    ratio = slower.step("train").seconds.value / plain.step("train").seconds.value
    assert slower.calibration["factors"]["train"] == pytest.approx(4.0, rel=0.25)
    assert 1.5 < ratio < 4.0  # what stands around the container takes as long as before
    same = pytest.approx(plain.calibration["steps"]["train"]["seconds"])
    assert slower.calibration["steps"]["train"]["seconds"] == same
