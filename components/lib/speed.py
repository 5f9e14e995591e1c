"""Latency, throughput, memory, energy and money of a runner on real sequences."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.lib.dataset import Split
from components.lib.runner import Runner

SECONDS_PER_HOUR = 3600.0
# Requests measured at least, so that p99 rests on a handful of requests and not on the worst one.
LEAST_REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Sequences and real tokens a second, best-case batches, tokenisation and padding apart."""

    sequences_per_s: float
    tokens_per_s: float
    padding_ratio: float
    passes: int
    seconds: float
    joules: float | None


def percentiles_ms(seconds: NDArray[Any]) -> dict[str, float]:
    """Return p50, p90, p99 and mean in milliseconds."""
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99]) * 1e3
    return {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "mean": float(seconds.mean() * 1e3),
    }


def sample_rows(rows: int, most: int, seed: int) -> NDArray[Any]:
    """Choose up to `most` rows at random; fewer rows than `LEAST_REQUESTS` repeat."""
    random = np.random.default_rng(seed)
    order = random.permutation(rows)[:most]
    return np.resize(order, max(len(order), min(most, LEAST_REQUESTS)))


def latency_ms(
    request: Callable[[int], Any], rows: NDArray[Any], *, budget_s: float
) -> dict[str, float]:
    """Time `request(row)` one at a time.

    Args:
        request: serves one request and returns when its answer is there.
        rows: requests in order; a tenth of them (at most 20) warms up first.
        budget_s: stop after this many seconds, but not before `LEAST_REQUESTS` unless they take
            four times as long.
    """
    for row in rows[: min(20, max(1, len(rows) // 10))]:
        request(int(row))
    taken: list[float] = []
    end = time.perf_counter() + budget_s
    for row in rows:
        start = time.perf_counter()
        request(int(row))
        stop = time.perf_counter()
        taken.append(stop - start)
        if stop > end and (len(taken) >= LEAST_REQUESTS or stop > end + 3 * budget_s):
            break
    return percentiles_ms(np.array(taken))


def throughput(
    runner: Runner, split: Split, *, budget_s: float, most_passes: int = 5
) -> Throughput:
    """Run the whole split, again until `budget_s` is used, and take the median pass."""
    for _ in runner.iterate(split):  # opens sessions, sizes arenas
        break
    passes: list[float] = []
    with energy() as joules:
        while not passes or (sum(passes) + passes[-1] < budget_s and len(passes) < most_passes):
            start = time.perf_counter()
            runner.run(split) if runner.info["task"] != "causal-lm" else exhaust(runner, split)
            passes.append(time.perf_counter() - start)
    seconds = float(np.median(passes))
    used = joules()
    return Throughput(
        sequences_per_s=split.rows / seconds,
        tokens_per_s=split.tokens / seconds,
        padding_ratio=runner.padding_ratio(split),
        passes=len(passes),
        seconds=seconds,
        joules=None if used is None else used / len(passes),
    )


def exhaust(runner: Runner, split: Split) -> None:
    """Run a split whose logits are too many to keep."""
    for _ in runner.iterate(split):
        pass


def usd_per_million(sequences_per_s: float, usd_per_hour: float | None) -> float | None:
    """Money for a million requests on a machine kept busy; None without a price."""
    if usd_per_hour is None:
        return None
    return usd_per_hour / SECONDS_PER_HOUR / sequences_per_s * 1e6


@contextlib.contextmanager
def energy() -> Iterator[Callable[[], float | None]]:
    """Yield a function that, after the block, returns the joules all GPUs used in it.

    NVML's total-energy counter (Volta and later) moves every 20 to 100 ms: measure seconds.
    None without NVML or without the counter.
    """
    handles = _gpu_handles()
    start = [_millijoules(handle) for handle in handles]
    used: list[float | None] = [None]
    yield lambda: used[0]
    if handles and None not in start:
        used[0] = sum(_millijoules(h) - s for h, s in zip(handles, start, strict=True)) / 1e3


def _gpu_handles() -> list[Any]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _millijoules(handle: Any) -> Any:
    import pynvml

    try:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
