"""From workloads to predictions: the one face of the cost model."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.contract import DataError, SpecError
from pipelines.cost.calibration import Z80, Calibration
from pipelines.cost.coefficients import default_coefficients
from pipelines.cost.columns import Columns, Floats, columns_of
from pipelines.cost.hardware import GIB
from pipelines.cost.memory import memory_doubt, memory_parts
from pipelines.cost.residuals import memory_spread, shipped, time_effects
from pipelines.cost.rows import workload_from_row
from pipelines.cost.time import StepModel
from pipelines.cost.workload import Prediction, Workload

QUANTITIES = ("step_time_s", "latency_ms", "samples_per_s", "tokens_per_s", "peak_memory_gib")
OUTPUT_COLUMNS = (
    "row_id",
    *(name for q in QUANTITIES for name in (q, f"{q}_low", f"{q}_high")),
    "fits",
    "reason",
)
# Bytes a process needs beside what its framework counts: CUDA context, cuBLAS and NCCL buffers.
_CONTEXT_BYTES = 0.6 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Columns of answers, one element a workload.

    `seconds` is a step (training) or a batch (inference); `samples` the samples it handles over
    the whole job and `tokens` those samples' padded tokens; ``*_low`` and ``*_high`` bound the 80 %
    interval; `fits` is 1, 0 or NaN (can't be said); `parts` seconds and bytes by part.
    """

    seconds: Floats
    seconds_low: Floats
    seconds_high: Floats
    samples: Floats
    tokens: Floats
    memory: Floats
    memory_low: Floats
    memory_high: Floats
    fits: Floats
    train: Floats
    parts: dict[str, Floats]


