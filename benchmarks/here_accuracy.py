"""Predicted against measured seconds of the steps on this machine, before and after calibrating.

    python -m benchmarks.here_accuracy run --work FOLDER [--only wnut17-32]   # 90 s each
    python -m benchmarks.here_accuracy table --work FOLDER

`run` runs each case from scratch, one epoch, nothing cached, on an otherwise idle machine; do it
again for another run of each. `table` plans every case again with this version, learns a
calibration from the runs of WNUT-17 at batch 32 alone, and prints predictions without and with it,
the latter for cases that it has not seen, beside the median of what was measured. Constants of the
cost model come from benchmarks/fit_here.py, that is from the project's own headlines, and from the
steps of the WNUT-17 run for what stands around the model (starts, tracing, files).
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from components.storage import Tiers
from pipelines.cost.calibration import Calibration
from pipelines.learn import learn
from pipelines.local import run_here
from pipelines.plan import make_plan
from pipelines.spec import parse_spec

RESULTS = Path(__file__).parent / "results"
CASES = {"wnut17-32": ("wnut17", 32), "wnut17-8": ("wnut17", 8), "banking77-32": ("banking77", 32)}
LEARNT_FROM = "wnut17-32"
KINDS = ("train", "export", "evaluate", "compress", "select")
# Steps whose prediction must hold after calibration.
JUDGED = ("train", "export", "evaluate")
LEAST_SECONDS = 1.0


def case_spec(shared: Path, case: str) -> Any:
    """Return the spec of a case: one epoch, and the two variants that need no search."""
    name, batch = CASES[case]
    path = shared / "specs" / f"{name}.yaml"
    text = re.sub(r"epochs: \d+", f"epochs: 1, global_batch: {batch}", path.read_text())
    # Quality is not the point: no variant may fail its gate after one epoch.
    text = text.replace("max_quality_drop: 0.01", "max_quality_drop: 0.9, variants: [int8]")
    text = re.sub(r", p99_latency_ms: \d+|p99_latency_ms: \d+, ", "", text)
    return parse_spec(text, source=str(path), folder=path.parent)


def run(shared: Path, work: Path, case: str) -> None:
    """Run a case in `work`, with a store of its own."""
    spec = case_spec(shared, case)
    plan = make_plan(spec, here=True)
    folder = work / case / str(sum(1 for _ in (work / case).glob("*")) + 1)
    outcome = run_here(spec, plan, workdir=folder, on_event=lambda event: None)
    if outcome.exit_code:
        raise SystemExit(f"{case}: run ended with {outcome.exit_code}: {outcome.error}")


def folders_of(work: Path, case: str) -> list[Path]:
    """The runs of a case, the newest last.

    Raises:
        SystemExit: it was never run.
    """
    found = sorted(path.parent for path in (work / case).glob("*/*/*/run.json"))
    if not found:
        raise SystemExit(f"{work / case}: no run; start it with `run --only {case}`")
    return found


def figures(shared: Path, work: Path, case: str, calibration: Calibration) -> list[dict[str, Any]]:
    """Return measured seconds of the steps beside predictions of this version, without and with
    the calibration."""
    taken: dict[str, list[float]] = {}
    for folder in folders_of(work, case):
        for step in json.loads((folder / "report.json").read_text())["steps"]:
            taken.setdefault(step["name"], []).append(step["measured"]["seconds"])
    measured = {name: statistics.median(seconds) for name, seconds in taken.items()}
    spec = case_spec(shared, case)
    plain, learnt = (make_plan(spec, here=True, calibration=c) for c in (None, calibration))
    rows = []
    for step in plain.steps:
        if step.kind in KINDS and measured.get(step.step, 0.0) >= LEAST_SECONDS:
            known = learnt.step(step.step).seconds
            rows.append({
                "case": case, "step": step.step, "kind": step.kind,
                "measured_s": round(measured[step.step], 2),
                "runs_s": [round(seconds, 2) for seconds in taken[step.step]],
                "predicted_s": round(step.seconds.value, 2),
                "calibrated_s": round(known.value, 2),
                "inside": known.low <= measured[step.step] <= known.high,
            })  # fmt: skip
    return rows


def lesson(shared: Path, work: Path) -> Calibration:
    """Learn from the runs of `LEARNT_FROM` against what this version predicts of them."""
    plan = make_plan(case_spec(shared, LEARNT_FROM), here=True)
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for run_folder in folders_of(work, LEARNT_FROM):
            folder = Path(scratch) / run_folder.name
            folder.mkdir()
            shutil.copyfile(run_folder / "run.json", folder / "run.json")
            (folder / "plan.json").write_text(json.dumps(plan.to_json()))
            folders.append(folder)
        return learn(folders).calibration


def step_shares(work: Path, case: str) -> dict[str, float]:
    """Return seconds of one training step as measured, by phase."""
    folder = folders_of(work, case)[-1]
    tiers = Tiers.from_json(json.loads((folder / "run.json").read_text())["tiers"])
    path = Path(tiers.hot) / "runs" / folder.name / "steps/train.json"
    document = json.loads(path.read_text())
    steps = document["workload"]["steps"]
    names = ("forward", "backward", "optimiser")
    return {name: round(document["seconds"][name] / steps, 4) for name in names}


def table(shared: Path, work: Path) -> dict[str, Any]:
    """Print the table and return the document."""
    runs = [case for case in CASES if (work / case).is_dir()]
    calibration = lesson(shared, work)
    rows = [row for case in runs for row in figures(shared, work, case, calibration)]
    print("| run | step | measured s | predicted s | error | calibrated s | error |")
    print("|---|---|---|---|---|---|---|")
    worst = {"predicted": 0.0, "calibrated": 0.0}
    for row in rows:
        before, after = (row[f"{k}_s"] / row["measured_s"] - 1.0 for k in worst)
        if row["kind"] in JUDGED:
            worst["predicted"] = max(worst["predicted"], abs(before))
            if row["case"] != LEARNT_FROM:
                worst["calibrated"] = max(worst["calibrated"], abs(after))
        seen = "learnt from" if row["case"] == LEARNT_FROM else f"{after:+.0%}"
        print(
            f"| {row['case']} | {row['step']} | {row['measured_s']:.1f} | {row['predicted_s']:.1f} "
            f"| {before:+.0%} | {row['calibrated_s']:.1f} | {seen} |"
        )
    print("\nlargest error of train, export and evaluate: "
          + ", ".join(f"{k} {v:.0%}" for k, v in worst.items()))  # fmt: skip
    return {
        "date": datetime.date.today().isoformat(),
        "rows": rows,
        "largest_error": {k: round(v, 4) for k, v in worst.items() if math.isfinite(v)},
        "training_step_s": {case: step_shares(work, case) for case in runs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", choices=tuple(CASES))
    options = parser.parse_args()
    shared, work = options.shared.resolve(), options.work.resolve()
    if options.what == "run":
        for case in [options.only] if options.only else list(CASES):
            run(shared, work, case)
        return
    document = table(shared, work)
    path = RESULTS / f"here-accuracy-{document['date']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
