"""Interval widths: set by groups held out, judged on groups they never saw."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import widths
from benchmarks.accuracy import within
from benchmarks.one_run import NEAR, after_runs
from pipelines.cost.calibration import Z80, Calibration

KINDS = ["a.train.pretrain"] * 300 + ["b.infer.infer"] * 300
KNOWN = np.ones(600, dtype=bool)


def held_out(error, groups, new=()):
    """600 rows whose residual model says 5 %, and which are new in the levels of `new`."""
    found = {level: np.full(600, level in new) for level in widths.LEAN}
    return widths.HeldOut(
        groups=groups, mean=error, error=np.abs(error), variance=np.full(600, 0.05**2), new=found
    )


@pytest.fixture
def held():
    generator = np.random.default_rng(0)
    folds = generator.integers(0, 5, 600).astype(str)
    groups = np.array([f"g{i % 12}" for i in range(600)])
    shift = 0.15 * generator.normal(size=12)[[i % 12 for i in range(600)]]
    row = 0.05 * generator.normal(size=600)
    return {
        "random": held_out(row, folds),
        "model": held_out(row, groups, ("new_model",)),
        "gpu": held_out(row + shift, groups, ("new_gpu",)),
        "table": held_out(row + 2 * shift, groups, ("new_stack",)),
    }


def test_each_kind_of_newness_gets_the_width_its_own_errors_ask_for(held):
    found = widths.figures(held, KINDS, KNOWN, KNOWN)
    assert found.extra["new_model"] < 0.05
    assert 0.08 < found.extra["new_gpu"] < 0.25
    assert found.extra["new_gpu"] < found.extra["new_stack"]
    for mode in ("random", "gpu", "table"):
        inside = held[mode].error <= Z80 * found.spread(held[mode], KINDS)
        assert 0.78 <= inside.mean() <= 0.92, mode


def test_a_group_is_judged_by_widths_that_never_saw_it(held):
    before = widths.unknowing(held, KINDS, "gpu", KNOWN)
    mine = held["gpu"].groups == "g3"
    wild = {
        mode: replace(answer, error=np.where(mine, 9.0, answer.error))
        for mode, answer in held.items()
    }
    after = widths.unknowing(wild, KINDS, "gpu", KNOWN)
    assert after[mine] == pytest.approx(before[mine])
    assert np.all(after[~mine] >= before[~mine])


def test_a_class_without_a_figure_takes_that_of_the_class_above():
    c = Calibration(
        effects={"new_gpu:a.train|T4": (0.0, 0.0)}, spreads={}, noise=0.0,
        unseen={"new_gpu": 0.3, "new_gpu:a.train": 0.1},
    )  # fmt: skip
    assert c.of("new_gpu:a.train.pretrain.nodes|L4") == pytest.approx((0.0, 0.01))
    assert c.of("new_gpu:b.train|L4") == pytest.approx((0.0, 0.09))
    assert c.of("new_gpu:a.train|T4") == (0.0, 0.0)


def test_small_groups_may_miss_the_window_by_chance_and_large_ones_may_not():
    parts = {
        "gpu:small": {"rows": 12.0, "coverage": 1.0},
        "gpu:large": {"rows": 400.0, "coverage": 0.97},
        "gpu:good": {"rows": 50.0, "coverage": 0.82},
        "gpu:tiny": {"rows": 3.0, "coverage": 0.0},
    }
    assert within(parts, "gpu") == {"groups": 3, "inside": 1, "consistent": 2}


def same_gpu(error, sequence, models):
    """Rows of one GPU, kind and layout: log errors, sequence lengths, models."""
    ones = np.ones(len(error))
    columns = {"seq_len": np.array(sequence), "micro_batch": ones}
    columns |= dict.fromkeys(("n_gpus", "tp", "pp", "cp"), ones)
    names = {"precision": np.array(["fp16"] * len(error), dtype=object)}
    table = type("Table", (), {"names": names, "__getitem__": lambda _, k: columns[k]})()
    return SimpleNamespace(
        gpu=np.array(["x"] * len(error)), columns=table, model=np.array(models)
    ), np.array(sequence) * 1e-3


def test_one_run_takes_away_what_work_alike_has_in_common():
    error = np.log(np.array([1.3, 1.31, 1.29, 1.3, 1.32, 1.28, 1.3, 1.3]))
    rows, seconds = same_gpu(error, [128.0] * 8, ["m"] * 8)
    found = after_runs(rows, ["s.train"] * 8, seconds, error)[NEAR[0]]
    assert found["mean over GPUs"]["before_median"] == pytest.approx(0.3, abs=0.01)
    assert found["mean over GPUs"]["after_median"] < 0.06
    few, seconds = same_gpu(error[:4], [128.0] * 4, ["m"] * 4)
    assert after_runs(few, ["s.train"] * 4, seconds, error[:4]) == {}  # four rows tell nothing


def test_one_run_says_little_of_other_models_and_sizes():
    error = np.log(np.array([1.3] * 5 + [0.9] * 5))
    rows, seconds = same_gpu(error, [128.0] * 5 + [8192.0] * 5, ["m"] * 10)
    far = after_runs(rows, ["s.train"] * 10, seconds, error)[NEAR[1]]["mean over GPUs"]
    rows, seconds = same_gpu(error, [128.0] * 10, ["m"] * 5 + ["n"] * 5)
    other = after_runs(rows, ["s.train"] * 10, seconds, error)[NEAR[2]]["mean over GPUs"]
    for part in (far, other):
        assert part["after_mean"] < part["before_mean"] + 0.05
