"""Ingest against `datasets`, and its memory: see `benchmarks.storage`."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEED = 5
PIECE_MEGABYTES = 50.0

OURS = """
import json, sys, time
from components.ingest import step
from components.runtime import execute
from components.storage import Tiers
data, work = sys.argv[1:3]
data = {"train": {"uri": data}, "validation": {"fraction": 0.05}, "test": {"fraction": 0.05}}
arguments = {"task": "text-classification", "name": "b", "model": {"id": "minilm-l6"},
             "data": data, "max_length": 64}
config = {"step": "ingest", "arguments": arguments, "plan_hash": "0" * 64, "requested": {}}
if __name__ == "__main__":
    start = time.perf_counter()
    execute("ingest", step.run, config=json.dumps(config), inputs={}, run_id="b",
            store=Tiers.under(__import__("pathlib").Path(work)).to_json(), external=step.external)
    print(json.dumps({"seconds": time.perf_counter() - start}))
    for path in __import__("pathlib").Path(work).rglob("steps/ingest.json"):
        report = json.loads(path.read_text())
        print(json.dumps({"peak": report["peak_memory_bytes"], "phases": report["seconds"]}))
"""

THEIRS = """
import json, sys, time
data, work = sys.argv[1:3]
if __name__ == "__main__":
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from components.lib.references import resolve_tokenizer_folder
    tokenizer = AutoTokenizer.from_pretrained(resolve_tokenizer_folder({"id": "minilm-l6"}))
    start = time.perf_counter()
    rows = load_dataset("csv", data_files=data, cache_dir=work)["train"]
    def encode(batch):
        return tokenizer(batch["text"], truncation=True, max_length=64)
    rows = rows.map(encode, batched=True, num_proc=int(sys.argv[3]), remove_columns=["text"])
    print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(rows)}))
"""


def sentences() -> list[str]:
    """Return real sentences when ../shared has them, else those of the synthetic set."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    found: list[str] = []
    for name in ("banking77/train.csv", "twitter-financial-news/sent_train.csv"):
        if (shared / name).exists():
            with (shared / name).open(newline="", encoding="utf-8") as stream:
                found += [row["text"] for row in csv.DictReader(stream)]
    if not found:
        from components.ingest import synthetic

        rows = synthetic.sentences("synthetic://ner/train")
        found = [" ".join(word for word, _ in row) for row in rows]
    return found


def write_rows(path: Path, *, megabytes: float) -> int:
    """Write a CSV of about that size: pairs of real sentences with 2 % invented words, so that
    rare words keep coming as in real text; return the rows."""
    generator, pool, rows = random.Random(SEED), sentences(), 0
    letters = "abcdefghijklmnopqrstuvwxyz"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        while stream.tell() < megabytes * 1e6:
            for _ in range(1000):
                words = f"{generator.choice(pool)} {generator.choice(pool)}".split()
                for at in range(len(words)):
                    if generator.random() < 0.02:
                        words[at] = "".join(generator.choices(letters, k=8))
                writer.writerow([" ".join(words), str(generator.randrange(10))])
                rows += 1
    return rows


def run_script(script: str, *arguments: str) -> list[dict[str, float]]:
    """Run one side in a fresh process; return the JSON lines that it printed."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name, *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def ingest(megabytes: float, repeats: int) -> None:
    processes = len(os.sched_getaffinity(0))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.csv"
        rows = write_rows(data, megabytes=megabytes)
        size = data.stat().st_size / 1e6
        for number in range(repeats):
            ours = run_script(OURS, str(data), f"{folder}/ours{number}")
            theirs = run_script(THEIRS, str(data), f"{folder}/theirs{number}", str(processes))
            mine, other = ours[0]["seconds"], theirs[0]["seconds"]
            ratios.append(other / mine)
            print(f"ours {mine:.1f} s, datasets {other:.1f} s, ratio {other / mine:.2f}")
            print("  phases", ours[1]["phases"])
    print(
        f"{rows:,} rows, {size:.0f} MB, {processes} processes: ours {rows / mine:,.0f} rows/s, "
        f"{size / mine:.1f} MB/s; median ratio to datasets {statistics.median(ratios):.2f}"
    )


def write_documents(path: Path, *, megabytes: float) -> int:
    """Write JSON lines of about that size and return their number: texts of 1 to 40 real
    sentences, evenly in the logarithm, with 1 % invented words. A piece of them is written again
    and again, each time behind another first word, so that no two texts are alike."""
    generator, pool = random.Random(SEED), sentences()
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines: list[bytes] = []
    size = 0
    while size < min(megabytes, PIECE_MEGABYTES) * 1e6:
        count = round(math.exp(generator.uniform(0, math.log(40))))
        words = " ".join(generator.choices(pool, k=count)).split()
        for at in range(len(words)):
            if generator.random() < 0.01:
                words[at] = "".join(generator.choices(letters, k=8))
        row = {"label": str(generator.randrange(10)), "text": " ".join(words)}
        head, _, rest = json.dumps(row, ensure_ascii=False).partition('"text": "')
        lines.append(f'{head}"text": "\0{rest}\n'.encode())
        size += len(lines[-1])
    with path.open("wb") as stream:
        number = 0
        while stream.tell() < megabytes * 1e6:
            stream.writelines(line.replace(b"\0", b"w%05d " % number) for line in lines)
            number += 1
    return len(lines) * number


def memory(megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        rows = write_documents(data, megabytes=megabytes)
        size = data.stat().st_size
        lines = run_script(OURS, str(data), f"{folder}/work")
        seconds = lines[0]["seconds"]
        print(
            f"{size / 1e9:.2f} GB, {rows:,} rows, no two alike: {seconds:.0f} s, "
            f"{rows / seconds:,.0f} rows/s, {size / 1e6 / seconds:.1f} MB/s, peak "
            f"{lines[1]['peak'] / 1e6:.0f} MB over all processes"
        )
        print("  phases", lines[1]["phases"])
