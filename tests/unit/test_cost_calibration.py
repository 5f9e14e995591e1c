"""Residuals shrink, generalise and travel as a reviewed file."""

import math

import numpy as np
import pytest

from components.contract import DataError
from pipelines.cost.calibration import (
    Calibration,
    Observation,
    error_before_after,
    fit_residuals,
)


def observe(device, operation, ratio, count=1, noise=0.0, seed=0):
    generator = np.random.default_rng(seed)
    effects = {f"device:{device}": 1.0, f"operation:{device}|{operation}": 1.0}
    return [
        Observation(effects=effects, log_ratio=math.log(ratio) + noise * generator.normal())
        for _ in range(count)
    ]


def test_error_falls_and_the_factor_is_recovered():
    rows = observe("cpu", "train", 1.5, count=20, noise=0.03)
    calibration = fit_residuals(rows)
    errors = error_before_after(rows, calibration)
    assert errors["before_median"] > 0.3
    assert errors["after_median"] < 0.05
    mean, _ = calibration.apply(rows[0].effects)
    assert math.exp(mean) == pytest.approx(1.5, rel=0.03)


def test_one_row_is_shrunk_more_than_many():
    one = fit_residuals(observe("cpu", "train", 2.0), noise=0.5)
    many = fit_residuals(observe("cpu", "train", 2.0, count=50), noise=0.5)
    effects = {"device:cpu": 1.0, "operation:cpu|train": 1.0}
    assert 0 < one.apply(effects)[0] < many.apply(effects)[0] < math.log(2.0)
    assert one.apply(effects)[1] > many.apply(effects)[1]


def test_what_was_learned_carries_over_to_another_operation_with_less_certainty():
    calibration = fit_residuals(observe("cpu", "train", 1.5, count=20))
    seen = calibration.apply({"device:cpu": 1.0, "operation:cpu|train": 1.0})
    related = calibration.apply({"device:cpu": 1.0, "operation:cpu|export": 1.0})
    other = calibration.apply({"device:gpu": 1.0, "operation:gpu|train": 1.0})
    assert seen[0] > related[0] > other[0] == 0.0
    assert seen[1] < related[1] < other[1]


def test_json_round_trip():
    calibration = fit_residuals(observe("cpu", "train", 1.2, count=3), evidence={"runs": ["a"]})
    again = Calibration.from_json(calibration.to_json())
    effects = {"device:cpu": 1.0}
    assert again.apply(effects) == pytest.approx(calibration.apply(effects), abs=1e-4)
    assert again.evidence == {"rows": 3, "runs": ["a"]}


@pytest.mark.parametrize(
    "document", [{}, {"schema_version": 99}, {"schema_version": 1, "effects": {"a": [1]}}]
)
def test_malformed_files_are_refused(document):
    with pytest.raises(DataError):
        Calibration.from_json(document)


def test_meaningless_measurements_are_refused():
    with pytest.raises(DataError):
        fit_residuals([Observation(effects={"device:cpu": 1.0}, log_ratio=float("inf"))])


def test_intervals_of_the_shipped_calibrations_widen_for_an_unseen_gpu():
    from pipelines.cost.model_names import by_name
    from pipelines.cost.predict import predict
    from pipelines.cost.workload import Workload

    def width(gpu):
        p = predict(
            Workload(kind="infer", task="infer", shape=by_name("bert-base"), gpu=gpu, seq_len=128,
                     micro_batch=8, precision="fp16", runtime="tensorrt")
        )  # fmt: skip
        return p.latency_high / p.latency_low

    assert width("RTX A6000") > width("T4")
