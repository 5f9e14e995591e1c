"""This machine as hardware: measured once in a child process, kept in a small file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.contract import StepError, content_hash
from components.lib.host import hardware_here
from pipelines.cost.hardware import Cpu, find_gpu

HERE = "here"
CACHE_FOLDER = Path("~/.cache/suanli")
CACHE_VERSION = 3
PROBE_TIMEOUT_S = 120
# Share of the cores that others may use while this machine is measured; beyond it the figures are
# taken again some minutes later, and the best of each kept.
MOST_OTHERS, MOST_TRIES, RETRY_AFTER_S = 0.1, 4, 180.0
# CPU flags of units that multiply bf16 directly; elsewhere it is emulated and slower than fp32.
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """The machine the planner runs on.

    `gemm_flops` maps precision to ``{"m,k,n": FLOP/s}`` of single products; rates are bytes/s.
    """

    cpu_model: str
    cores: int
    memory_bytes: float
    gemm_flops: dict[str, dict[str, float]]
    int8_flops: float
    bandwidth_bytes_per_second: float
    cache_bandwidth_bytes_per_second: float
    operator_seconds: float
    disk_bytes_per_second: float
    import_torch_seconds: float
    native_bf16: bool
    gpu: str = ""  # canonical name; empty without one that the cost model knows
    gpu_count: int = 0

    def sustained_flops(self, precision: str) -> float:
        """FLOP/s of a large product."""
        if precision == "int8":
            return self.int8_flops
        return max(self.gemm_flops[precision].values())

    def cpu(self) -> Cpu:
        """The machine as the cost model's CPU."""
        return Cpu(
            name=HERE,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            bandwidth_bytes_per_second=self.bandwidth_bytes_per_second,
            gemm_flops={
                "fp32": self.sustained_flops("fp32"),
                "bf16": self.sustained_flops("bf16"),
                "int8": self.int8_flops,
            },
            overhead_seconds=self.operator_seconds,
            source="measured by components.lib.machine_probe",
        )


def machine_here(cache_folder: Path | None = None) -> Here:
    """Return this machine, measured unless a file of the same CPU, core count and versions is in
    `cache_folder` (default ``~/.cache/suanli``). What was measured while others worked is measured
    again later.

    Raises:
        StepError: the measurement failed.
    """
    folder = (cache_folder or CACHE_FOLDER).expanduser()
    path = folder / "here.json"
    key = _key()
    document = _read(path)
    if document is None or document.get("key") != key:
        document = {"key": key, "measured": _measure(), "tries": 1, "at": time.time()}
        _write(path, document)
    elif _disturbed(document):
        both = best_of(document["measured"], _measure())
        tries = document["tries"] + 1
        document = {"key": key, "measured": both, "tries": tries, "at": time.time()}
        _write(path, document)
    return _here(document["measured"])


def _disturbed(document: dict[str, Any]) -> bool:
    others = float(document["measured"].get("others", 0.0))
    if others <= MOST_OTHERS or int(document.get("tries", MOST_TRIES)) >= MOST_TRIES:
        return False
    return time.time() - float(document.get("at", 0.0)) >= RETRY_AFTER_S


def best_of(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the faster figure of each of two measurements: highest rates, fewest seconds."""
    made: dict[str, Any] = {}
    for name, value in second.items():
        other = first.get(name, value)
        if isinstance(value, dict):
            made[name] = best_of(other, value)
        else:
            lower = name.endswith("seconds") or name == "others"
            made[name] = min(other, value) if lower else max(other, value)
    return made


def _key() -> str:
    names = ("torch", "onnxruntime-gpu", "onnxruntime", "numpy")
    hardware = hardware_here()
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return content_hash(
        [CACHE_VERSION, hardware.cpu_model, hardware.cpu_count, hardware.memory_bytes, versions]
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # absent or damaged: measured again
    return document if isinstance(document, dict) and "measured" in document else None


def _write(path: Path, document: dict[str, Any]) -> None:
    """Keep the measurement; a read-only home only costs measuring again."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(document, indent=1))
        partial.replace(path)
    except OSError:
        return


def _measure() -> dict[str, Any]:
    command = [sys.executable, "-m", "components.lib.machine_probe"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, env=environment,
            check=True,
        )  # fmt: skip
        document: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        raise StepError(
            f"this machine could not be measured: {type(error).__name__}: {error}",
            remedy="run `python -m components.lib.machine_probe` to see why",
        ) from error
    return document


def _here(measured: dict[str, Any]) -> Here:
    hardware = hardware_here()
    gpu, gpu_count = gpus_here()
    return Here(
        gpu=gpu,
        gpu_count=gpu_count,
        cpu_model=hardware.cpu_model,
        cores=hardware.cpu_count,
        memory_bytes=float(_memory_limit(hardware.memory_bytes)),
        gemm_flops=measured["gemm"],
        int8_flops=measured["int8"],
        bandwidth_bytes_per_second=measured["bandwidth"],
        cache_bandwidth_bytes_per_second=max(measured["cache_bandwidth"], measured["bandwidth"]),
        operator_seconds=measured["operator_seconds"],
        disk_bytes_per_second=measured["disk"],
        import_torch_seconds=measured["import_torch_seconds"],
        native_bf16=_native_bf16(),
    )


def gpus_here() -> tuple[str, int]:
    """Return name and number of this machine's NVIDIA GPUs, as far as the cost model knows them.

    The driver's tool is asked, for torch would take seconds to load; CUDA_VISIBLE_DEVICES limits
    what a run may use.
    """
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", 0
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = names[: len([part for part in visible.split(",") if part.strip()])]
    found = find_gpu(names[0]) if names else None
    if found is None or len(set(names)) != 1:
        return "", 0
    return found.name, len(names)


def _memory_limit(physical: int) -> int:
    """The control group's limit where there is one (containers), else physical memory."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(physical, int(text))
    return physical


def _native_bf16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            flags = line.partition(":")[2].split()
            return any(flag in flags for flag in BF16_FLAGS)
    return False
