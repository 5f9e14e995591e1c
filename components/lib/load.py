"""Drive a runner with MLPerf's load generator, which also judges whether a result is valid.

SingleStream sends the next request when the last is answered; Server sends requests at Poisson
times and asks for a latency at the 99th percentile; Offline hands over everything at once.
Durations here are seconds, not MLPerf's ten minutes: the figures are not MLPerf results, the
harness and its validity rules are.
"""

from __future__ import annotations

import array
import json
import queue
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.lib.dataset import Split
from components.lib.runner import Runner

SCENARIOS = ("SingleStream", "Server", "Offline")
# Early stopping certifies a 99th percentile with 99 % confidence from 662 queries on, from more if
# any is late (MLPerf inference rules, appendix on early stopping).
LEAST_CERTIFIED = 662
SERVER_QUERIES = 800
# A server that needs longer than this many times the wanted duration for them stops there.
SERVER_PATIENCE = 5.0
# A server is offered at most this share of what one request after another would allow.
SERVER_UTILISATION = 0.5
DEFAULT_P99_MS = 50.0
SAMPLES = 1024
LEAST_QUERIES = 100
# Offline hands over enough samples for the wanted duration: at first for a runner whose batches are
# this much faster than single requests, then with this headroom over what was measured.
OFFLINE_GAIN = 1.9
OFFLINE_HEADROOM = 1.2


