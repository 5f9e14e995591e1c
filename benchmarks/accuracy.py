"""Error of the cost model on published measurements, in-sample and held out.

Usage: python -m benchmarks.accuracy ../shared/measured/workloads.csv
Writes docs/accuracy.md and benchmarks/results/accuracy.json (some minutes on two cores).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmarks import widths
from benchmarks.fitting import Held, Problem, leave_out, memory_problem, predict_with, time_problem
from benchmarks.measured import Measured, load
from benchmarks.one_run import NEAR, after_runs
from benchmarks.widths import kinds_of
from pipelines.cost.calibration import Z80
from pipelines.cost.coefficients import default_coefficients
from pipelines.cost.memory_activations import eager_attention
from pipelines.cost.residuals import shipped

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/accuracy.json"
PAGE = ROOT / "docs/accuracy.md"
HELD = {"leave-one-GPU-out": "gpu", "leave-one-model-out": "model", "leave-one-table-out": "table"}
RANDOM = "random fifth out"
MODES = ("in-sample", RANDOM, *HELD)
# What an 80 % interval should hold, and how many rows a group needs to say whether it does.
COVERAGE, COVER_ROWS = (0.75, 0.90), 10
# Held-out groups that the regression gate refits: small, and of different kinds.
GATE_GPUS = ("T4", "L4", "MI210", "RTX4090", "V100-PCIe-32GB")
# Partitions of fewer rows are printed but not gated: one row would decide.
GATE_ROWS = 5

Metrics = dict[str, float]


def metrics(error: np.ndarray, spread: np.ndarray | None = None) -> Metrics:
    """Summarise log errors: sizes are of predicted / measured - 1."""
    relative = np.expm1(error)
    out = {
        "rows": float(len(error)),
        "median": float(np.median(np.abs(relative))),
        "mean": float(np.mean(np.abs(relative))),
        "bias": float(np.median(relative)),
    }
    if spread is not None:
        out["coverage"] = float(np.mean(np.abs(error) <= Z80 * spread))
        out["width"] = float(np.median(2 * np.sinh(Z80 * spread)))
    return {k: round(v, 4) for k, v in out.items()}


def partitions(
    measured: Measured, error: np.ndarray, spread: np.ndarray | None = None
) -> dict[str, Metrics]:
    """Return metrics over all rows, by source table and by GPU, and means over tables."""
    known = ~measured.oom & np.isfinite(error)

    def part(mask: np.ndarray) -> Metrics:
        rows = mask & known
        return metrics(error[rows], None if spread is None else spread[rows])

    out = {"all": part(known)}
    for name, column in (("table", measured.table), ("gpu", measured.gpu)):
        for value in sorted(set(column[known].tolist())):
            out[f"{name}:{value}"] = part(column == value)
    tables = [v for k, v in out.items() if k.startswith("table:")]
    out["mean over tables"] = {
        key: round(float(np.mean([t[key] for t in tables])), 4) for key in tables[0]
    } | {"rows": float(len(tables))}
    return out


def baselines(measured: Measured) -> dict[str, np.ndarray]:
    """Log errors of two formulas fitted in-sample on the same rows.

    Seed formula: FLOPs at one utilisation per GPU. Constant MFU: one per kind and precision.
    """
    c = measured.columns
    train = c.is_("kind", "train")
    passes = np.where(train, 6.0, 2.0)
    weights = c["matmul_parameters"] + np.where(c.is_("head", "lm"), 1, 0) * (
        c["vocab_size"] * c["hidden_size"]
    )
    replicas = np.where(train, c["data_parallel"] * c["grad_accum"], 1.0)
    tokens = c["micro_batch"] * c["seq_len"] * replicas
    ideal = passes * weights * tokens / (c["peak"] * np.where(train, c["n_gpus"], 1.0))
    ratio = np.log(ideal / measured.value)
    out = {}
    precision = c.names["precision"].astype(str)
    kinds = np.char.add(np.where(train, "train ", "infer "), precision)
    for name, key in (("seed formula", measured.gpu), ("constant MFU", kinds)):
        error = np.empty(len(ratio))
        for value in set(key.tolist()):
            mask = key == value
            error[mask] = ratio[mask] - np.median(ratio[mask])
        out[name] = error
    return out


def textbook_memory(measured: Measured) -> np.ndarray:
    """Log error of the formula of textbooks: 16 bytes a trained parameter, 2 (in 4 bits 0.5) a
    frozen one, shared by all GPUs; s b h (34 + 5 a s / h) a layer (Korthikanti et al. 2022), the
    second term where scores are written out, or its input alone where layers are recomputed."""
    c = measured.columns
    frozen = c.is_("task", "lora", "qlora", "infer")
    total = c["backbone_parameters"] + c["lm_head_parameters"]
    bytes_each = np.where(frozen, np.where(c.is_("quantization", ""), 2.0, 0.5), 16.0)
    tokens = c["micro_batch"] * c["seq_len"] / c["cp"]
    scores = np.where(eager_attention(c), 5.0 * c["num_heads"] * c["seq_len"], 0.0)
    layer = tokens * (34.0 * c["hidden_size"] + scores)
    kept = np.where(c.is_("checkpointing", "full"), 2.0 * tokens * c["hidden_size"], layer)
    acts = (kept * (c["num_layers"] - 1) + layer) / (c["tp"] * c["pp"])
    acts = np.where(c.is_("kind", "train"), acts, 0.0)
    states = (total * bytes_each + 16.0 * c["trainable_parameters"] * frozen) / c["n_gpus"]
    result: np.ndarray = np.log((states + acts) / measured.value)
    return result


def problem_of(path: Path, quantity: str) -> tuple[Measured, Problem, np.ndarray]:
    """Return the rows, the fit problem and the shipped solution."""
    measured = load(path, quantity)
    problem = (time_problem if quantity == "time" else memory_problem)(measured)
    values = default_coefficients()
    return measured, problem, np.log([values[name] for name in problem.names])


def in_sample(problem: Problem, shipped_x: np.ndarray) -> Held:
    return predict_with(problem, shipped_x, shipped(problem.quantity))


def held_out(measured: Measured, problem: Problem, x: np.ndarray) -> dict[str, Held]:
    """Predict rows at random, GPUs, models and tables from the others, intervals included: widths
    of the time's intervals come from groups other than the one they are judged on."""
    calibration = shipped(problem.quantity)
    if problem.doubt is not None:
        return {
            mode: leave_out(problem, x, getattr(measured, column), calibration)
            for mode, column in HELD.items()
        }
    answers, kinds = widths.held_out(problem, measured, x, calibration), kinds_of(measured)
    known = problem.weight > 0
    return {
        mode: Held(
            mean=answers[column].mean, spread=widths.unknowing(answers, kinds, column, known)
        )
        for mode, column in {RANDOM: "random", **HELD}.items()
    }


