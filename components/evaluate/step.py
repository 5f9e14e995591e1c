"""Measure one exported variant on the planned device: quality of the whole split, then speed."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.lib import quality, speed
from components.lib.dataset import Split, load_split, read_manifest
from components.lib.onnx_graph import size_bytes
from components.lib.references import load_tokenizer
from components.lib.runner import Runner
from components.runtime import StepContext

EVALUATION_VERSION = 1
# A screening, not a benchmark: seconds spent on each of latency, the same with tokenisation, and
# throughput. `select` measures the two models that matter longer.
SCREENING_SECONDS = 2.0
REQUESTS = 1000


def run(context: StepContext) -> str:
    """Evaluate; returns the evaluation artifact's URI."""
    arguments = context.arguments
    folder = context.fetch(context.inputs["onnx"])
    dataset = context.fetch(context.inputs["dataset"])
    manifest, name = read_manifest(dataset), arguments.get("split", "validation")
    seed, seconds = (
        int(arguments.get("seed") or 0),
        float(arguments.get("screening_s") or SCREENING_SECONDS),
    )
    with context.phase("load"):
        split = load_split(dataset, name)
        runner = Runner(
            folder,
            device=arguments.get("target", "cpu"),
            threads=int(arguments.get("threads") or 2),
        )
    context.progress(0.1, f"{runner.provider}: quality on {name}")
    with context.phase("quality"):
        found = quality.assess(
            runner,
            split,
            manifest["task"],
            manifest["labels"],
            seed,
            outside=manifest.get("out_of_scope"),
        )
    context.progress(0.5, f"{found.metric} {found.value:.4f}", value=found.value)
    document = {
        "schema_version": EVALUATION_VERSION,
        "task": manifest["task"],
        "variant": arguments.get("variant") or runner.info["variant"],
        "split": name,
        **found.to_json(),
        **measure(context, runner, split, folder, seed=seed, seconds=seconds),
        "provider": runner.provider,
        "fusion": runner.info["fusion"],
        "size_bytes": size_bytes(folder),
        "parameters": runner.info.get("parameters"),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parity_max_abs_diff": runner.info["parity"]["max_abs_diff"],
        "confusion": found.confusion,
    }
    document["usd_per_million"] = speed.usd_per_million(
        document["throughput_per_s"], arguments.get("usd_per_hour")
    )
    output = context.folder("evaluation")
    found.save_counts(output / "outcomes.npz")
    (output / "evaluation.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    record(context, document, split, runner)
    return context.put(output, kind="evaluation")


def measure(
    context: StepContext, runner: Runner, split: Split, folder: Path, *, seed: int, seconds: float
) -> dict[str, Any]:
    """Return latency percentiles and throughput on the split's own sequences."""
    rows = speed.sample_rows(split.rows, REQUESTS, seed)
    with context.phase("latency"):
        alone = speed.latency_ms(lambda row: runner.run_row(split, row), rows, budget_s=seconds)
        whole = None
        if (folder / "tokenizer.json").is_file():
            request = tokenising_request(runner, split, folder, rows)
            whole = speed.latency_ms(request, rows, budget_s=seconds)
    context.progress(0.8, f"p50 {alone['p50']:.2f} ms", p50_ms=alone["p50"])
    with context.phase("throughput"):
        rate = speed.throughput(runner, split, budget_s=seconds)
    context.energy_joules = rate.joules
    return {
        "latency_ms": alone,
        "latency_with_tokenisation_ms": whole,
        "throughput_per_s": rate.sequences_per_s,
        "tokens_per_s": rate.tokens_per_s,
        "padding_ratio": rate.padding_ratio,
        "joules_per_1k_tokens": (
            None if rate.joules is None else rate.joules / split.tokens * 1000
        ),
    }


def tokenising_request(
    runner: Runner, split: Split, folder: Path, rows: np.ndarray
) -> Callable[[int], Any]:
    """Return a request that starts from text. The text is decoded from the split's tokens, so it
    has their length and vocabulary; special tokens come back by encoding."""
    tokenizer = load_tokenizer(folder)
    tokenizer.enable_truncation(runner.max_length)
    texts = {int(row): tokenizer.decode(split.sequence(int(row)).tolist()) for row in rows}

    def request(row: int) -> Any:
        return runner.run_one(tokenizer.encode(texts[row]).ids)

    return request


def record(context: StepContext, document: dict[str, Any], split: Split, runner: Runner) -> None:
    """Tell the step report what was done."""
    context.metrics.update(
        {
            key: document[key]
            for key in ("metric", "value", "ci95", "latency_ms", "throughput_per_s", "provider")
        }
    )
    context.workload.update(
        sequences=split.rows,
        rows=split.rows,
        tokens=split.tokens,
        padded_tokens=int(split.tokens * document["padding_ratio"]),
        seq_len_mean=float(split.lengths.mean()) if split.rows else 0.0,
        seq_len_max=int(split.lengths.max()) if split.rows else 0,
        parameters=runner.info.get("parameters"),
        precision=runner.info["precision"],
        threads=runner.threads,
    )