def measure(
    runner: Runner,
    split: Split,
    *,
    seconds: float,
    requests_per_second: float | None = None,
    p99_latency_ms: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run the three scenarios for `seconds` each and return their figures by scenario.

    Args:
        runner: the model.
        split: where requests come from.
        seconds: least duration of a scenario.
        requests_per_second: what the server must bear; more is offered when `seconds` would be too
            short to certify a percentile.
        p99_latency_ms: the server's bound; 50 ms when None.
        seed: chooses the requests.

    Returns:
        For each scenario ``valid``, ``queries``, ``samples_per_second``, ``latency_ms`` (p50, p90,
        p99, mean) and what was asked of it.
    """
    rows = np.random.default_rng(seed).permutation(split.rows)[:SAMPLES]
    single = run_scenario(runner, split, rows, "SingleStream", seconds)
    most = 1000.0 / max(single["latency_ms"]["mean"], 1e-3)
    server = serve(
        runner,
        split,
        rows,
        seconds,
        offered=max(
            requests_per_second or 1.0, min(SERVER_QUERIES / seconds, SERVER_UTILISATION * most)
        ),
        bound_ms=p99_latency_ms or DEFAULT_P99_MS,
    )
    offline = run_scenario(runner, split, rows, "Offline", seconds, qps=OFFLINE_GAIN * most)
    if not offline["valid"]:  # batches were faster than the guess: hand over more at once
        faster = OFFLINE_HEADROOM * offline["samples_per_second"]
        offline = run_scenario(runner, split, rows, "Offline", seconds, qps=faster)
    return {"SingleStream": single, "Server": server, "Offline": offline, "seconds": seconds}


def serve(
    runner: Runner,
    split: Split,
    rows: np.ndarray,
    seconds: float,
    *,
    offered: float,
    bound_ms: float,
) -> dict[str, Any]:
    """Run the Server scenario at `offered` requests a second, for as long as it takes to certify
    its 99th percentile, within reason."""
    queries = int(min(SERVER_QUERIES, SERVER_PATIENCE * seconds * offered))
    found = run_scenario(
        runner, split, rows, "Server", seconds, qps=offered, bound_ms=bound_ms, queries=queries
    )
    if not found["valid"] and not found["why_invalid"]:  # the generator gives no reason for these
        found["why_invalid"] = (
            f"{found['queries']} queries are too few to certify a 99th percentile "
            f"({LEAST_CERTIFIED} at least)"
            if found["queries"] < LEAST_CERTIFIED
            else f"too many of {found['queries']} queries took longer than {bound_ms:g} ms"
        )
    return found | {"offered_per_second": offered, "p99_bound_ms": bound_ms}


def run_scenario(
    runner: Runner,
    split: Split,
    rows: np.ndarray,
    scenario: str,
    seconds: float,
    *,
    qps: float = 1.0,
    bound_ms: float = DEFAULT_P99_MS,
    queries: int = LEAST_QUERIES,
) -> dict[str, Any]:
    """Run one scenario, of `queries` at least, and read its verdict from the generator's log."""
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = max(queries, LEAST_QUERIES) if scenario != "Offline" else 1
    settings.performance_sample_count_override = len(rows)
    if scenario == "Server":
        settings.server_target_qps = qps
        settings.server_target_latency_ns = int(bound_ms * 1e6)
        settings.server_target_latency_percentile = 0.99
    elif scenario == "Offline":
        settings.offline_expected_qps = qps
    else:
        settings.single_stream_expected_latency_ns = 1_000_000
    with tempfile.TemporaryDirectory() as folder, Worker(runner, split, rows) as worker:
        log = loadgen.LogSettings()
        log.enable_trace = False
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        issue = worker.offline if scenario == "Offline" else worker.enqueue
        system = loadgen.ConstructSUT(issue, lambda: None)
        samples = loadgen.ConstructQSL(len(rows), len(rows), lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(system, samples, settings, log)
        finally:
            loadgen.DestroyQSL(samples)
            loadgen.DestroySUT(system)
        return verdict(Path(folder) / "mlperf_log_detail.txt", scenario)


class Worker:
    """Answers queries on a thread of its own, so that the generator keeps to its schedule."""

    def __init__(self, runner: Runner, split: Split, rows: np.ndarray) -> None:
        self.runner, self.split, self.rows = runner, split, rows
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Worker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.put(None)
        self.thread.join()

    def enqueue(self, queries: list[Any]) -> None:
        """Take single requests."""
        for query in queries:
            self.waiting.put([query])

    def offline(self, queries: list[Any]) -> None:
        """Take everything at once."""
        self.waiting.put(queries)

    def _work(self) -> None:
        while (queries := self.waiting.get()) is not None:
            if len(queries) == 1:
                self.runner.run_row(self.split, int(self.rows[queries[0].index]))
                answer(queries)
                continue
            chosen = take(self.split, self.rows[[query.index for query in queries]])
            for done, _ in self.runner.iterate(chosen):
                answer([queries[int(row)] for row in done])


def answer(queries: list[Any]) -> None:
    """Tell the generator that `queries` are served; it does not look at answers in this mode."""
    import mlperf_loadgen as loadgen

    payload = array.array("B", b"\0")
    address, size = payload.buffer_info()
    loadgen.QuerySamplesComplete(
        [loadgen.QuerySampleResponse(query.id, address, size) for query in queries]
    )


def take(split: Split, rows: np.ndarray) -> Split:
    """Return the rows, in that order and with repetitions, as a split of its own."""
    from dataclasses import replace

    if split.images is not None:
        return replace(split, rows=len(rows), images=[split.images[int(row)] for row in rows])
    lengths = split.lengths[rows]
    index = np.concatenate([np.arange(split.offsets[r], split.offsets[r + 1]) for r in rows])
    columns = {}
    if "token_type_ids" in split.columns:
        columns["token_type_ids"] = split.columns["token_type_ids"][index]
    return Split(
        name=split.name,
        rows=len(rows),
        offsets=np.append(0, np.cumsum(lengths)),
        input_ids=split.input_ids[index],
        lengths=lengths,
        columns=columns,
    )


def verdict(path: Path, scenario: str) -> dict[str, Any]:
    """Read validity and figures from the generator's log of JSON lines."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        if line.startswith(":::MLLOG"):
            entry = json.loads(line[len(":::MLLOG") :])
            found[entry["key"]] = entry["value"]
    if not found.get("result_validity"):
        raise RuntimeError(f"{path}: the load generator left no verdict for {scenario}")
    return {
        "valid": found["result_validity"] == "VALID",
        "why_invalid": found.get("result_invalid_reason"),
        "queries": found.get("result_query_count"),
        **figures(found),
    }


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Pick latency percentiles (milliseconds) and rates from the log's entries."""
    number: Callable[[str], float | None] = lambda key: (  # noqa: E731
        float(found[key]) if key in found else None
    )
    latency = {
        short: None if (value := number(key)) is None else value / 1e6
        for short, key in (
            ("p50", "result_50.00_percentile_latency_ns"),
            ("p90", "result_90.00_percentile_latency_ns"),
            ("p99", "result_99.00_percentile_latency_ns"),
            ("mean", "result_mean_latency_ns"),
        )
    }
    rates = ("result_samples_per_second", "result_completed_samples_per_sec",
             "result_qps_without_loadgen_overhead")  # fmt: skip
    rate = next((value for key in rates if (value := number(key)) is not None), None)
    return {"latency_ms": latency, "samples_per_second": rate}