def within(parts: dict[str, Metrics], kind: str) -> dict[str, float]:
    """Count the tables or GPUs of enough rows whose coverage lies within `COVERAGE`, and those
    that a sample of their size from an interval within it could show (19 times in 20)."""
    low, high = COVERAGE
    found = [v for k, v in parts.items() if k.startswith(f"{kind}:") and v["rows"] >= COVER_ROWS]
    inside = [low <= v["coverage"] <= high for v in found]
    could = []
    for v in found:
        rows, hits = int(v["rows"]), round(v["coverage"] * v["rows"])
        scarce, ample = binom.cdf(hits, rows, low), binom.sf(hits - 1, rows, high)
        could.append(bool(scarce > 0.025 and ample > 0.025))
    return {"groups": len(found), "inside": sum(inside), "consistent": sum(could)}


def evaluate(path: Path) -> dict[str, Any]:
    """Compute every figure of the page."""
    document: dict[str, Any] = {}
    for quantity in ("time", "memory"):
        measured, problem, x = problem_of(path, quantity)
        held = {
            "in-sample": in_sample(problem, x),
            **held_out(measured, problem, x),
        }
        entry: dict[str, Any] = {"predicted": len(measured.rows), "asked": measured.asked}
        for mode, answer in held.items():
            entry[mode] = partitions(measured, answer.mean - problem.target, answer.spread)
        entry["within"] = {
            mode: {kind: within(entry[mode], kind) for kind in ("table", "gpu")} for mode in held
        }
        if quantity == "time":
            mean, kinds = held["leave-one-GPU-out"].mean, kinds_of(measured)
            entry["runs"] = {
                str(n): after_runs(measured, kinds, np.exp(mean), mean - problem.target, n)
                for n in (1, 3)
            }
        others = baselines(measured) if quantity == "time" else {}
        if quantity == "memory":
            others = {"textbook formula": textbook_memory(measured)}
        entry["baselines"] = {k: partitions(measured, v) for k, v in others.items()}
        document[quantity] = entry
    document["gate"] = gate(path)
    return document


