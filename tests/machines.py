"""A measured machine that tests can rely on: the planner finds it where it keeps its own probe."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.cost import here

# What components.lib.machine_probe printed on 2 vCPU AMD EPYC (Zen 4), rounded.
MEASURED = {
    "gemm": {
        "fp32": {"1024,768,3072": 100e9, "32,384,384": 20e9},
        "bf16": {"1024,768,3072": 185e9, "32,384,384": 30e9},
    },
    "int8": 290e9,
    "bandwidth": 14e9,
    "cache_bandwidth": 50e9,
    "operator_seconds": 1.7e-6,
    "disk": 1.2e9,
    "import_torch_seconds": 1.7,
}


def measured_here(folder: Path) -> Path:
    """Write the probe's file below `folder` and return the folder, a plan's `cache_dir`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"key": here._key(), "measured": MEASURED}
    (folder / "here.json").write_text(json.dumps(document))
    return folder
