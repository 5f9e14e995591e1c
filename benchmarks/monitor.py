"""False alarms, found surges and speed of `suanli monitor`.

    python -m benchmarks.monitor                       # the statistics, by simulation
    python -m benchmarks.monitor --model FOLDER --texts sent_valid.csv --negative 0

The second form classifies the file once with the published model and draws its streams from what
the model said, so that its mistakes are in the figures; it also times the whole monitor on
JSON lines of those texts. Writes benchmarks/results/monitor.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.monitor.surge import SurgeDetector
from components.monitor.watch import EVERYTHING, EVERYTHING_PART
from pipelines.cli_monitor import TEXTS_PER_FALSE_ALARM

RESULTS = Path(__file__).parent / "results" / "monitor.json"
QUIET = 10_000
SURGE = 100
RATIO = 3.0
# Mean share of negatives: that of the financial tweets' training split (1,442 of 9,543).
SHARE = 0.15
Draw = Callable[[random.Random, float], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0, help="1000 and on: for choosing")
    parser.add_argument("--model", type=Path, help="a published classifier")
    parser.add_argument("--texts", type=Path, help="CSV with columns text and label")
    parser.add_argument("--negative", default="0")
    parser.add_argument("--repeats", type=int, default=5, help="times the texts are streamed")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    document: dict[str, Any] = (
        json.loads(options.output.read_text()) if options.output.exists() else {}
    )
    document["date"] = datetime.now(UTC).date().isoformat()
    if options.model:
        document["real"] = real(options)
    else:
        document["simulated"] = table(seeds_of(options), bernoulli)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["real" if options.model else "simulated"], indent=1))


def bernoulli(generator: random.Random, share: float) -> bool:
    return generator.random() < share


# -- streams -------------------------------------------------------------------------------------


def layouts(generator: random.Random) -> dict[str, tuple[list[float], list[float]]]:
    """Share of negatives and share of the stream of each subject."""
    even = [generator.betavariate(6, 34) for _ in range(40)]
    return {
        "one subject": ([SHARE], [1.0]),
        "10 alike": ([SHARE] * 10, [0.1] * 10),
        "40, shares differ (beta 6, 34)": (even, [1 / 40] * 40),
        "40, shares differ, sizes as 1/rank": (even, [1 / (1 + rank) for rank in range(40)]),
    }


def seeds_of(options: argparse.Namespace) -> range:
    return range(options.first_seed, options.first_seed + options.seeds)


def table(seeds: range, draw: Draw) -> list[dict[str, Any]]:
    """One row a layout."""
    rows = []
    for name in layouts(random.Random(0)):
        false_alarms, found, delays = 0, 0, []
        for seed in seeds:
            alarms, delay = stream(name, seed, draw)
            false_alarms += alarms
            found += delay is not None
            delays += [] if delay is None else [delay]
        delays.sort()
        rows.append(
            {
                "layout": name,
                "quiet_texts": len(seeds) * QUIET,
                "false_alarms": false_alarms,
                "false_alarms_per_10000": false_alarms / len(seeds) / (QUIET / 10_000),
                "surges": len(seeds),
                "found_within_100": found / len(seeds),
                "texts_to_find_median": delays[len(delays) // 2] if delays else None,
            }
        )
    return rows


def stream(layout: str, seed: int, draw: Draw) -> tuple[int, int | None]:
    """Run 10,000 quiet texts, then a surge of the most frequent subject among the others' texts.

    Returns:
        False alarms, and the subject's texts until its surge was found (None: not within 100).
    """
    generator = random.Random(seed)
    shares, sizes = layouts(generator)[layout]
    names = [f"subject-{number}" for number in range(len(shares))]
    detector = SurgeDetector(texts_per_false_alarm=TEXTS_PER_FALSE_ALARM / (1 - EVERYTHING_PART))
    overall = SurgeDetector(texts_per_false_alarm=TEXTS_PER_FALSE_ALARM / EVERYTHING_PART)

    def add(number: int, share: float) -> list[str]:
        negative = draw(generator, share)
        events = [detector.add(names[number], negative)]
        if len(names) > 1:
            events.append(overall.add(EVERYTHING, negative))
        return [e["subject"] for e in events if e is not None and e["kind"] == "surge"]

    false_alarms = 0
    for number in generator.choices(range(len(shares)), sizes, k=QUIET):
        false_alarms += len(add(number, shares[number]))
    target = max(range(len(sizes)), key=lambda n: sizes[n])
    detector.subjects[names[target]].surge_texts = 0  # a false alarm just now must not hide it
    seen = 0
    while seen < SURGE:
        number = generator.choices(range(len(shares)), sizes)[0]
        surging = number == target
        seen += surging
        share = min(RATIO * shares[number], 0.95) if surging else shares[number]
        if names[target] in add(number, share) and surging:
            return false_alarms, seen
    return false_alarms, None


# -- with a real model ---------------------------------------------------------------------------


def real(options: argparse.Namespace) -> dict[str, Any]:
    """Classify the texts once, draw streams from the results, time the whole monitor."""
    from components.monitor.scorer import Scorer

    with options.texts.open(encoding="utf-8", newline="") as stream_:
        rows = list(csv.DictReader(stream_))
    scorer = Scorer(options.model, negative=[options.negative], threads=2)
    start = time.perf_counter()
    scored = scorer.score([row["text"] for row in rows])
    scoring_s = time.perf_counter() - start
    pools: dict[bool, list[bool]] = {True: [], False: []}
    for row, result in zip(rows, scored, strict=True):
        pools[row["label"] == options.negative].append(result.negative)

    def draw(generator: random.Random, share: float) -> bool:
        return generator.choice(pools[generator.random() < share])

    return {
        "texts": len(rows),
        "true_share": len(pools[True]) / len(rows),
        "share_called_negative": sum(r.negative for r in scored) / len(scored),
        "scoring_texts_per_s": round(len(rows) / scoring_s, 1),
        "streams": table(seeds_of(options), draw),
        **whole(options, [row["text"] for row in rows]),
    }


def whole(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Time `suanli monitor` on JSON lines, its start taken away by a second run with one line."""
    lines = [
        json.dumps({"id": n, "text": texts[n % len(texts)], "subject": f"s{n % 20}"})
        for n in range(options.repeats * len(texts))
    ]
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, body: list[str]) -> tuple[float, dict[str, Any]]:
            command = [sys.executable, "-m", "pipelines", "monitor", str(options.model), "--json"]
            command += ["--state", f"{folder}/{name}", "--negative", options.negative]
            start = time.perf_counter()
            done = subprocess.run(
                command, input="\n".join(body) + "\n", capture_output=True, text=True, check=True
            )
            events = [json.loads(line) for line in done.stdout.splitlines()]
            return time.perf_counter() - start, events[-1]

        start_s, _ = run("start", lines[:1])
        seconds, summary = run("all", lines)
    return {
        "streamed": summary["texts"],
        "seconds": round(seconds, 2),
        "start_seconds": round(start_s, 2),
        "texts_per_s": round(len(lines) / seconds, 1),
        "texts_per_s_without_start": round(len(lines) / max(seconds - start_s, 1e-9), 1),
    }


if __name__ == "__main__":
    main()
