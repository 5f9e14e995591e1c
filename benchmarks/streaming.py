"""Training that begins while its dataset arrives, against staging it first, from one slow store:
``python -m benchmarks.streaming [--megabytes-per-second 0.2] [--rounds 3]``.

Each round trains the same model twice from a warm tier on Swift, an S3 server on loopback, behind a
line of that speed, with an empty hot tier: once with the first epoch streamed, once staged whole;
which comes first changes from round to round. Reported: seconds until the first optimiser step and
until the step's end, both from the step's start, and the ratio of the two sides within each round.

The data are made: texts whose label is told by their words, in many small shards, so that one epoch
of a benchmark of minutes has the proportions of a large dataset: it takes about as long as the line
takes for all shards. Where the line is quicker, or epochs are many, there is less to win. The
tokenizer, a quarter of the bytes here and nothing of a large dataset, comes first on both sides.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.storage_objects import swift_bucket

RESULTS = Path(__file__).parent / "results"
ROWS, VALIDATION, BLOCK_ROWS = 20_000, 1_000, 500
WORDS = 3_000
SEED = 11

SIDE = """
import json, sys
from pathlib import Path
from components.runtime import execute
from components.storage import Store, Tiers
from components.train import step, stream
tiers, uri, side = Tiers.from_json(sys.argv[1]), sys.argv[2], sys.argv[3]
stream.LEAST_BYTES = 1 if side == "streamed" else 1 << 60
training = {"epochs": 1, "global_batch": 256, "learning_rate": 1e-3}
arguments = {"task": "text-classification", "model": {"config": "bert-tiny"}, "training": training}
config = {"step": "train", "arguments": arguments, "plan_hash": "0" * 64, "requested": {}}
if __name__ == "__main__":
    execute("train", step.run, config=json.dumps(config), inputs={"dataset": uri},
            store=tiers.to_json(), run_id=side)
    report = Store(tiers).get_json(f"runs/{side}/steps/train.json")
    print(json.dumps({"report": report}))
"""


def write_texts(path: Path, rows: int, seed: int) -> None:
    """Write texts of 30 to 60 of many words, one of which tells the label."""
    generator = random.Random(seed)
    vocabulary = json.loads(_vocabulary())
    telling = {str(label): vocabulary[label * 75 : label * 75 + 75] for label in range(2)}
    rest = vocabulary[150:WORDS]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            label = str(generator.randrange(2))
            words = generator.choices(rest, k=generator.randrange(30, 61))
            words[generator.randrange(len(words))] = generator.choice(telling[label])
            writer.writerow([" ".join(words), label])


def _vocabulary() -> str:
    """Whole words of the tokenizer, as JSON, in its order."""
    from tokenizers import Tokenizer

    from components.lib.references import resolve_tokenizer_folder

    file = resolve_tokenizer_folder({"id": "minilm-l6"}) / "tokenizer.json"
    entries = sorted(Tokenizer.from_file(str(file)).get_vocab().items(), key=lambda e: e[1])
    return json.dumps([word for word, _ in entries if word.isalpha() and len(word) > 3])


def make_dataset(folder: Path) -> Path:
    """Ingest the texts into many shards; return the dataset's folder."""
    from components.ingest import shards, step
    from components.runtime import execute
    from components.storage import Store, Tiers

    shards.BLOCK_ROWS = BLOCK_ROWS
    data = {}
    for number, (name, rows) in enumerate((("train", ROWS), ("validation", VALIDATION),
                                           ("test", VALIDATION))):  # fmt: skip
        write_texts(folder / f"{name}.csv", rows, SEED + number)
        data[name] = {"uri": str(folder / f"{name}.csv")}
    arguments = {"task": "text-classification", "name": "b", "model": {"id": "minilm-l6"},
                 "data": data, "max_length": 64}  # fmt: skip
    config = {"step": "ingest", "arguments": arguments, "plan_hash": "0" * 64, "requested": {}}
    tiers = Tiers.under(folder / "made")
    uri = execute("ingest", step.run, config=json.dumps(config), inputs={}, run_id="b",
                  store=tiers.to_json(), external=step.external)  # fmt: skip
    return Store(tiers).fetch(uri, folder / "dataset")


def train(tiers: Any, uri: str, side: str) -> dict[str, Any]:
    """Run the train step in a process of its own; return its report."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(SIDE)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name, tiers.to_json(), uri, side], capture_output=True,
            text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    line = next(text for text in done.stdout.splitlines() if text.startswith('{"report"'))
    report: dict[str, Any] = json.loads(line)["report"]
    return report


def figures(report: dict[str, Any]) -> dict[str, float]:
    """Return what is compared, of a step report."""
    seconds = report["seconds"]
    return {
        "first_step_s": report["metrics"]["first_step_after_s"],
        "total_s": seconds["total"],
        "stage_in_s": seconds["stage_in"],
        "stream_wait_s": seconds.get("stream_wait", 0.0),
        "arrived_after_s": report["workload"].get("streamed_seconds", seconds["stage_in"]),
        "accuracy": report["metrics"]["best_metric"],
    }


def measure(megabytes_per_second: float, rounds: int) -> dict[str, Any]:
    from components.storage import Store, Tiers
    from tests.fault_proxy import fault_proxy

    found: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as name, swift_bucket(Path(name)) as (endpoint, _):
        root = Path(name)
        dataset = make_dataset(root)
        with fault_proxy(endpoint) as (address, line):
            warm = f"s3://bench/warm?endpoint={address}"
            tiers = Tiers(hot=str(root / "hot"), warm=warm, cold=str(root / "cold"))
            uri = Store(tiers).put_folder(dataset, kind="dataset", tier="warm")
            manifest = json.loads((dataset / "manifest.json").read_text())
            size = Store(tiers).size_bytes(uri)
            line.bytes_per_second = megabytes_per_second * 1e6
            for number in range(rounds):
                sides = {}
                for side in (("streamed", "staged"), ("staged", "streamed"))[number % 2]:
                    empty = Tiers(hot=str(root / f"hot-{number}-{side}"), warm=warm,
                                  cold=tiers.cold)  # fmt: skip
                    sides[side] = figures(train(empty, uri, side))
                    print(side, sides[side], flush=True)
                found.append(sides)
    shards = manifest["splits"]["train"]["shards"]
    return {
        "dataset": {"bytes": size, "shards": len(shards), "rows": ROWS,
                    "index_bytes": manifest["index"]["bytes"]},
        "megabytes_per_second": megabytes_per_second,
        "rounds": found,
        "ratios_staged_over_streamed": {
            key: [round(sides["staged"][key] / sides["streamed"][key], 3) for sides in found]
            for key in ("first_step_s", "total_s")
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes-per-second", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="default: results/streaming-<today>.json")
    arguments = parser.parse_args()
    result = measure(arguments.megabytes_per_second, arguments.rounds)
    today = datetime.now(UTC).date().isoformat()
    document = {
        "program": "python -m benchmarks.streaming",
        "date": today,
        "hardware": "2 vCPU AMD EPYC (Zen 5), 24 GiB, no GPU; Swift and the slow line beside it",
        **result,
    }
    for key, ratios in result["ratios_staged_over_streamed"].items():
        print(f"{key}: staged over streamed, median {statistics.median(ratios):.2f} of {ratios}")
    path = arguments.output or RESULTS / f"streaming-{today}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
