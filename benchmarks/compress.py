"""Quality against speed and size: ours and the peers' ways to make a tuned encoder smaller.

    python -m benchmarks.compress ../shared/specs/wnut17.yaml [--torch-pruning FOLDER] \
        [--points "plain int8,prune50+int8-static"] [--budget 120] [--threads 1 --clock cpu] \
        [--seeds 0,1,2]

Points, all from one tuned model (cached as benchmarks.infer does), all written as our 8-bit graphs
and run on the same batches, so that only the cuts and how they were repaired differ:

- stock int8: nothing cut, ONNX Runtime's own route (trace, optimizer, quantize_dynamic);
- plain int8: nothing cut, our graph;
- embed4+int8-static: nothing cut, word embeddings in 4 bits;
- prune<percent>+int8-static, distill<layers>+int8-static: ours, by the compress step with the given
  budget;
- depth cut: evenly spaced layers, distilled from logits alone (as DistilBERT, Sanh et al. 2019);
- magnitude: in each layer the heads and neurons of least weight norm, fine-tuned on the labels;
- torch-pruning one-shot: the package's Taylor importance, without training. Unpack its wheel into a
  folder of its own and give that folder.

Each point is kept as it is made: a broken-off run goes on where it stopped. Peers that train get
the same budget. The reference of every ratio is padded fp32 PyTorch (batch 32, file order, batches
evenly spread over the test file) of the tuned model, timed in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import infer
from benchmarks import infer_routes as routes
from benchmarks.compress_points import make_point
from components.lib.host import hardware_here
from components.lib.modelling import read_info
from components.lib.runner import CPU_TOKEN_BUDGET
from components.lib.sequences import plan_batches

RESULTS = Path(__file__).parent / "results"
POINTS = (
    "stock int8", "plain int8", "embed4+int8-static", "prune30+int8-static", "prune50+int8-static",
    "prune65+int8-static", "distill3+int8-static", "depth cut 4", "depth cut 3", "magnitude 50",
    "torch-pruning one-shot 30", "torch-pruning one-shot 50",
)  # fmt: skip
PADDED_BATCH = 32


def tuned(spec_path: Path, args: argparse.Namespace) -> routes.Subject:
    """The tuned model of the seed, made now or before."""
    if not args.seed:
        return infer.tuned(spec_path, args.cache)
    spec = yaml.safe_load(spec_path.read_text())
    for source in spec["data"].values():
        if isinstance(source, dict) and "uri" in source:
            source["uri"] = str((spec_path.parent / source["uri"]).resolve())
    spec["training"]["seed"] = args.seed
    seeded = args.cache / "specs" / f"{spec_path.stem}-{args.seed}.yaml"
    seeded.parent.mkdir(parents=True, exist_ok=True)
    seeded.write_text(yaml.safe_dump(spec))
    return infer.tuned(seeded, args.cache)


def routes_of(
    spec: dict[str, Any], subject: routes.Subject, args: argparse.Namespace, work: Path
) -> tuple[list[routes.Route], dict[str, Path]]:
    """Make every point; returns the reference and the points as routes, and the points' models."""
    made, folders = [routes.torch_route(subject, args.threads, compiled=False)], {}
    for name in args.points:
        folders[name] = make_point(name, spec, subject, args)
        work_here = work / name.replace(" ", "-")
        work_here.mkdir(parents=True)
        if name == "stock int8":
            graph = routes.stock_graphs(subject, work_here)["int8"]
        else:
            own = replace(subject, model=folders[name])
            graph = routes.our_graphs(own, work_here)["int8-static"]
        made.append(routes.session_route(name, graph, args.threads, peer=False, side_by_side=True))
    torch.set_num_threads(args.threads)
    return made, folders


