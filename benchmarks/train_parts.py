"""The parts of a CPU training step, each against what torch does by itself.

    python -m benchmarks.train_parts

Sizes are MiniLM's on 32 sentences of WNUT-17 (about 1,000 tokens). Times are medians of turns, in
milliseconds, forward and backward where there is one.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.train_results import RESULTS, cpu
from components.lib import attention, linear
from components.lib.dropout import BitDropout, DropoutBits
from components.train.world import keep_freed_memory

ROWS, WIDTH, HEADS = 1008, 384, 12
TURNS = 15


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()
    torch.manual_seed(0)
    parts = {
        "linear_384_1536_fp32": linear_layer(WIDTH, 4 * WIDTH),
        "linear_1536_384_fp32": linear_layer(4 * WIDTH, WIDTH),
        "dropout_fp32": dropout(torch.float32),
        "dropout_bf16": dropout(torch.bfloat16),
        "attention_fp32": packed_attention(torch.float32),
        "attention_bf16": packed_attention(torch.bfloat16),
    }
    result = {
        name: {side: round(1e3 * seconds, 2) for side, seconds in turns(ways).items()}
        for name, ways in parts.items()
    }
    today = datetime.date.today().isoformat()
    document = {"date": today, "cpu": cpu(), "cores": os.cpu_count(), "milliseconds": result}
    path = RESULTS / f"train-parts-{today}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path.read_text())


def turns(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each way, measured in turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 2):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn >= 2:  # oneDNN compiles its kernels in the first
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def both_ways(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    x = x.detach().requires_grad_()
    y = function(x)
    y.backward(torch.ones_like(y))


def linear_layer(inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    plain, fast = torch.nn.Linear(inputs, outputs), linear.FastLinear(inputs, outputs)
    x = torch.randn(ROWS, inputs)
    return {"torch": lambda: both_ways(plain, x), "ours": lambda: both_ways(fast, x)}


def dropout(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    plain, ours = torch.nn.Dropout(0.1), BitDropout(0.1, DropoutBits())
    x = torch.randn(ROWS, WIDTH).to(dtype)
    return {"torch": lambda: both_ways(plain, x), "ours": lambda: both_ways(ours, x)}


def packed_attention(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """32 sequences, lengths drawn as WNUT-17's: padded to the longest, and by groups."""
    lengths = np.clip(np.random.default_rng(0).gamma(4.0, 8.0, 32), 4, 100).astype(int)
    bounds = np.append(0, np.cumsum(lengths))
    tokens = int(bounds[-1])
    module = torch.nn.Module()
    module.dropout_bits = DropoutBits()  # type: ignore[assignment]
    x = torch.randn(1, HEADS, tokens, WIDTH // HEADS).to(dtype)
    inside = torch.arange(lengths.max()) < torch.from_numpy(lengths)[:, None]
    padded = torch.randn(32, HEADS, lengths.max(), WIDTH // HEADS).to(dtype)

    def grouped(q: torch.Tensor) -> torch.Tensor:
        return attention.attention(
            module, q, q, q, None, dropout=0.1, max_length_q=int(lengths.max()),
            cu_seq_lens_q=torch.from_numpy(bounds.astype(np.int32)),
        )[0]  # fmt: skip

    def torchs(q: torch.Tensor) -> torch.Tensor:
        mask = inside[:, None, None, :]
        return functional.scaled_dot_product_attention(q, q, q, mask, dropout_p=0.1)

    return {"torch": lambda: both_ways(torchs, padded), "ours": lambda: both_ways(grouped, x)}


if __name__ == "__main__":
    main()
