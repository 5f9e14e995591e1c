"""Run an application's example and print what its guide quotes.

    python -m benchmarks.applications banking77 clinc150 --shared ../shared --workdir /tmp/apps
    python -m benchmarks.applications banking77 --collect /tmp/apps/banking77-intents/<run-id>

Each run is `suanli run` of the example in pipelines/examples, with public data where the table
below says so. The test split is scored once, after the choice. Results go to
benchmarks/results/applications.json, one entry an application.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[1] / "pipelines" / "examples"
RESULTS = Path(__file__).parent / "results" / "applications.json"
# Of the bars: every command ends with a passing gate within this time here.
WALL_BAR_S = 25 * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An example, what is changed in it, and what its selected model must reach on test.

    Attributes:
        example: its file in pipelines/examples.
        name: name of the changed spec; None: the example as it is.
        files: split to file or folder below shared/data; a fraction stands for itself.
        data, training: entries that replace the example's.
        bars: metric to the least value.
        base: the application whose tuned model is put where this one's `model.id` points.
    """

    example: str
    name: str | None = None
    files: dict[str, str | float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    base: str | None = None

    def spec(self, shared: Path) -> dict[str, Any]:
        """Return the example's spec with the changes."""
        spec: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{self.example}.yaml").read_text())
        if self.name is None:
            return spec
        splits = {
            split: {"uri": str((shared / "data" / value).resolve())}
            if isinstance(value, str)
            else {"fraction": value}
            for split, value in self.files.items()
        }
        return spec | {
            "name": self.name,
            "data": splits | self.data,
            "training": spec["training"] | self.training,
            "compression": {"max_quality_drop": 0.01, "variants": ["fp32", "int8"]},
        }


CLINC = "clinc150/data_full.json"
APPLICATIONS = {
    "banking77": Application(
        example="support-intents",
        name="banking77-intents",
        files={"train": "banking77/train.csv", "validation": 0.1, "test": "banking77/test.csv"},
        data={"columns": {"text": "text", "label": "category"}},
        training={"epochs": 6, "max_length": 64},
        bars={"accuracy": 0.90},
    ),
    "clinc150": Application(
        example="support-intents",
        name="clinc150-intents",
        files={"train": CLINC, "validation": CLINC, "test": CLINC},
        data={"columns": {"text": 0, "label": 1}, "out_of_scope": "oos"},
        training={"epochs": 4, "max_length": 32},
        bars={"in_scope_accuracy": 0.92, "out_of_scope_recall": 0.50},
    ),
    "financial-news": Application(
        example="headline-sentiment",
        name="financial-sentiment",
        files={
            "train": "twitter-financial-news/sent_train.csv",
            "validation": 0.1,
            "test": "twitter-financial-news/sent_valid.csv",
        },
        data={"columns": {"text": "text", "label": "label"}},
        training={"epochs": 3, "max_length": 96},
        bars={"macro_f1": 0.78},
    ),
    "sign-digits": Application(
        example="hand-images",
        name="sign-digits",
        files={"train": "sign-language-digits", "validation": 0.1, "test": 0.2},
        data={"format": "imagefolder"},
        bars={"accuracy": 0.85},
    ),
    "shop-ranking": Application(example="shop-ranking"),
    "support-intents": Application(example="support-intents", bars={"out_of_scope_recall": 0.5}),
    "support-replies-base": Application(example="support-replies-base"),
    "support-replies": Application(example="support-replies", base="support-replies-base"),
    "headlines": Application(example="headline-sentiment"),
    "hands": Application(example="hand-images"),
}


def main() -> None:
    """Run or collect the applications named and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(APPLICATIONS))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--collect", type=Path, help="the folder of a run that was made already")
    parser.add_argument("--wall-s", type=float, help="with --collect: what its command took")
    options = parser.parse_args()
    for name in options.names:
        if options.collect:
            folder, wall_s = options.collect, options.wall_s
        else:
            folder, wall_s = run(name, options.shared, options.workdir)
        found = figures(name, folder, wall_s)
        # Read again: another application may have been run meanwhile.
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = found
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(found, indent=1))


def run(name: str, shared: Path, workdir: Path) -> tuple[Path, float]:
    """Run one application; returns its run folder and the wall seconds of the command."""
    application = APPLICATIONS[name]
    workdir.mkdir(parents=True, exist_ok=True)
    spec = application.spec(shared)
    if application.base:
        folder = workdir / spec["model"]["id"]
        if not folder.exists():
            base, _ = run(application.base, shared, workdir)
            suanli("tier", "restore", "--run", str(base), "--to", str(folder))
    path = workdir / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    start = time.perf_counter()
    suanli("run", str(path), "--workdir", str(workdir), "--quiet")
    wall_s = time.perf_counter() - start
    runs = (workdir / spec["name"]).glob("*/report.json")
    return max(runs, key=lambda report: report.stat().st_mtime).parent, wall_s


def suanli(*arguments: str) -> None:
    """Run the command line; leaves with what it said when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(
            f"suanli {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        )


def figures(name: str, folder: Path, wall_s: float | None) -> dict[str, Any]:
    """Return what the guides quote, and whether the bars hold."""
    report = json.loads((folder / "report.json").read_text())
    hardware = report["hardware"]
    selected = report["test"]["selected"]["metrics"]
    bars = [(metric, bar, selected.get(metric)) for metric, bar in APPLICATIONS[name].bars.items()]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{hardware['cpu_count']} x {hardware['cpu_model']}",
        "status": report["status"],
        "wall_s": None if wall_s is None else round(wall_s, 1),
        "in_time": None if wall_s is None else wall_s <= WALL_BAR_S,
        "steps_s": round(sum((s["measured"] or {}).get("seconds") or 0 for s in report["steps"])),
        "predicted_s": round(
            sum((s["predicted"] or {}).get("seconds") or 0 for s in report["steps"])
        ),
        "tuned": report["test"]["tuned"]["metrics"],
        "selected": report["selected"],
        "metrics": selected,
        "variants": [
            {key: v[key] for key in ("name", "quality_validation", "size_bytes", "latency_ms")}
            for v in report["variants"]
        ],
        "bars": {
            metric: {"bar": bar, "value": value, "met": value is not None and value >= bar}
            for metric, bar, value in bars
        },
    }


if __name__ == "__main__":
    main()
