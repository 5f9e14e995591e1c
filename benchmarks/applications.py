"""Run an application's example on public data and print what its guide quotes.

    python -m benchmarks.applications banking77 clinc150 --shared ../shared --workdir /tmp/apps
    python -m benchmarks.applications banking77 --collect /tmp/apps/banking77-intents/<run-id>

Each run is `suanli run` of the example in pipelines/examples with another data section. The test
split is scored once, after the choice. Results go to benchmarks/results/applications.json, one
entry an application.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components.runtime import hardware_here

EXAMPLES = Path(__file__).parents[1] / "pipelines" / "examples"
RESULTS = Path(__file__).parent / "results" / "applications.json"
VARIANTS = {"max_quality_drop": 0.01, "variants": ["fp32", "int8"]}
CLINC = "clinc150/data_full.json"
# Example, what is changed in it, and the bar: metric of the selected model on test, at least.
APPLICATIONS: dict[str, dict[str, Any]] = {
    "banking77": {
        "example": "support-intents",
        "name": "banking77-intents",
        "data": {
            "train": {"uri": "banking77/train.csv"},
            "validation": {"fraction": 0.1},
            "test": {"uri": "banking77/test.csv"},
            "columns": {"text": "text", "label": "category"},
        },
        "training": {"epochs": 6, "max_length": 64},
        "bars": {"accuracy": 0.90},
    },
    "clinc150": {
        "example": "support-intents",
        "name": "clinc150-intents",
        "data": {
            "train": {"uri": CLINC},
            "validation": {"uri": CLINC},
            "test": {"uri": CLINC},
            "columns": {"text": 0, "label": 1},
            "out_of_scope": "oos",
        },
        "training": {"epochs": 4, "max_length": 32},
        "bars": {"in_scope_accuracy": 0.92, "out_of_scope_recall": 0.50},
    },
    "financial-news": {
        "example": "headline-sentiment",
        "name": "financial-sentiment",
        "data": {
            "train": {"uri": "twitter-financial-news/sent_train.csv"},
            "validation": {"fraction": 0.1},
            "test": {"uri": "twitter-financial-news/sent_valid.csv"},
            "columns": {"text": "text", "label": "label"},
        },
        "training": {"epochs": 3, "max_length": 96, "class_weights": "balanced"},
        "bars": {"macro_f1": 0.78},
    },
    "sign-digits": {
        "example": "hand-images",
        "name": "sign-digits",
        "data": {
            "train": {"uri": "sign-language-digits"},
            "validation": {"fraction": 0.1},
            "test": {"fraction": 0.2},
            "format": "imagefolder",
        },
        "training": {"epochs": 80},
        "bars": {"accuracy": 0.85},
    },
    "shop-ranking": {"example": "shop-ranking", "bars": {}},
    "support-intents": {"example": "support-intents", "bars": {"out_of_scope_recall": 0.5}},
    "headlines": {"example": "headline-sentiment", "bars": {}},
    "hands": {"example": "hand-images", "bars": {}},
}


def main() -> None:
    """Run or collect the applications named and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=sorted(APPLICATIONS))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--collect", type=Path, help="the folder of a run that was made already")
    parser.add_argument("--wall-s", type=float, help="with --collect: what its commands took")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.names:
        if options.collect:
            folder, wall_s = options.collect, options.wall_s
        else:
            folder, wall_s = run(name, options.shared, options.workdir)
        results[name] = figures(name, folder, wall_s)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(results[name], indent=1))


def spec_of(name: str, shared: Path) -> dict[str, Any]:
    """Return the example's spec with the application's data."""
    application = APPLICATIONS[name]
    spec = yaml.safe_load((EXAMPLES / f"{application['example']}.yaml").read_text())
    if "data" not in application:
        return dict(spec)
    data = {
        key: {"uri": str((shared / "data" / value["uri"]).resolve())}
        if isinstance(value, dict) and "uri" in value
        else value
        for key, value in application["data"].items()
    }
    spec |= {"name": application["name"], "data": data, "compression": VARIANTS}
    spec["training"] = application["training"]
    return dict(spec)


def run(name: str, shared: Path, workdir: Path) -> tuple[Path, float]:
    """Run one application; returns its run folder and the wall seconds of the command."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec_of(name, shared)))
    command = [sys.executable, "-m", "pipelines", "run", str(path), "--workdir", str(workdir)]
    start = time.perf_counter()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr}")
    report = json.loads(done.stdout)
    return workdir / report["spec"]["name"] / report["run_id"], wall_s


def figures(name: str, folder: Path, wall_s: float | None) -> dict[str, Any]:
    """Return what the guides quote, and whether the bars hold."""
    report = json.loads((folder / "report.json").read_text())
    hardware = hardware_here()
    selected = report["test"]["selected"]["metrics"]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{hardware.cpu_count} x {hardware.cpu_model}",
        "status": report["status"],
        "wall_s": None if wall_s is None else round(wall_s, 1),
        "steps_s": round(sum((s["measured"] or {}).get("seconds") or 0 for s in report["steps"])),
        "tuned": report["test"]["tuned"]["metrics"],
        "selected": report["selected"],
        "metrics": selected,
        "variants": [
            {key: v[key] for key in ("name", "quality_validation", "size_bytes", "latency_ms")}
            for v in report["variants"]
        ],
        "bars": {
            metric: {"bar": bar, "value": selected.get(metric), "met": selected[metric] >= bar}
            for metric, bar in APPLICATIONS[name]["bars"].items()
        },
    }


if __name__ == "__main__":
    main()
