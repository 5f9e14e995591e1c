"""How long does `variants: auto` take after the tuning, and what does it choose?

    python -m benchmarks.compress_auto ../shared/specs/wnut17.yaml --cache FOLDER [--models FOLDER]

From a tuned model (cached as benchmarks.infer does) it runs compress, export and evaluate of every
variant that the plan for this machine names, with the plan's own arguments and budgets, then
select, which scores the chosen one on test. Each step's seconds are set beside the plan's; the
start of a step's process is left out of what is measured and of what was predicted it is a few
seconds. Results go to benchmarks/results/compress-<date>.json under `auto`; cut models are kept in
--models for benchmarks.compress. Finished steps are kept in --work: a broken-off run goes on there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import infer
from benchmarks.compress import keep
from components.compress import step as compress
from components.evaluate import step as evaluate
from components.export import step as export
from components.select import step as select
from components.storage import Store, Tiers
from pipelines.plan import make_plan
from pipelines.spec import load_spec

RUN = {"compress": compress.run, "export": export.run, "evaluate": evaluate.run,
       "select": select.run}  # fmt: skip


def measure(spec_path: Path, args: argparse.Namespace, store: Store) -> dict[str, Any]:
    """Run the steps after the tuning, one after the other."""
    subject = infer.tuned(spec_path, args.cache)
    plan = make_plan(load_spec(spec_path), here=True, cache_dir=args.work)
    model = store.put_folder(subject.model, kind="model")
    dataset = store.put_folder(subject.dataset, kind="dataset")
    kept = args.work / "steps.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []

    def run(kind: str, name: str, inputs: dict[str, Any]) -> str:
        done = next((row for row in rows if row["step"] == name), None)
        if done:
            return str(done["uri"])
        planned = plan.step(name)
        context = infer.context(store, kind, planned.arguments, inputs)
        start = time.perf_counter()
        uri = RUN[kind](context)
        seconds = time.perf_counter() - start
        shutil.rmtree(context.scratch, ignore_errors=True)  # as the runtime does after a step
        rows.append({
            "step": name, "seconds": seconds, "predicted_s": planned.seconds.value,
            "predicted_high_s": planned.seconds.high,
            "budget_s": planned.arguments.get("budget_s"), "notes": context.notes,
            "metrics": context.metrics, "uri": uri,
        })  # fmt: skip
        kept.write_text(json.dumps(rows))
        print(f"{name:<34}{seconds:>7.1f} s, planned {planned.seconds.value:>6.1f}", flush=True)
        for note in context.notes:
            print(f"    {note}", flush=True)
        return uri

    graphs, evaluations = {}, {}
    for variant in reversed(plan.variants):  # the longest first
        name = variant.replace("+", "-")
        made = run("compress", f"compress-{name}", {"model": model, "dataset": dataset})
        if args.models and variant.startswith("prune"):
            target = args.models / f"{subject.name}-{variant}-0"
            shutil.rmtree(target, ignore_errors=True)
            store.fetch(made, target)
            done = next(row for row in rows if row["step"] == f"compress-{name}")
            facts = {"step_s": done["seconds"], **done}
            (target / "made.json").write_text(json.dumps(facts, indent=1))
        graphs[variant] = run("export", f"export-{name}", {"model": made, "dataset": dataset})
        inputs = {"onnx": graphs[variant], "dataset": dataset}
        evaluations[variant] = run("evaluate", f"evaluate-{name}", inputs)
    inputs = {
        "evaluations": [evaluations[v] for v in plan.variants],
        "onnx": [graphs[v] for v in plan.variants],
        "dataset": dataset,
    }
    chosen = store.fetch(run("select", "select", inputs), args.work / "selection")
    selection = json.loads((chosen / "selection.json").read_text())
    shutil.rmtree(chosen)
    return {
        "variants": list(plan.variants), "steps": rows,
        "seconds": sum(row["seconds"] for row in rows),
        "predicted_s": sum(row["predicted_s"] for row in rows),
        "planned_total_s": plan.seconds.value, "selected": selection["selected"],
        "quality": selection["quality"], "choices": selection["variants"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("specs", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "suanli-bench")
    parser.add_argument("--models", type=Path, help="where cut models are kept")
    parser.add_argument("--work", type=Path, help="what is done (below --cache)")
    args = parser.parse_args()
    for spec_path in args.specs:
        args.work = args.work or args.cache / f"auto-{spec_path.stem}"
        args.work.mkdir(parents=True, exist_ok=True)
        found = measure(spec_path, args, Store(Tiers.under(args.work / "store")))
        print(f"{found['seconds']:.0f} s after the tuning, planned {found['predicted_s']:.0f}; "
              f"chosen {found['selected']}: {found['quality']}")  # fmt: skip
        keep("auto", load_spec(spec_path).name, found)


if __name__ == "__main__":
    main()
