"""Fit the matrix-product surface of pipelines/cost/kernels.py to measured/gemm.csv.

Usage: python -m benchmarks.fit_kernels ../shared/measured/gemm.csv
Writes pipelines/cost/data/gemm_surface.json with the fit's error as evidence.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from pipelines.cost.hardware import gpu_by_name
from pipelines.cost.kernels import _CONSTANTS, matmul_seconds

OUTPUT = Path(__file__).parents[1] / "pipelines/cost/data/gemm_surface.json"
START = (4e-6, 0.85, 0.8, 100.0, 0.1, 3.0, 20.0)
LIMITS = ((1e-7, 0.3, 0.4, 1.0, 1e-3, 1.2, 0.1), (3e-5, 1.0, 1.05, 600.0, 1.0, 20.0, 200.0))
# Weighted products below this many rows do not occur in a training step.
SEED, SAMPLE = 0, 4000


def load(path: Path) -> dict[str, np.ndarray]:
    with path.open() as handle:
        rows = [r for r in csv.DictReader(handle) if r["dtype"] == "bf16" and int(r["k"]) >= 128]
    order = np.random.default_rng(SEED).permutation(len(rows))
    rows = [rows[i] for i in order]
    specs = [gpu_by_name(r["gpu"]) for r in rows]
    columns = {key: np.array([float(r[key]) for r in rows]) for key in ("m", "n", "k")}
    columns["seconds"] = np.array([float(r["latency_ms"]) for r in rows]) * 1e-3
    columns["peak"] = np.array([g.peak_flops("bf16") for g in specs])
    columns["bandwidth"] = np.array([g.bandwidth_bytes_per_second for g in specs])
    columns["sms"] = np.array([float(g.sms) for g in specs])
    columns["gpu"] = np.array([g.name for g in specs])
    columns["arch"] = np.array([g.arch for g in specs])
    return columns


def seconds(parameters: np.ndarray, d: dict[str, np.ndarray]) -> np.ndarray:
    constants = dict(zip(_CONSTANTS, np.exp(parameters), strict=True))
    return constants["t0"] + matmul_seconds(
        d["m"], d["n"], d["k"],
        rate=d["peak"] * constants["share"], element_bytes=np.full(len(d["m"]), 2.0),
        bandwidth=d["bandwidth"], sms=d["sms"], constants=constants,
    )  # fmt: skip


def fit(d: dict[str, np.ndarray], mask: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    part = {key: value[mask][:SAMPLE] for key, value in d.items()}
    solution = least_squares(
        lambda p: np.log(seconds(p, part) / part["seconds"]),
        np.log(START), bounds=np.log(LIMITS), loss="soft_l1", f_scale=0.2,
    )  # fmt: skip
    rest = {key: value[mask] for key, value in d.items()}
    error = np.abs(seconds(solution.x, rest) / rest["seconds"] - 1)
    evidence = {
        "rows": int(mask.sum()),
        "median_error": round(float(np.median(error)), 4),
        "mean_error": round(float(error.mean()), 4),
    }
    values = {k: float(f"{v:.5g}") for k, v in zip(_CONSTANTS, np.exp(solution.x), strict=True)}
    return values, evidence


def main() -> None:
    d = load(Path(sys.argv[1]))
    gpus = {}
    for name in sorted(set(d["gpu"])):
        constants, evidence = fit(d, d["gpu"] == name)
        gpus[name] = {
            "arch": str(d["arch"][d["gpu"] == name][0]), "constants": constants,
            "evidence": evidence,
        }  # fmt: skip
        print(name, constants, evidence)
    pooled, evidence = fit(d, np.ones(len(d["m"]), dtype=bool))
    print("pooled", pooled, evidence)
    cpu = {"t0": 2e-6, "share": 1.0, "bandwidth_share": 0.8, "k_half": 30.0, "wave_half": 0.01,
           "power": 2.0, "m_half": 1.0}  # fmt: skip
    document = {
        "source": "ai-dynamo/aiconfigurator@095f58a51 gemm/vllm bf16 (measured/gemm.csv)",
        "units": "t0 s; share and bandwidth_share of specification; k_half, m_half elements; "
        "wave_half tiles per SM",
        "gpus": gpus,
        "pooled": pooled,
        "pooled_evidence": evidence,
        "cpu": cpu,
    }
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
