"""How fast is our exported model against other ways to run it? Paired, in one program.

    python benchmarks/infer.py ../shared/specs/wnut17.yaml [more specs] [--olive VENV/bin/python]

For each spec: tunes the model (cached under --cache), writes the graphs of every route, and times
them in turn, round after round, so that whatever else the machine does hits all alike:

- padded: batches of 32 in file order, padded to the longest, on PyTorch fp32: what a plain script
  does, and the reference of every ratio;
- same batches: our length-bucketed batches, given to every route;
- single: one request at a time.

On a machine that others use too, wall time says little: `--threads 1 --clock cpu` compares the CPU
seconds that the routes take on one thread. Ratios are medians over rounds of the reference's time
over the route's, within a round. Results go to benchmarks/results/infer-<date>.json with the
hardware.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import infer_routes as routes
from components.ingest import step as ingest
from components.lib.host import hardware_here
from components.lib.references import pad_token_id
from components.lib.runner import CPU_TOKEN_BUDGET
from components.lib.sequences import plan_batches
from components.runtime import StepContext
from components.storage import Store, Tiers
from components.train import step as train

RESULTS = Path(__file__).parent / "results"
PADDED_BATCH = 32
SINGLE_REQUESTS = 60
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def tuned(spec_path: Path, cache: Path, epochs: int | None = None) -> routes.Subject:
    """Ingest and train as the spec says (for `epochs`, if given), once."""
    spec = yaml.safe_load(spec_path.read_text())
    folder = cache / (spec_path.stem if epochs is None else f"{spec_path.stem}-{epochs}-epochs")
    if epochs is not None:
        spec["training"]["epochs"] = epochs
    folder.mkdir(parents=True, exist_ok=True)
    store, known = Store(Tiers.under(folder / "store")), folder / "uris.json"
    if not known.exists():
        data = spec["data"]
        for split in ("train", "validation", "test"):
            if "uri" in data[split]:
                data[split]["uri"] = str((spec_path.parent / data[split]["uri"]).resolve())
        training = {"precision": "bf16", "global_batch": 32, "seed": 0, **spec["training"]}
        arguments = {key: spec[key] for key in ("task", "name", "model", "data")}
        arguments |= {"max_length": training["max_length"], "seed": 0, "training": training}
        dataset = ingest.run(context(store, "ingest", arguments, {}))
        model = train.run(context(store, "train", arguments, {"dataset": dataset}))
        known.write_text(json.dumps({"dataset": dataset, "model": model}))
    uris = json.loads(known.read_text())
    model = store.fetch(uris["model"], folder / "model")
    dataset = store.fetch(uris["dataset"], folder / "dataset")
    return routes.Subject.load(spec["name"], model, dataset, pad_token_id(model))


def context(store: Store, kind: str, arguments: dict[str, Any], inputs: Any) -> StepContext:
    """Return what a step needs to run outside a pipeline."""
    scratch = Path(store.tiers.hot) / "scratch" / kind
    scratch.mkdir(parents=True, exist_ok=True)
    return StepContext(step=kind, kind=kind, arguments=arguments, inputs=inputs, store=store,
                       run_id="benchmark", plan_hash="", requested={}, scratch=scratch)  # fmt: skip


def all_routes(
    subject: routes.Subject, folder: Path, args: argparse.Namespace
) -> tuple[list[routes.Route], dict[str, str]]:
    """Make every route; returns them and why others are missing."""
    threads, olive = args.threads, args.olive
    made, missing = [routes.torch_route(subject, threads, compiled=False)], {}
    if args.compile:
        made.append(routes.torch_route(subject, threads, compiled=True))
    makers = {
        "onnxruntime stock": lambda: routes.stock_graphs(subject, folder),
        "transformers.exporters": lambda: routes.exporter_graphs(subject, folder),
        "olive": lambda: {"int8": routes.olive_graph(subject, folder, olive)} if olive else {},
    }
    for name, make in makers.items():
        if args.only and name not in args.only:
            continue
        try:
            for kind, path in make().items():
                made.append(routes.session_route(f"{name} {kind}", path, threads, peer=True))
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
    for kind, path in routes.our_graphs(subject, folder).items():
        made.append(
            routes.session_route(f"ours {kind}", path, threads, peer=False, side_by_side=True)
        )
    return made, missing


def timed(run: routes.Run, feeds: Sequence[routes.Feed], clock: str) -> float:
    """Return wall seconds, or the CPU seconds of this process."""
    now = CLOCKS[clock]
    start = now()
    run(feeds)
    return now() - start


def measure(subject: routes.Subject, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time every route of one subject and score it on test."""
    split = subject.split("test")
    most = min(split.rows, args.rows)
    rows = np.arange(most)
    padded = [rows[i : i + PADDED_BATCH] for i in range(0, most, PADDED_BATCH)]
    bucketed = plan_batches(split.lengths[:most], token_budget=CPU_TOKEN_BUDGET)
    chosen = np.random.default_rng(0).permutation(most)[:SINGLE_REQUESTS]
    feeds = {
        "padded": subject.feeds(split, padded),
        "bucketed": subject.feeds(split, bucketed),
        "single": subject.feeds(split, [chosen[i : i + 1] for i in range(len(chosen))]),
    }
    made, missing = all_routes(subject, folder, args)
    quality, outputs = {}, {}
    whole = plan_batches(split.lengths, token_budget=CPU_TOKEN_BUDGET)
    for route in made:  # warms up every shape, too
        outputs[route.name] = route.run(subject.feeds(split, whole))
        quality[route.name] = routes.score(subject, split, outputs[route.name], whole)
    reference = made[0]
    reference.run(feeds["padded"][:2])
    times = rounds(made, feeds, args.rounds, args.clock)
    return {
        "task": subject.task,
        "test_rows": split.rows,
        "rows_timed": most,
        "tokens": int(split.lengths[:most].sum()),
        "padded_ratio": ratio_of(feeds["padded"]),
        "bucketed_ratio": ratio_of(feeds["bucketed"]),
        "missing": missing,
        "epochs": args.epochs or "as the spec says",
        "threads": args.threads,
        "clock": args.clock,
        "rounds": args.rounds,
        "routes": table(made, times, quality, most),
    }


