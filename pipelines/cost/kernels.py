"""Seconds of single operators: matrix products, attention, memory-bound work, collectives.

A product C[m,n] = A[m,k] B[k,n] takes t0 + (t_compute^q + t_memory^q)^(1/q): compute at a share of
the peak that grows with the output tiles per SM and with k, memory at a share of the bandwidth.
The constants come from measured/gemm.csv, per GPU where it was measured (`data/gemm_surface.json`,
fitted by benchmarks/fit_kernels.py); other GPUs take the constants fitted over all of them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from pipelines.cost.columns import Columns, Floats

# Output elements of one thread-block tile (128 x 128), the common size of cuBLAS kernels.
_TILE = 128.0 * 128.0
_CONSTANTS = ("t0", "share", "bandwidth_share", "k_half", "wave_half", "power", "m_half")


@cache
def data(name: str) -> Any:
    """Return a shipped JSON table of `pipelines/cost/data`."""
    return json.loads(resources.files("pipelines.cost").joinpath(f"data/{name}").read_text())


def surface(columns: Columns) -> dict[str, Floats]:
    """Return the matrix-product constants of each row's device."""
    table = data("gemm_surface.json")
    by_arch = {entry["arch"]: entry["constants"] for entry in table["gpus"].values()}
    out: dict[str, Floats] = {key: np.empty(columns.size) for key in _CONSTANTS}
    device, arch = columns.names["device"], columns.names["arch"]
    chosen: dict[tuple[str, str], dict[str, float]] = {}
    for pair in set(zip(device.tolist(), arch.tolist(), strict=True)):
        own = table["gpus"].get(pair[0])
        fallback = table["cpu"] if pair[1] == "cpu" else by_arch.get(pair[1], table["pooled"])
        chosen[pair] = own["constants"] if own else fallback
        mask = (device == pair[0]) & (arch == pair[1])
        for key in _CONSTANTS:
            out[key][mask] = chosen[pair][key]
    return out


def matmul_seconds(
    m: Floats,
    n: Floats,
    k: Floats,
    *,
    rate: Floats,
    element_bytes: Floats,
    bandwidth: Floats,
    sms: Floats,
    constants: dict[str, Floats],
) -> Floats:
    """Seconds of one product, without its launch.

    Args:
        rate: FLOP/s at full utilisation (peak x calibrated share).
        element_bytes: bytes of an input element; the output has at least 2.
    """
    c = constants
    waves = (m + c["m_half"]) * n / (_TILE * sms)
    utilisation = waves / (waves + c["wave_half"]) * k / (k + c["k_half"])
    compute = 2.0 * (m + c["m_half"]) * n * k / (rate * utilisation)
    traffic = element_bytes * (m * k + n * k) + np.maximum(element_bytes, 2.0) * m * n
    memory = traffic / (bandwidth * c["bandwidth_share"])
    top = np.maximum(compute, memory)
    low = np.minimum(compute, memory)
    result: Floats = top * (1.0 + (low / top) ** c["power"]) ** (1.0 / c["power"])
    return result


# Ring collectives in measured/collectives.csv (NCCL, fp16, one node): a call of few bytes takes
# alpha n^0.6 (A100 10, 14.5, 22.6 us and H100 6.2, 9.6, 15.5 us at 2, 4, 8 ranks); bandwidth
# rises with the square root of the size, half way at 3.6 MB (16 MB reach 0.6 of the asymptote).
_RANK_EXPONENT = 0.6
_HALF_BYTES = 3.6e6


def ring_seconds(
    payload: Floats, ranks: Floats, *, bandwidth: Floats, alpha: Floats, factor: float
) -> Floats:
    """Seconds of a ring collective.

    Args:
        payload: bytes of the full buffer on one rank.
        bandwidth: bytes/s, one direction, of a rank's link.
        alpha: seconds, see `_RANK_EXPONENT`.
        factor: 2 for an all-reduce, 1 for an all-gather or a reduce-scatter.
    """
    share = (ranks - 1.0) / np.maximum(ranks, 1.0)
    moved = payload + np.sqrt(payload * _HALF_BYTES)
    result: Floats = np.where(
        ranks > 1, alpha * ranks**_RANK_EXPONENT + factor * share * moved / bandwidth, 0.0
    )
    return result
