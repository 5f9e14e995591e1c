"""The machine or pod that a process runs on, as reports describe it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from components.contract import Hardware

REPORTED_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnx", "kfp", "datasets")


@functools.cache
def hardware_here() -> Hardware:
    """Describe the machine or pod this process runs on."""
    gpu_model, gpu_count, gpu_memory = _gpus()
    return Hardware(
        cpu_model=_cpu_model(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu_model=gpu_model,
        gpu_count=gpu_count,
        gpu_memory_bytes=gpu_memory,
        versions=_versions(),
    )


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str | None, int, int]:
    """Ask torch when the step has loaded it; a step that never loads torch uses no GPU by torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None, 0, 0
    properties = torch.cuda.get_device_properties(0)
    return properties.name, torch.cuda.device_count(), properties.total_memory


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