def qualities(subject: routes.Subject, made: list[routes.Route]) -> dict[str, dict[str, float]]:
    """The main metric of every route on both splits."""
    quality: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
    for split_name, scores in quality.items():
        split = subject.split(split_name)
        plan = plan_batches(split.lengths, token_budget=CPU_TOKEN_BUDGET)
        feeds = subject.feeds(split, plan)
        for route in made:
            scores[route.name] = routes.score(subject, split, route.run(feeds), plan)
    return quality


def lost(quality: dict[str, dict[str, float]], name: str, reference: str) -> dict[str, float]:
    """What a point scores, and what it lost of the tuned model's score."""
    made = {}
    for split, scores in quality.items():
        made[f"quality_{split}"] = scores[name]
        made[f"lost_{split}"] = scores[reference] - scores[name]
    return made


def score_seed(
    spec_path: Path, args: argparse.Namespace, work: Path
) -> tuple[str, dict[str, dict[str, float]]]:
    """Scores of every point made from the seed's own tuned model; speed and size, which do not
    depend on the seed, are timed with one seed only."""
    subject = tuned(spec_path, args)
    made, _ = routes_of(yaml.safe_load(spec_path.read_text()), subject, args, work)
    quality = qualities(subject, made)
    found = {
        route.name: lost(quality, route.name, made[0].name)
        | {"size_share": route.size_bytes / made[0].size_bytes}
        for route in made
    }
    return subject.name, found


