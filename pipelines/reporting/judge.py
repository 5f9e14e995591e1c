"""What the figures mean: verdict, prediction error, rightsizing. Arithmetic on report.json only."""

from __future__ import annotations

import math
import statistics
from typing import Any

Json = dict[str, Any]
VARIANT_FIGURES = (
    "size_bytes",
    "parameters",
    "latency_ms",
    "throughput_per_s",
    "usd_per_million",
    "provider",
    "parity_max_abs_diff",
)
# Memory is requested once and must never run out: keep a fifth above the peak (the margin that
# autoscalers add after an out-of-memory kill). Below half used, the request is worth lowering.
MARGIN = 1.2
LOW_USE = 0.5
FITS = "fits"
HIGH_USE = 0.9
MIB = 1 << 20
STEP_MIB = 64
BYTES_KEPT_AT_LEAST = 256 * MIB
# A core is shared, not lost: CPU is suggested from the average, with the same margin, in quarters
# of a core. A step this short says nothing about its average.
CORES_STEP = 0.25
CPU_SAYS_SECONDS = 2.0
# A pod gets the cores that it asks for; on a person's machine other programs take their share, and
# the average says nothing about what a step could use.
HERE = "here"


def judged(report: Json) -> Json:
    """Return `report` with verdict, prediction, progress and rightsizing added."""
    for step in report["steps"]:
        step["comparison"] = _compare(step["predicted"], step["measured"])
    for row in report["variants"]:
        row.update(_against(row, _reference(report["variants"])))
    gpu_memory = report["hardware"].get("gpu_memory_bytes") or 0
    monthly = [row.get("usd_per_month") for row in report["storage"]]
    known = bool(monthly) and all(value is not None for value in monthly)
    predicted = prediction(report["steps"], report["decision"].get("seconds"))
    return {
        **report,
        "verdict": {**verdict(report), **against_one_node(report, predicted)},
        "prediction": predicted,
        "progress": progress(report["steps"]),
        "rightsizing": [row for step in report["steps"] for row in rightsizing(step, gpu_memory)],
        "storage_usd_per_month": sum(monthly) if known else None,
    }


def verdict(report: Json) -> Json:
    """What compression kept and gained: the selected variant against the tuned model as fp32."""
    quality, variants = report["quality"], report["variants"]
    chosen = next((v for v in variants if v["name"] == report["selected"]), None)
    tuned, selected = quality.get("tuned"), quality.get("selected")
    drop = tuned - selected if tuned is not None and selected is not None else None
    budget = quality.get("max_quality_drop")
    spent = report["cost"]["measured_usd"]
    first = report["cost"]["first_order_usd"]
    reference = _reference(variants)
    return {
        "reference": reference["name"] if reference else None,
        "selected": report["selected"],
        "quality_kept": _divide(selected, tuned) if tuned is not None and tuned > 0 else None,
        "quality_drop": drop,
        "budget_used": _divide(drop, budget) if budget else None,
        "times_smaller": chosen.get("times_smaller") if chosen else None,
        "times_faster": chosen.get("times_faster") if chosen else None,
        "times_throughput": chosen.get("times_throughput") if chosen else None,
        "cost_of_first_order": _divide(spent, first),
    }


def against_one_node(report: Json, predicted: Json) -> Json:
    """What this run cost against the naive plan: the training node kept from start to end.

    The naive price is charged for the time that the run really took, so that both sides had the
    same surprises.
    """
    made = report["decision"]
    planned = (made.get("seconds") or {}).get("value")
    hourly = _divide(made.get("one_node_usd"), planned)
    took, spent = predicted["measured_seconds"], report["cost"]["measured_usd"]
    naive = hourly * took if hourly is not None and took is not None else None
    return {"one_node_usd": naive, "times_cheaper_than_one_node": _divide(naive, spent)}


def _reference(variants: list[Json]) -> Json | None:
    return next((row for row in variants if row["name"] == "fp32"), None)


def _against(row: Json, reference: Json | None) -> Json:
    """How a variant compares with fp32: factors above 1 are gains."""
    if reference is None:
        return {"times_smaller": None, "times_faster": None, "times_throughput": None}
    latency, base = row.get("latency_ms") or {}, reference.get("latency_ms") or {}
    quality, fp32 = row.get("quality_validation"), reference.get("quality_validation")
    return {
        "times_smaller": _divide(reference.get("size_bytes"), row.get("size_bytes")),
        "times_faster": _divide(base.get("p50"), latency.get("p50")),
        "times_throughput": _divide(row.get("throughput_per_s"), reference.get("throughput_per_s")),
        "quality_change": quality - fp32 if quality is not None and fp32 is not None else None,
    }


