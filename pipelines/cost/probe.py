"""Measure this machine's CPU once, for predictions on it.

numpy only. The product runs in fp32 through numpy's BLAS; bf16 and int8 follow from the
instruction sets, because numpy has no kernels for them.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.cost.hardware import Cpu

# Throughput over fp32 of large products with oneDNN and MLAS kernels, by instruction set:
# AMX tiles, AVX-512 BF16 and VNNI (Zen 4, Sapphire Rapids without tiles), none.
_FACTORS = {"amx": (6.0, 8.0), "avx512": (1.8, 3.0), "vnni": (1.0, 2.5), "plain": (0.6, 1.3)}
# A framework operator's dispatch on a server core (torch 2.13 eager, about 5 us).
_OVERHEAD_SECONDS = 5e-6


def _cpuinfo() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown CPU", set()
    name, flags = "unknown CPU", set[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in {"flags", "Features"}:
            flags = set(value.split())
    return name, flags


def _best_seconds(run: object, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()  # type: ignore[operator]
        best = min(best, time.perf_counter() - start)
    return best


@cache
def measure_cpu(size: int = 1024, repeats: int = 5) -> Cpu:
    """Probe fp32 products and memory bandwidth (under a second); cached in the process.

    Args:
        size: rows and columns of the product.
        repeats: runs; the fastest counts, as others may use the machine.
    """
    name, flags = _cpuinfo()
    generator = np.random.default_rng(0)
    a = generator.standard_normal((size, size), dtype=np.float32)
    b = generator.standard_normal((size, size), dtype=np.float32)
    flops = 2.0 * size**3 / _best_seconds(lambda: a @ b, repeats)
    source = np.ones(16 * 2**20, dtype=np.float32)
    target = np.empty_like(source)
    copy = 2.0 * source.nbytes / _best_seconds(lambda: np.copyto(target, source), repeats)
    if {"amx_bf16", "amx_int8"} <= flags:
        kind = "amx"
    elif "avx512_bf16" in flags:
        kind = "avx512"
    elif {"avx512_vnni", "avx_vnni"} & flags:
        kind = "vnni"
    else:
        kind = "plain"
    bf16, int8 = _FACTORS[kind]
    return Cpu(
        name=name,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        bandwidth_bytes_per_second=copy,
        gemm_flops={"fp32": flops, "bf16": flops * bf16, "int8": flops * int8},
        overhead_seconds=_OVERHEAD_SECONDS,
        source=f"measured here; bf16 and int8 from instruction set {kind}",
    )