def show_seeds(name: str, seeds: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the mean over seeds of the points that all of them have."""
    points = [p for p in next(iter(seeds.values())) if all(p in found for found in seeds.values())]
    print(f"{name}: mean of seeds {', '.join(seeds)}")
    for point_name in points:
        rows = [found[point_name] for found in seeds.values()]
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        spread = max(row["lost_test"] for row in rows)
        print(f"{point_name:<28} val {means['quality_validation']:.4f} "
              f"lost {means['lost_validation']:.4f}  test {means['quality_test']:.4f} "
              f"lost {means['lost_test']:.4f} (most {spread:.4f})  "
              f"{means['size_share']:.1%}")  # fmt: skip


def measure(
    spec: dict[str, Any], subject: routes.Subject, args: argparse.Namespace, work: Path
) -> dict[str, Any]:
    """Make, time and score all points of one data set."""
    made, folders = routes_of(spec, subject, args, work)
    reference = made[0]
    quality = qualities(subject, made)
    split = subject.split("test")
    padded = spread_batches(split.rows, args.rows)
    rows = np.concatenate(padded)
    bucketed = plan_batches(split.lengths[rows], token_budget=CPU_TOKEN_BUDGET)
    feeds = {
        "padded": subject.feeds(split, padded),
        "bucketed": subject.feeds(split, [rows[chosen] for chosen in bucketed]),
        "single": subject.feeds(split, [rows[i : i + 1] for i in range(0, len(rows), 25)]),
    }
    times = infer.rounds(made, feeds, args.rounds, args.clock)
    points = [
        point(route, reference, times, quality, folders.get(route.name), len(rows), args)
        for route in made
    ]
    return {"task": subject.task, "rows_timed": len(rows), "threads": args.threads,
            "clock": args.clock, "rounds": args.rounds, "seed": args.seed,
            "tuned_epochs": read_info(subject.model)["history"][-1]["epoch"],
            "padded_ratio": infer.ratio_of(feeds["padded"]),
            "bucketed_ratio": infer.ratio_of(feeds["bucketed"]), "points": points}  # fmt: skip


def spread_batches(rows: int, most: int) -> list[np.ndarray]:
    """Batches of a plain script, in file order: as many as hold about `most` rows, evenly spread,
    so that their padding is that of the whole file."""
    count = -(-rows // PADDED_BATCH)
    taken = np.linspace(0, count - 1, max(1, min(count, most // PADDED_BATCH))).round().astype(int)
    return [np.arange(i * PADDED_BATCH, min((i + 1) * PADDED_BATCH, rows)) for i in taken]


def point(
    route: routes.Route,
    reference: routes.Route,
    times: dict[str, Any],
    quality: dict[str, dict[str, float]],
    folder: Path | None,
    rows: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One row of the curve."""
    own, base = times[route.name], times[reference.name]
    seconds = float(np.median(own["bucketed"]))
    facts = folder / "made.json" if folder else Path("none")
    parameters = read_info(folder)["parameters"] if folder else None
    return {
        "point": route.name,
        "against_padded_pytorch": infer.median_ratio(base["padded"], own["bucketed"]),
        "single_p50_ms": float(np.median(own["single"])) * 1e3,
        "sequences_per_s": rows / seconds,
        "usd_per_million": args.usd_per_hour and args.usd_per_hour / 3600 * seconds / rows * 1e6,
        "size_bytes": route.size_bytes,
        "size_share": route.size_bytes / reference.size_bytes,
        "parameters": parameters,
        **lost(quality, route.name, reference.name),
        "made": json.loads(facts.read_text()) if facts.exists() else None,
    }


def show(found: dict[str, Any]) -> None:
    print(f"{'point':<28}{'x padded':>9}{'p50 ms':>8}{'size':>7}{'val':>8}{'lost':>8}"
          f"{'test':>8}{'lost':>8}")  # fmt: skip
    for row in found["points"]:
        print(f"{row['point']:<28}{row['against_padded_pytorch']:>9.2f}"
              f"{row['single_p50_ms']:>8.2f}{row['size_share']:>7.1%}"
              f"{row['quality_validation']:>8.4f}{row['lost_validation']:>8.4f}"
              f"{row['quality_test']:>8.4f}{row['lost_test']:>8.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("specs", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "suanli-bench")
    parser.add_argument("--points-folder", type=Path, help="where points are kept (below --cache)")
    parser.add_argument("--points", type=lambda text: text.split(","), default=list(POINTS))
    parser.add_argument("--budget", type=float, default=None, help="seconds of each of our points")
    parser.add_argument("--torch-pruning", type=Path, help="folder with the unpacked package")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(infer.CLOCKS), default="wall")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=600, help="most test rows that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        help="score the points for each of these seeds' tuned models, time nothing",
    )
    parser.add_argument("--usd-per-hour", type=float)
    parser.add_argument("--make-only", action="store_true", help="train the points, time nothing")
    args = parser.parse_args()
    args.points_folder = args.points_folder or args.cache / "points"
    if args.torch_pruning is None:
        args.points = [name for name in args.points if not name.startswith("torch-pruning")]
    for spec_path in args.specs:
        if args.seeds:
            for seed in args.seeds:
                args.seed = seed
                with tempfile.TemporaryDirectory() as folder:
                    name, scores = score_seed(spec_path, args, Path(folder))
                known = keep("seeds", name, {str(args.seed): scores})
            show_seeds(name, known[name])
            continue
        subject = tuned(spec_path, args)
        if args.make_only:
            for name in args.points:
                make_point(name, yaml.safe_load(spec_path.read_text()), subject, args)
            continue
        with tempfile.TemporaryDirectory() as folder:
            spec = yaml.safe_load(spec_path.read_text())
            found = measure(spec, subject, args, Path(folder))
        show(found)
        keep("results", f"{subject.name}, seed {args.seed}, {args.threads} threads, {args.clock}",
             found)  # fmt: skip


def keep(part: str, name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to today's results and return its part of them; what is there of the same name
    stays where `found` has nothing new."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"compress-{date.today().isoformat()}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    entries: dict[str, Any] = document.setdefault(part, {})
    if part == "seeds":
        for seed, scores in found.items():
            of_seed = entries.setdefault(name, {}).setdefault(seed, {})
            of_seed.update(scores)
    else:
        entries[name] = found
    document |= {"date": date.today().isoformat(), "hardware": asdict(hardware_here())}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return entries


if __name__ == "__main__":
    main()