def _divide(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _compare(predicted: Json, measured: Json | None) -> Json | None:
    """Relative errors (measured over predicted, less one) and whether the interval held."""
    if measured is None or measured.get("seconds") is None:
        return None
    seconds, memory = measured["seconds"], measured.get("peak_memory_bytes")
    time_ratio = _divide(seconds, predicted["seconds"])
    memory_ratio = _divide(memory, predicted["peak_memory_bytes"])
    return {
        "seconds_error": None if time_ratio is None else time_ratio - 1,
        "memory_error": None if memory_ratio is None else memory_ratio - 1,
        "within_interval": _within(seconds, predicted["low"], predicted["high"]),
    }


def _within(value: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= value <= high


def prediction(steps: list[Json], whole: Json | None) -> Json:
    """How good the prediction was.

    Steps taken over from an earlier run say nothing new, and the report step can't measure its own
    end.
    """
    taken = [step for step in steps if step["comparison"] and step["kind"] != "report"]
    fresh = [step for step in taken if not step["cached"]]
    errors = [step["comparison"]["seconds_error"] for step in fresh]
    errors = [abs(error) for error in errors if error is not None]
    memory = [step["comparison"]["memory_error"] for step in fresh]
    memory = [abs(error) for error in memory if error is not None]
    measured = sum(step["measured"]["seconds"] for step in taken)
    predicted = sum(step["predicted"]["seconds"] or 0.0 for step in taken)
    ratio = _divide(measured, predicted)
    return {
        "compared_steps": len(fresh),
        "within_interval": sum(step["comparison"]["within_interval"] for step in fresh),
        "median_seconds_error": statistics.median(errors) if errors else None,
        "median_memory_error": statistics.median(memory) if memory else None,
        "predicted_seconds": predicted if taken else None,
        "measured_seconds": measured if taken else None,
        "seconds_error": None if ratio is None else ratio - 1,
        **_waits(taken),
        "whole_run_seconds": whole["value"] if whole else None,
        "whole_run_low": whole["low"] if whole else None,
        "whole_run_high": whole["high"] if whole else None,
    }


def _waits(steps: list[Json]) -> Json:
    """Seconds that steps waited for nodes, images and pods: predicted, and at least so many
    measured, of the steps for which that is known."""
    known = [step for step in steps if step["measured"].get("wait_s") is not None]
    if not any(step["predicted"].get("wait_s") for step in known):
        return {"predicted_wait_seconds": None, "measured_wait_seconds": None}
    return {
        "predicted_wait_seconds": sum(step["predicted"]["wait_s"] for step in known),
        "measured_wait_seconds": sum(step["measured"]["wait_s"] for step in known),
    }


def progress(steps: list[Json]) -> Json:
    """How far the run got, and what a resume would not repeat."""
    work = [step for step in steps if step["kind"] != "report"]
    done = [step for step in work if step["state"] == "done"]
    cached = [step for step in done if step["cached"]]
    return {
        "steps": len(work),
        "done": len(done),
        "cached": len(cached),
        "cached_seconds": sum((s["measured"]["seconds"] or 0.0) for s in cached),
        "spent_seconds": sum((s["measured"]["seconds"] or 0.0) for s in done if not s["cached"]),
    }


def rightsizing(step: Json, gpu_memory_bytes: int) -> list[Json]:
    """Requested against used memory of the pod and of the GPU, and what to ask for next time.

    `gpu_memory_bytes` is what the GPU of the run has, 0 without one.
    """
    measured, requested = step["measured"], step["requested"]
    if measured is None:
        return []
    rows = [_memory(step["name"], measured.get("peak_memory_bytes"), requested.get("memory_bytes"))]
    if step["node"] != HERE:
        rows.append(_cpu(step["name"], measured, requested.get("cpu_millicores")))
    used = measured.get("peak_gpu_memory_bytes")
    if used and gpu_memory_bytes and requested.get("gpu_count"):
        fraction = used / gpu_memory_bytes
        advice = "a larger micro-batch or a smaller GPU would do" if fraction < LOW_USE else FITS
        rows.append({"step": step["name"], "resource": "GPU memory", "unit": "bytes",
                     "requested": gpu_memory_bytes, "used": used, "used_fraction": fraction,
                     "suggested": None, "fits": fraction >= LOW_USE,
                     "advice": advice})  # fmt: skip
    return [row for row in rows if row]


def _memory(name: str, used: int | None, asked: int | None) -> Json | None:
    if not used or not asked:
        return None
    fraction = used / asked
    blocks = -(-int(max(used * MARGIN, BYTES_KEPT_AT_LEAST)) // (STEP_MIB * MIB))
    suggested = blocks * STEP_MIB * MIB
    if fraction > 1:
        advice = "used more than it asked for: a pod would have been killed"
    elif fraction > HIGH_USE:
        advice = "close to the limit: ask for more"
    elif fraction < LOW_USE and suggested < asked:
        advice = "asks for more than it needs"
    else:
        advice, suggested = FITS, asked
    return {
        "step": name,
        "resource": "memory",
        "unit": "bytes",
        "requested": asked,
        "used": used,
        "used_fraction": fraction,
        "suggested": suggested,
        "fits": advice == FITS,
        "advice": advice,
    }


def _cpu(name: str, measured: Json, asked_millicores: float | None) -> Json | None:
    """Average cores in use against the cores asked for; never advice against a fraction of one."""
    spent, seconds = measured.get("cpu_seconds"), measured.get("seconds")
    if spent is None or not asked_millicores or not seconds or seconds < CPU_SAYS_SECONDS:
        return None
    used, asked = spent / seconds, asked_millicores / 1000
    fraction = used / asked
    suggested = math.ceil(used * MARGIN / CORES_STEP) * CORES_STEP
    advice = FITS
    if fraction < LOW_USE and suggested < asked:
        advice = "leaves cores idle"
    elif fraction > HIGH_USE:
        advice = "uses all it has: more cores may be quicker"
    return {
        "step": name,
        "resource": "CPU",
        "unit": "cores",
        "requested": asked,
        "used": used,
        "used_fraction": fraction,
        "suggested": suggested if advice == "leaves cores idle" else asked,
        "fits": advice != "leaves cores idle",
        "advice": advice,
    }