def predict_many(
    workloads: Sequence[Workload] | Columns,
    *,
    coefficients: Mapping[str, float] | None = None,
    time_calibration: Calibration | None = None,
    memory_calibration: Calibration | None = None,
) -> Predictions:
    """Predict many workloads at once (vectorised).

    Args:
        coefficients: constants of the model, the shipped ones by default.
        time_calibration: residuals on time, the shipped ones by default.
        memory_calibration: width of memory's interval, likewise.
    """
    c = workloads if isinstance(workloads, Columns) else columns_of(workloads)
    theta = default_coefficients() if coefficients is None else coefficients
    model = StepModel(c)
    parts = model.parts(theta)
    seconds: Floats = np.sum(list(parts.values()), axis=0)
    mean, spread = time_effects(c, model.stack, time_calibration or shipped("time"))
    seconds = seconds * np.exp(mean)
    held = predict_memory(c, coefficients=theta, calibration=memory_calibration)
    replicas = np.where(model.train, c["data_parallel"] * c["grad_accum"], 1.0)
    samples = c["micro_batch"] * replicas
    return Predictions(
        seconds=seconds,
        seconds_low=seconds * np.exp(-Z80 * spread),
        seconds_high=seconds * np.exp(Z80 * spread),
        samples=samples,
        tokens=samples * c["seq_len"],
        memory=held.value,
        memory_low=held.low,
        memory_high=held.high,
        fits=held.fits,
        train=model.train.astype(float),
        parts=parts | {f"memory.{k}": v for k, v in held.parts.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak bytes with their 80 % interval, whether they fit (1, 0, NaN), and the parts."""

    value: Floats
    low: Floats
    high: Floats
    fits: Floats
    parts: dict[str, Floats]


def predict_memory(
    c: Columns,
    *,
    coefficients: Mapping[str, float] | None = None,
    calibration: Calibration | None = None,
) -> Memory:
    """Predict peak memory alone."""
    parts = memory_parts(c, default_coefficients() if coefficients is None else coefficients)
    memory: Floats = np.sum(list(parts.values()), axis=0)
    wide = memory_spread(memory_doubt(c, parts), calibration or shipped("memory"))
    low, high = memory * np.exp(-Z80 * wide), memory * np.exp(Z80 * wide)
    return Memory(value=memory, low=low, high=high, fits=fits(c, low, high), parts=parts)


def fits(c: Columns, memory_low: Floats, memory_high: Floats) -> Floats:
    """Return 1 where even the upper bound fits, 0 where not even the lower does, NaN between."""
    room = c["usable"] - _CONTEXT_BYTES
    yes = memory_high <= room
    no = memory_low > room
    unsure = c.flags["ambiguous"] & no
    return np.where(yes, 1.0, np.where(no & ~unsure, 0.0, np.nan))


def predict(workload: Workload, **options: Calibration | None) -> Prediction:
    """Predict one workload.

    Raises:
        SpecError: the GPU's name is unknown.
    """
    try:
        columns = predict_many([workload], **options)  # type: ignore[arg-type]
    except KeyError as error:
        raise SpecError(f"unknown GPU {error.args[0]!r}") from error
    return prediction_at(columns, 0)


def prediction_at(p: Predictions, i: int) -> Prediction:
    """Return row `i` of `p` as a `Prediction`."""
    seconds, low, high = float(p.seconds[i]), float(p.seconds_low[i]), float(p.seconds_high[i])
    train = bool(p.train[i])
    samples, tokens = float(p.samples[i]), float(p.tokens[i])
    room = float(p.fits[i])
    return Prediction(
        step_time_s=seconds if train else None,
        step_time_low=low if train else None,
        step_time_high=high if train else None,
        latency_ms=None if train else seconds * 1e3,
        latency_low=None if train else low * 1e3,
        latency_high=None if train else high * 1e3,
        samples_per_s=samples / seconds,
        samples_per_s_low=samples / high,
        samples_per_s_high=samples / low,
        tokens_per_s=tokens / seconds,
        tokens_per_s_low=tokens / high,
        tokens_per_s_high=tokens / low,
        peak_memory_bytes=float(p.memory[i]),
        peak_memory_low=float(p.memory_low[i]),
        peak_memory_high=float(p.memory_high[i]),
        fits=None if np.isnan(room) else bool(room),
        reason="" if not np.isnan(room) else "memory is too close to the GPU's to say",
        breakdown={name: float(values[i]) for name, values in p.parts.items()},
    )


def predict_rows(rows: Iterable[Mapping[str, str | None]]) -> list[dict[str, str]]:
    """Predict table rows; one that can't be predicted gets blanks and the reason."""
    out: list[dict[str, str]] = []
    workloads: list[Workload] = []
    places: list[int] = []
    for i, cells in enumerate(rows):
        out.append(
            dict.fromkeys(OUTPUT_COLUMNS, "") | {"row_id": (cells.get("row_id") or "").strip()}
        )
        try:
            workloads.append(workload_from_row(cells))
            places.append(i)
        except SpecError as error:
            out[i]["reason"] = error.message
    if workloads:
        answers = predict_many(workloads)
        for j, i in enumerate(places):
            _fill(out[i], prediction_at(answers, j), untimed=workloads[j].untimed)
    return out


def _fill(cells: dict[str, str], p: Prediction, *, untimed: bool) -> None:
    memory = (p.peak_memory_bytes, p.peak_memory_low, p.peak_memory_high)
    groups = {
        "step_time_s": (p.step_time_s, p.step_time_low, p.step_time_high),
        "latency_ms": (p.latency_ms, p.latency_low, p.latency_high),
        "samples_per_s": (p.samples_per_s, p.samples_per_s_low, p.samples_per_s_high),
        "tokens_per_s": (p.tokens_per_s, p.tokens_per_s_low, p.tokens_per_s_high),
        "peak_memory_gib": tuple(None if v is None else v / GIB for v in memory),
    }
    for name, values in groups.items():
        if untimed and name != "peak_memory_gib":
            continue
        for suffix, value in zip(("", "_low", "_high"), values, strict=True):
            cells[name + suffix] = "" if value is None or not np.isfinite(value) else f"{value:.6g}"
    cells["fits"] = "" if p.fits is None else str(int(p.fits))
    cells["reason"] = p.reason
    if untimed:
        cells["reason"] = "seq_len is blank: memory of 512 tokens, no time"


def predict_csv(rows_path: Path, output_path: Path) -> int:
    """Predict the rows of a CSV file into another; return the number of rows.

    Raises:
        DataError: the file can't be read, is empty or lacks a header with known columns.
    """
    try:
        with rows_path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            if not {"gpu", "kind"} & set(reader.fieldnames or ()):
                raise DataError(
                    f"{rows_path}: the header has neither 'kind' nor 'gpu'",
                    remedy="use the columns of measured/README.md",
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{rows_path}: {error}", remedy="give a readable UTF-8 CSV") from error
    answers = predict_rows(rows)
    partial = output_path.with_name(output_path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, OUTPUT_COLUMNS)
            writer.writeheader()
            writer.writerows(answers)
        partial.replace(output_path)
    except OSError as error:
        raise DataError(f"{output_path}: {error}", remedy="give a writable path") from error
    return len(answers)
