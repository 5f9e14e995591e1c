"""Measured workloads as the fit and the accuracy page see them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.contract import SpecError
from pipelines.cost.columns import Columns, columns_of
from pipelines.cost.rows import workload_from_row
from pipelines.cost.workload import Workload

GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rows with a measured quantity; `value` is seconds or bytes (NaN where out of memory)."""

    rows: list[dict[str, str]]
    workloads: list[Workload]
    columns: Columns
    value: np.ndarray
    table: np.ndarray
    gpu: np.ndarray
    model: np.ndarray
    oom: np.ndarray
    asked: int

    @property
    def weight(self) -> np.ndarray:
        """Worth of a row: a table of n rows counts as sqrt(n)."""
        counts = {t: np.sum(self.table == t) for t in set(self.table.tolist())}
        weight = np.array([counts[t] ** -0.5 for t in self.table])
        return weight / weight.mean()


def _seconds(row: dict[str, str], workload: Workload) -> float | None:
    if workload.kind == "infer":
        return float(row["latency_ms"]) * 1e-3 if row["latency_ms"] else None
    if row["step_time_s"]:
        return float(row["step_time_s"])
    return workload.global_batch / float(row["samples_per_s"]) if row["samples_per_s"] else None


def _bytes(row: dict[str, str], _: Workload) -> float | None:
    if row["oom"] == "1":
        return float("nan")
    return float(row["peak_memory_gib"]) * GIB if row["peak_memory_gib"] else None


def _asked(row: dict[str, str], quantity: str) -> bool:
    """Whether the row is one to be predicted: architecture, sequence and batch known."""
    if quantity == "time":
        has = any(row[k] for k in ("step_time_s", "latency_ms", "samples_per_s"))
    else:
        has = bool(row["peak_memory_gib"]) or row["oom"] == "1"
    sized = row["seq_len"] and row["micro_batch"]
    return bool(has and row["arch_known"] == "1" and (sized or quantity == "memory"))


def load(path: Path, quantity: str) -> Measured:
    """Read the rows of ``workloads.csv`` with a measured `quantity` (time or memory)."""
    with path.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if _asked(row, quantity)]
    kept, workloads, values = [], [], []
    for row in rows:
        try:
            workload = workload_from_row(row)
        except SpecError:
            continue
        value = (_seconds if quantity == "time" else _bytes)(row, workload)
        if value is not None and not (quantity == "time" and workload.untimed):
            kept.append(row)
            workloads.append(workload)
            values.append(value)
    return Measured(
        rows=kept,
        workloads=workloads,
        columns=columns_of(workloads),
        value=np.array(values),
        table=np.array([r["row_id"].rsplit("-", 1)[0] for r in kept]),
        gpu=np.array([r["gpu"] for r in kept]),
        model=np.array([re.sub(r"[^a-z0-9.]", "", r["model"].lower()) for r in kept]),
        oom=np.array([r["oom"] == "1" for r in kept]),
        asked=len(rows),
    )
