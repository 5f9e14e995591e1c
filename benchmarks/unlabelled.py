"""Does text without labels help a cut model? Few labelled rows, the rest of them as plain text.

    python -m benchmarks.unlabelled ../shared/specs/banking77.yaml --per-label 10 --budget 90 \
        --clock cpu --seeds 0,1 [--shares 0.5,0.75,0.9]

For each seed, of a text classification spec's training file: a tenth is set aside for validation,
so many rows of each label are drawn to tune and to distil on, and the texts of all others go into a
file without their labels. The variant is then made from one tuned model, each time with the same
budget: on the labelled rows alone, and with that file as `data.unlabelled`. All are scored as the
8-bit graphs they become. `--shares` makes it with other shares of an epoch's tokens, to be judged
on validation. Results: benchmarks/results/unlabelled-<date>.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import compress, infer
from benchmarks import infer_routes as routes
from components.compress import recommend
from components.ingest import step as ingest
from components.lib.host import hardware_here
from components.storage import Store, Tiers

VALIDATION_SHARE = 0.1
Row = tuple[str, str]


def divided(rows: list[Row], per_label: int, seed: int) -> tuple[list[Row], list[Row], list[str]]:
    """Draw (validation, labelled rows, texts without labels) by the seed."""
    order = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    count = round(len(rows) * VALIDATION_SHARE)
    taken: dict[str, int] = {}
    few, texts = [], []
    for text, label in order[count:]:
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= per_label:
            few.append((text, label))
        else:
            texts.append(" ".join(text.split()))
    return order[:count], few, texts


def written(spec_path: Path, args: argparse.Namespace, seed: int) -> tuple[Path, Path]:
    """Write the seed's files; returns its spec, without the texts, and the file of texts."""
    spec = yaml.safe_load(spec_path.read_text())
    columns = spec["data"]["columns"]
    source = (spec_path.parent / spec["data"]["train"]["uri"]).resolve()
    with source.open(newline="", encoding="utf-8") as stream:
        rows = [(row[columns["text"]], row[columns["label"]]) for row in csv.DictReader(stream)]
    validation, few, texts = divided(rows, args.per_label, seed)
    name = f"{spec_path.stem}-{args.per_label}-a-label-{args.epochs}-epochs-seed-{seed}"
    folder = args.cache / "specs" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", few), ("validation", validation)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([(columns["text"], columns["label"]), *part])
        spec["data"][split] = {"uri": str(folder / f"{split}.csv")}
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    test = (spec_path.parent / spec["data"]["test"]["uri"]).resolve()
    spec["data"]["test"] = {"uri": str(test)}
    spec["training"] |= {"seed": seed, "epochs": args.epochs}
    spec["name"] = name
    made = args.cache / "specs" / f"{name}.yaml"
    made.write_text(yaml.safe_dump(spec))
    return made, folder / "texts.txt"


def with_texts(subject: routes.Subject, spec: Path, texts: Path, cache: Path) -> routes.Subject:
    """The same tuned model with a dataset that has the texts, too."""
    document = yaml.safe_load(spec.read_text())
    data = {**document["data"], "unlabelled": {"uri": str(texts)}}
    arguments = {key: document[key] for key in ("task", "name", "model")} | {"data": data}
    arguments |= {"max_length": document["training"]["max_length"], "seed": 0}
    folder = cache / spec.stem
    store = Store(Tiers.under(folder / "store"))
    made = ingest.run(infer.context(store, "ingest-texts", arguments, {}))
    return replace(subject, dataset=store.fetch(made, folder / "dataset-with-texts"))


def measure(spec_path: Path, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Make and score the seed's variants."""
    args.seed = seed
    spec, texts = written(spec_path, args, seed)
    plain = infer.tuned(spec, args.cache)
    richer = with_texts(plain, spec, texts, args.cache)
    usual = recommend.UNLABELLED_SHARE
    points = {"labelled rows alone": (plain, usual)}
    for share in args.shares:
        subject = replace(richer, name=f"{plain.name}-texts-{share:g}")
        points[f"texts up to {share:g} of the tokens"] = (subject, share)
    document, found = yaml.safe_load(spec.read_text()), {}
    for name, (subject, share) in points.items():
        recommend.UNLABELLED_SHARE = share
        with tempfile.TemporaryDirectory() as work:
            made, folders = compress.routes_of(document, subject, args, Path(work))
            quality = compress.qualities(subject, made)
        reference, point = made[0].name, made[1].name
        facts = json.loads((folders[args.variant] / "made.json").read_text())
        candidate = facts["metrics"]["candidates"][-1]
        found[name] = compress.lost(quality, point, reference) | {
            "tuned_validation": quality["validation"][reference],
            "tuned_test": quality["test"][reference],
            "steps": candidate["steps"],
            "cpu_s": facts["cpu_s"],
            "step_s": facts["step_s"],
            "unlabelled": facts["metrics"].get("unlabelled"),
        }
        print(f"seed {seed}, {name}: " + ", ".join(
            f"{key} {found[name][key]:.4f}" for key in
            ("tuned_validation", "quality_validation", "tuned_test", "quality_test")
        ) + f", {candidate['steps']} steps", flush=True)  # fmt: skip
    recommend.UNLABELLED_SHARE = usual
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "suanli-bench")
    parser.add_argument("--per-label", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30, help="of the tuning on the few rows")
    parser.add_argument("--variant", default="distill3+int8-static")
    parser.add_argument("--budget", type=float, default=90.0, help="seconds of the compress step")
    parser.add_argument("--clock", choices=sorted(infer.CLOCKS), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0])
    parser.add_argument(
        "--shares", type=lambda t: [float(s) for s in t.split(",")],
        default=[recommend.UNLABELLED_SHARE],
    )  # fmt: skip
    args = parser.parse_args()
    args.points, args.torch_pruning = [args.variant], None
    args.points_folder = args.cache / "points"
    for seed in args.seeds:
        keep(args, seed, measure(args.spec, args, seed))


def keep(args: argparse.Namespace, seed: int, found: dict[str, Any]) -> None:
    """Add a seed's scores to today's results; what is there of other points stays."""
    path = compress.RESULTS / f"unlabelled-{date.today().isoformat()}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    name = (
        f"{args.spec.stem}, {args.per_label} rows a label, {args.variant}, "
        f"{args.budget:g} s ({args.clock})"
    )
    document.setdefault(name, {}).setdefault(f"seed {seed}", {}).update(found)
    document |= {"date": date.today().isoformat(), "hardware": asdict(hardware_here())}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