def gate(path: Path) -> dict[str, dict[str, Metrics]]:
    """Compute the figures that the regression test compares: in-sample and a few GPUs held out."""
    out: dict[str, dict[str, Metrics]] = {}
    for quantity in ("time", "memory"):
        measured, problem, x = problem_of(path, quantity)
        answer = in_sample(problem, x)
        out[quantity] = partitions(measured, answer.mean - problem.target, answer.spread)
        known = ~measured.oom
        # Memory has few rows: every GPU is held out at once.
        names = GATE_GPUS if quantity == "time" else tuple(sorted(set(measured.gpu[known])))
        held = leave_out(problem, x, measured.gpu, shipped(quantity), only=names)
        error = held.mean - problem.target
        for gpu in names:
            rows = known & (measured.gpu == gpu)
            out[quantity][f"held out gpu:{gpu}"] = metrics(error[rows], held.spread[rows])
    return out


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _table(parts: dict[str, dict[str, Metrics]], keys: list[str]) -> list[str]:
    header = "| partition | rows |" + "".join(
        f" {m} median / mean / bias / coverage |" for m in parts
    )
    lines = [header, "|---|---|" + "---|" * len(parts)]
    for key in keys:
        cells = []
        for values in parts.values():
            v = values[key]
            text = f"{_percent(v['median'])} / {_percent(v['mean'])} / {_percent(v['bias'])}"
            cells.append(text + (f" / {_percent(v['coverage'])}" if "coverage" in v else ""))
        rows = int(next(iter(parts.values()))[key]["rows"])
        lines.append(f"| {key} | {rows} | " + " | ".join(cells) + " |")
    return lines


_INTRO = (
    "# How accurate the cost model is",
    "",
    "Generated by `python -m benchmarks.accuracy ../shared/measured/workloads.csv` on "
    "2026-11-26 (2 vCPU AMD EPYC Zen 5, no GPU); do not edit. All figures in percent: absolute "
    "error of predicted against measured (median, mean), median signed error (bias), share of "
    "rows inside their 80 % interval (coverage). Held-out modes refit coefficients and residuals "
    "without a fifth of the rows, the GPU, the model or the whole source table; kernel "
    "measurements (gemm.csv) of the GPU stay. Baselines are fitted in-sample on the same rows: "
    "the seed formula has one utilisation per GPU, constant MFU one per kind and precision.",
    "",
    "Widths of the time's intervals are set from errors held out the same way, by what is new "
    "about a row: its GPU, its model's size or its software within a class of work. Where "
    "coverage is judged, the figures were set again without the group that they are judged on, "
    "so it is not so by construction. The physics of the model was chosen with these tables in "
    "view; a whole table held out is the nearest to rows of another paper, and those may fare "
    "worse.",
    "",
    "Memory is a count, not a fit: constants may move little from values that follow from how "
    "libraries are written, and no effect of a GPU, model or table is learnt. Those values were "
    "chosen with the published rows in view, and so was the scale of its intervals: even held-out "
    "figures for memory are not blind. What is independent of them: `python -m "
    "benchmarks.saved_tensors` compares the count of a layer's saved bytes with what autograd "
    "saves in five families of models.",
    "",
)


