"""Predicted against measured seconds of the steps on this machine.

python -m benchmarks.here_accuracy [--shared ../shared] [--only wnut17] [--epochs 1]

Runs each spec with fresh folders, so nothing is cached, on an otherwise idle machine, and prints a
Markdown table. The constants of the cost model were fitted to short runs of WNUT-17 and of the
project's own set; banking77 and batch 8 are predictions.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from pipelines.local import run_here
from pipelines.plan import make_plan
from pipelines.spec import parse_spec

CASES = (("wnut17", 32), ("wnut17", 8), ("banking77", 32))
KINDS = ("train", "export", "evaluate", "select")


def case_spec(shared: Path, name: str, batch: int, epochs: int) -> Any:
    """Return the spec `name` with another batch and few epochs."""
    path = shared / "specs" / f"{name}.yaml"
    text = re.sub(r"epochs: \d+", f"epochs: {epochs}, global_batch: {batch}", path.read_text())
    # Quality is not the point: no variant may fail its gate after one epoch.
    text = text.replace("max_quality_drop: 0.01", "max_quality_drop: 0.9")
    text = re.sub(r", p99_latency_ms: \d+|p99_latency_ms: \d+, ", "", text)
    return parse_spec(text, source=str(path), folder=path.parent)


def measure(shared: Path, name: str, batch: int, epochs: int) -> list[tuple[str, float, float]]:
    """Return (step, predicted, measured) seconds of one run."""
    spec = case_spec(shared, name, batch, epochs)
    plan = make_plan(spec, here=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_here(spec, plan, workdir=Path(folder), on_event=lambda event: None)
    if outcome.exit_code:
        raise SystemExit(f"{name}: run ended with {outcome.exit_code}: {outcome.error}")
    rows = []
    for step in outcome.report["steps"]:
        if step["name"].split("-")[0] in KINDS:
            rows.append((step["name"], step["predicted"]["seconds"], step["measured"]["seconds"]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", default="")
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    print("| run | step | predicted s | measured s | error |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for name, batch in CASES:
        if arguments.only not in name:
            continue
        for step, predicted, measured in measure(
            arguments.shared.resolve(), name, batch, arguments.epochs
        ):
            error = predicted / measured - 1.0
            worst = max(worst, abs(error))
            print(
                f"| {name} batch {batch} | {step} | {predicted:.1f} | {measured:.1f} "
                f"| {error:+.0%} |"
            )
    print(f"\nlargest error {worst:.0%}")


if __name__ == "__main__":
    main()
