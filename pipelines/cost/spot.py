"""Spot capacity: how often to save, what interruptions cost in time and money.

All functions take numbers or numpy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Where no rate is published: GCP's traces (benchmarks/replay_spot.py) show 3 interruptions in 180
# hours of four zones.
DEFAULT_RATE_PER_HOUR = 0.016
# Mean time until capacity is back once it is gone: median over the availability traces.
WAIT_S = 1800.0
MIN_INTERVAL_S = 60.0
Number = Any  # float or numpy array


def rate_per_second(per_hour: float | None, nodes: Number = 1) -> Number:
    """Interruptions a second of a job on `nodes` nodes: losing one stops all."""
    return (DEFAULT_RATE_PER_HOUR if per_hour is None else per_hour) * nodes / 3600.0


def checkpoint_interval(save_s: Number, recover_s: Number, rate: Number) -> Number:
    """Seconds between checkpoints that lose least: Ts + sqrt(2 (Tf + Tr) Ts + Ts^2)
    (arXiv 2410.18124), which is Young's sqrt(2 Tf Ts) for short saves.

    Args:
        save_s: seconds of one checkpoint, Ts.
        recover_s: seconds until a restarted job works again, Tr.
        rate: interruptions a second, 1/Tf.
    """
    interval = save_s + np.sqrt(2.0 * (1.0 / rate + recover_s) * save_s + save_s**2)
    return np.maximum(MIN_INTERVAL_S, interval)


def with_checkpoints(work_s: Number, save_s: Number, interval_s: Number) -> Number:
    """Seconds of uninterrupted work that saves every `interval_s`."""
    return work_s + np.floor(work_s / interval_s) * save_s


def daly_seconds(
    work_s: Number, save_s: Number, recover_s: Number, interval_s: Number, rate: Number
) -> Number:
    """Expected seconds of work that restarts from its last checkpoint however often it is
    interrupted: each block takes (1/rate + Tr) (e^(rate (Tc + Ts)) - 1) (Daly 2006)."""
    compute = np.minimum(np.maximum(interval_s - save_s, 1.0), np.maximum(work_s, 1e-9))
    blocks = work_s / compute
    return blocks * (1.0 / rate + recover_s) * np.expm1(rate * (compute + save_s))


def interrupted(work_s: Number, rate: Number) -> Number:
    """Probability of at least one interruption."""
    return -np.expm1(-rate * work_s)


def seconds_before(work_s: Number, rate: Number) -> Number:
    """Expected seconds on spot until the first interruption or the end."""
    return interrupted(work_s, rate) / rate


def lost_seconds(recover_s: Number, interval_s: Number, work_s: Number) -> Number:
    """Seconds that one interruption costs: recovery and half an interval done again."""
    return recover_s + np.minimum(interval_s, work_s) / 2.0


def fallback_seconds(work_s: Number, recover_s: Number, interval_s: Number, rate: Number) -> Number:
    """Expected seconds when work goes on at on-demand prices after its first interruption (the
    safe mode of "Can't Be Late", NSDI 2024)."""
    return work_s + interrupted(work_s, rate) * lost_seconds(recover_s, interval_s, work_s)


def fallback_usd(
    work_s: Number, recover_s: Number, interval_s: Number, rate: Number, *, spot: Number,
    on_demand: Number,
) -> Number:  # fmt: skip
    """Expected money of `fallback_seconds`, prices in USD an hour for all nodes together."""
    before = seconds_before(work_s, rate)
    after = fallback_seconds(work_s, recover_s, interval_s, rate) - before
    return (before * spot + after * on_demand) / 3600.0


def waiting_seconds(
    work_s: Number, save_s: Number, recover_s: Number, interval_s: Number, rate: Number
) -> Number:
    """Expected seconds on spot alone: restarts, and waits for capacity after each interruption.
    Only the restarts are paid for."""
    worked = daly_seconds(work_s, save_s, recover_s, interval_s, rate)
    return worked + rate * worked * WAIT_S