def page(document: dict[str, Any]) -> str:
    """Return docs/accuracy.md."""
    lines = [*_INTRO]
    for quantity, title in (("time", "Time"), ("memory", "Peak GPU memory")):
        entry = document[quantity]
        modes = {m: entry[m] for m in MODES if m in entry}
        share = _percent(entry["predicted"] / entry["asked"])
        lines += [
            f"## {title}",
            "",
            f"{entry['predicted']} of {entry['asked']} rows predicted ({share} %).",
            "",
            *_coverage(entry, modes),
            "",
        ]
        every = modes | entry["baselines"]
        lines += [*_table(every, ["all", "mean over tables"]), ""]
        for kind in ("table", "gpu"):
            keys = [k for k in entry["in-sample"] if k.startswith(f"{kind}:")]
            lines += [*_table(every if kind == "table" else modes, keys), ""]
        if "runs" in entry:
            lines += _after_runs(entry["runs"])
    return "\n".join(lines)


def _coverage(entry: dict[str, Any], modes: dict[str, dict[str, Metrics]]) -> list[str]:
    """Say how many tables and GPUs the interval covers as it should, and how wide it is."""
    low, high = (round(100 * bound) for bound in COVERAGE)
    lines = [
        f"Coverage within each table and GPU of at least {COVER_ROWS} rows: how many lie within "
        f"{low} to {high} %, and how many are consistent with it (a sample of their rows from an "
        "interval that does would show as much 19 times in 20). Width: high minus low over the "
        "estimate, median.",
        "",
        "| mode | coverage | width | tables within / consistent / all "
        "| GPUs within / consistent / all |",
        "|---|---|---|---|---|",
    ]
    for mode, parts in modes.items():
        cells = [
            " / ".join(str(entry["within"][mode][kind][key]) for key in _WITHIN)
            for kind in ("table", "gpu")
        ]
        whole = parts["all"]
        lines.append(
            f"| {mode} | {_percent(whole['coverage'])} | {_percent(whole['width'])} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


_WITHIN = ("inside", "consistent", "groups")


def _after_runs(found: dict[str, Any]) -> list[str]:
    """Say what runs on a GPU that was never measured make of the error there."""
    lines = [
        "## After a run on the GPU",
        "",
        "A GPU held out; then one of its rows, or three of one kind and model, play the runs that "
        "`suanli calibrate` learns from, and the GPU's others are predicted (40 draws a GPU). "
        "Kind: software, task and precision; layout: GPUs and how they share the work; near: "
        "sequence and micro-batch within a factor of two, taken together. Error before and after, "
        "median / mean, means over GPUs of five rows or more; then GPU by GPU after one run. With "
        "the A100 all rows of Megatron are held out, on the 96-GB H100 most rows differ in what "
        "the columns do not say (scaling of 8-bit products, schedules).",
        "",
        "| predicted | runs | GPUs | before | after |",
        "|---|---|---|---|---|",
    ]
    for runs, parts in found.items():
        for name, part in parts.items():
            rows = [(name, runs, str(part["gpus"]), part["mean over GPUs"])]
            if name == NEAR[0] and runs == "1":
                rows += [(f"- {gpu}", "1", "", v) for gpu, v in part["by GPU"].items()]
            for label, count, gpus, v in rows:
                cells = [
                    f"{_percent(v[f'{when}_median'])} / {_percent(v[f'{when}_mean'])}"
                    for when in ("before", "after")
                ]
                lines.append(f"| {label} | {count} | {gpus} | {cells[0]} | {cells[1]} |")
    return [*lines, ""]


def main() -> None:
    document = evaluate(Path(sys.argv[1]))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