def ratio_of(feeds: list[routes.Feed]) -> float:
    """Padded over real tokens."""
    return sum(f["input_ids"].size for f in feeds) / sum(
        int(f["attention_mask"].sum()) for f in feeds
    )


def rounds(
    made: list[routes.Route], feeds: dict[str, list[routes.Feed]], count: int, clock: str
) -> dict[str, dict[str, list[float]]]:
    """Time all routes in turn, `count` times; the order turns around from round to round."""
    times: dict[str, dict[str, list[float]]] = {
        r.name: {"bucketed": [], "single": []} for r in made
    }
    times[made[0].name]["padded"] = []
    for number in range(count):
        times[made[0].name]["padded"].append(timed(made[0].run, feeds["padded"], clock))
        for route in made if number % 2 else reversed(made):
            times[route.name]["bucketed"].append(timed(route.run, feeds["bucketed"], clock))
            singles = [timed(route.run, [feed], clock) for feed in feeds["single"]]
            times[route.name]["single"].append(float(np.median(singles)))
    return times


def table(
    made: list[routes.Route],
    times: dict[str, dict[str, list[float]]],
    quality: dict[str, float],
    rows: int,
) -> list[dict[str, Any]]:
    """Return one row a route."""
    base, first = times[made[0].name], made[0]
    peers = [route.name for route in made if route.peer]
    best = np.min([times[name]["bucketed"] for name in peers], axis=0)
    result = []
    for route in made:
        own = times[route.name]
        result.append(
            {
                "route": route.name,
                "sequences_per_s": rows / float(np.median(own["bucketed"])),
                "against_padded_pytorch": median_ratio(base["padded"], own["bucketed"]),
                "against_best_peer_same_batches": median_ratio(best, own["bucketed"]),
                "single_p50_ms": float(np.median(own["single"])) * 1e3,
                "single_against_pytorch": median_ratio(base["single"], own["single"]),
                "size_bytes": route.size_bytes,
                "size_share": route.size_bytes / first.size_bytes,
                "quality": quality[route.name],
                "quality_lost": quality[first.name] - quality[route.name],
            }
        )
    return result


def median_ratio(reference: Any, own: Any) -> float:
    return float(np.median(np.asarray(reference) / np.asarray(own)))


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}: {found['rows_timed']} rows, padding {found['padded_ratio']:.2f}")
    print(f"in file order, {found['bucketed_ratio']:.3f} bucketed")
    print(f"{'route':<32}{'seq/s':>8}{'x padded':>10}{'x peer':>8}{'p50 ms':>8}{'x p50':>7}"
          f"{'size':>7}{'quality':>9}{'lost':>8}")  # fmt: skip
    for row in found["routes"]:
        print(f"{row['route']:<32}{row['sequences_per_s']:>8.0f}"
              f"{row['against_padded_pytorch']:>10.2f}"
              f"{row['against_best_peer_same_batches']:>8.2f}{row['single_p50_ms']:>8.2f}"
              f"{row['single_against_pytorch']:>7.2f}{row['size_share']:>7.1%}"
              f"{row['quality']:>9.4f}{row['quality_lost']:>8.4f}")  # fmt: skip
    for route, why in found["missing"].items():
        print(f"  without {route}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("specs", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "suanli-bench")
    parser.add_argument("--epochs", type=int, help="tune for so many, not for what the spec says")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: CPU seconds, for a machine that others use too (with --threads 1)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="most test rows that are timed")
    parser.add_argument("--only", nargs="*", help="peers to make beside PyTorch (default: all)")
    parser.add_argument("--olive", type=Path, help="python of an environment with olive-ai")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for spec in args.specs:
        subject = tuned(spec, args.cache, args.epochs)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(subject, args, Path(folder))
        how = f"{found['rows_timed']} rows, {args.threads} threads, {args.clock}"
        results[f"{subject.name}, {how}"] = found
        show(subject.name, found)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"infer-{date.today().isoformat()}.json"
    known = json.loads(path.read_text())["results"] if path.exists() else {}
    document = {
        "date": date.today().isoformat(),
        "hardware": asdict(hardware_here()),
        "results": {**known, **results},
    }
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
