"""Run the whole WNUT-17 job with several seeds and print quality, size, speed and time.

    python -m benchmarks.wnut17 ../shared/specs/wnut17.yaml --seeds 0 1 2 --workdir /tmp/wnut

Writes benchmarks/results/wnut17.json. Each run is `suanli run`, so training, compression, export,
selection on validation and the one look at the test split are those a user gets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components.lib.host import hardware_here
from pipelines.spec import load_spec

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run every seed in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=RESULTS / "wnut17.json")
    arguments = parser.parse_args()
    runs = [run(arguments.spec, seed, arguments.workdir) for seed in arguments.seeds]
    hardware = hardware_here()
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{hardware.cpu_count} x {hardware.cpu_model}",
        "versions": hardware.versions,
        "mean_tuned": statistics.mean(r["tuned"] for r in runs),
        "mean_selected": statistics.mean(r["selected"] for r in runs),
        "runs": runs,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    for row in runs:
        print({key: row[key] for key in ("seed", "tuned", "selected", "variant", "wall_s")})
    print(f"mean tuned {document['mean_tuned']:.4f}, selected {document['mean_selected']:.4f}")


def run(source: Path, seed: int, workdir: Path) -> dict[str, Any]:
    """Run the spec at `source` with `seed`; returns the figures of its receipt."""
    spec = load_spec(source)
    document = spec.document
    for split in ("train", "validation", "test"):
        uri = document["data"][split]["uri"]
        if uri is not None:
            document["data"][split] = {"uri": spec.locate(uri)}
    document["training"]["seed"] = seed
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f"seed-{seed}.yaml"
    path.write_text(yaml.safe_dump(without_none(document)))
    command = [sys.executable, "-m", "pipelines", "run", str(path), "--json"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--workdir", str(workdir)], capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"seed {seed} ended with {done.returncode}: {done.stderr}")
    report = json.loads(done.stdout)
    return {
        "seed": seed,
        "tuned": report["quality"]["tuned"],
        "selected": report["quality"]["selected"],
        "variant": report["selected"],
        "wall_s": round(wall_s, 1),
        "variants": report["variants"],
        "steps": [
            {"name": s["name"], "predicted": s["predicted"], "measured": s["measured"]}
            for s in report["steps"]
        ],
    }


def without_none(value: Any) -> Any:
    """Drop keys whose value is None: the spec's defaults say the same."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return value


if __name__ == "__main__":
    main()
