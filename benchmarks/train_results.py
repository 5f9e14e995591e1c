"""What benchmarks.train compares, and what it makes of its measurements."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
RATE = 1.1e-4
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class System:
    """How a system is measured: `steps` of it are timed, `sampling` is the Trainer's order.

    "plain" is ours with one learning rate for all, as the Trainer has it. group_by_length sorts 50
    batches at a time, longest first: fewer steps would see only long rows.
    """

    steps: int
    sampling: str | None = None


SYSTEMS = {
    "ours": System(steps=50),
    "plain": System(steps=50),
    "best": System(steps=50, sampling="group_by_length"),
    "example": System(steps=20, sampling="random"),
}
DATA: dict[str, dict[str, Any]] = {
    "wnut17": {
        "task": "token-classification",
        "train": {"uri": "data/wnut17/wnut17train.conll"},
        "validation": {"uri": "data/wnut17/emerging.dev.conll"},
        "test": {"uri": "data/wnut17/emerging.test.annotated"},
        "format": "conll",
        "columns": {},
        "max_length": 128,
    },
    "banking77": {
        "task": "text-classification",
        "train": {"uri": "data/banking77/train.csv"},
        "validation": {"fraction": 0.1},
        "test": {"uri": "data/banking77/test.csv"},
        "format": "csv",
        "columns": {"text": "text", "label": "category"},
        "max_length": 64,
    },
    "twitter": {
        "task": "text-classification",
        "train": {"uri": "data/twitter-financial-news/sent_train.csv"},
        "validation": {"fraction": 0.1},
        "test": {"uri": "data/twitter-financial-news/sent_valid.csv"},
        "format": "csv",
        "columns": {"text": "text", "label": "label"},
        "max_length": 96,
    },
}


def keep(path: Path, kind: str, key: dict[str, Any], result: dict[str, Any]) -> None:
    """Add a measurement to the results file, in the place of an earlier one of the same key."""
    import dataclasses

    from components.lib.host import hardware_here

    document = json.loads(path.read_text()) if path.is_file() else {"speed": [], "quality": []}
    document |= {
        "date": today(),
        "hardware": {**dataclasses.asdict(hardware_here()), "cpu": cpu()},
        "settings": {"model": "minilm-l6", "batch": BATCH, "learning_rate": RATE},
    }
    row = {**key, **result, "load_average": round(os.getloadavg()[0], 1)}
    shown = {name: value for name, value in row.items() if name != "counts"}
    print(json.dumps(shown), flush=True)
    others = [r for r in document[kind] if any(r[name] != value for name, value in key.items())]
    document[kind] = [*others, row]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def summarise(path: Path) -> None:
    """Work out ratios and the paired bootstrap from the measurements, keep and print them."""
    document = json.loads(path.read_text())
    document["ratios"] = ratios(document["speed"])
    document["comparison"] = compared(document["quality"])
    # One entry a line, and no more digits than a reader takes in.
    text = json.dumps(document, indent=1)
    path.write_text(re.sub(r"\[\s+(-?[\d.]+(?:,\s+-?[\d.]+)*)\s+\]", _joined, text) + "\n")
    for row in (*document["ratios"], *document["comparison"]):
        print(json.dumps(row))


def _joined(match: re.Match[str]) -> str:
    return "[" + ", ".join(match.group(1).split(",\n")).replace(" ", "").replace(",", ", ") + "]"


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median speeds a setting, and ours over each other system's."""
    settings = sorted({(row["data"], row["precision"]) for row in rows})

    def median(data: str, precision: str, system: str) -> float | None:
        found = [
            row["tokens_per_s"] for row in rows
            if (row["data"], row["precision"], row["system"]) == (data, precision, system)
        ]  # fmt: skip
        return statistics.median(found) if found else None

    result = []
    for data, precision in settings:
        speeds = {system: median(data, precision, system) for system in SYSTEMS}
        row: dict[str, Any] = {"data": data, "precision": precision, "tokens_per_s": speeds}
        mine = speeds["ours"]
        plain = median(data, "fp32", "example")
        for name, other in (("example", speeds["example"]), ("best", speeds["best"]),
                            ("example_fp32", plain)):  # fmt: skip
            row[f"ratio_to_{name}"] = round(mine / other, 2) if mine and other else None
        result.append(row)
    return result


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the example setting: mean test score over the seeds both have, and the paired
    bootstrap of the difference over seeds (every way to draw as many) and, within each draw, over
    test examples, all drawn seeds' counts of an example together."""
    import numpy as np

    from components.lib import metrics

    result = []
    for data in sorted({row["data"] for row in rows}):
        words = DATA[data]["task"] == "token-classification"
        statistic = metrics.f1_from_counts if words else metrics.mean_from_counts
        name = "entity_f1" if words else "accuracy"
        for precision in ("fp32", "bf16"):
            for epochs in sorted({row["epochs"] for row in rows}):
                found = {
                    system: {
                        row["seed"]: row for row in rows
                        if (row["data"], row["system"], row["epochs"]) == (data, system, epochs)
                        and row["precision"] == (precision if system == "ours" else "fp32")
                    }
                    for system in ("ours", "example")
                }  # fmt: skip
                seeds = sorted(found["ours"].keys() & found["example"].keys())
                if not seeds:
                    continue
                drop = np.concatenate([
                    metrics.paired_drop(
                        *(
                            np.sum([found[s][seed]["counts"] for seed in drawn], axis=0)
                            for s in ("example", "ours")
                        ),
                        statistic,
                        seed=number,
                    )
                    for number, drawn in enumerate(itertools.product(seeds, repeat=len(seeds)))
                ])  # fmt: skip
                scores = {
                    s: [round(found[s][seed]["test"][name], 4) for seed in seeds] for s in found
                }
                result.append({
                    "data": data, "precision": precision, "epochs": epochs, "seeds": seeds,
                    "metric": name, "scores": scores,
                    "mean": {s: round(statistics.mean(v), 4) for s, v in scores.items()},
                    "difference_ci95": [round(-x, 4) for x in metrics.interval95(drop)[::-1]],
                })  # fmt: skip
    return result


def cpu() -> str:
    """Family and model of this machine's processor, which its name often hides."""
    wanted = ("vendor_id", "cpu family", "model", "model name")
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            found.setdefault(name.strip(), value.strip())
    return ", ".join(f"{name} {value}" for name, value in found.items())


def today() -> str:
    return datetime.date.today().isoformat()
