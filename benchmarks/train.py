"""Training speed against the Hugging Face Trainer, paired: same model, rows, global batch, rate.

    python -m benchmarks.train --shared ../shared --steps 40            # six settings, speed
    python -m benchmarks.train --shared ../shared --quality --seeds 3   # whole runs, test F1

Each measurement is a process of its own; the two systems take turns. Speed is in real tokens (no
padding) a second of the training loop, loading and evaluation left out on both sides. The Trainer
runs as its NER example script sets it up (random order, padded to the longest, ``example``) and
with its best flags (``group_by_length``, and bf16 autocast where the setting says so, ``best``).
Needs ../shared/data (public data sets) and the package accelerate.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = 1.1e-4
BATCH = 32
PACKING = "auto"
DATA: dict[str, dict[str, Any]] = {
    "wnut17": {
        "task": "token-classification",
        "train": {"uri": "data/wnut17/wnut17train.conll"},
        "validation": {"uri": "data/wnut17/emerging.dev.conll"},
        "test": {"uri": "data/wnut17/emerging.test.annotated"},
        "format": "conll",
        "columns": {},
        "max_length": 128,
    },
    "banking77": {
        "task": "text-classification",
        "train": {"uri": "data/banking77/train.csv"},
        "validation": {"fraction": 0.1},
        "test": {"uri": "data/banking77/test.csv"},
        "format": "csv",
        "columns": {"text": "text", "label": "category"},
        "max_length": 64,
    },
    "twitter": {
        "task": "text-classification",
        "train": {"uri": "data/twitter-financial-news/sent_train.csv"},
        "validation": {"fraction": 0.1},
        "test": {"uri": "data/twitter-financial-news/sent_valid.csv"},
        "format": "csv",
        "columns": {"text": "text", "label": "label"},
        "max_length": 96,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps a measurement")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--quality", action="store_true", help="whole runs with test scores")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", nargs="*", default=["ours", "best", "example"])
    parser.add_argument("--packing", default="auto", help="layout of our batches")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    global PACKING
    PACKING = options.packing
    if options.child:
        trainer_child(json.loads(options.child))
        return
    with tempfile.TemporaryDirectory() as work:
        folders = {name: ingest(name, options.shared, Path(work)) for name in options.data}
        rows = (quality if options.quality else speed)(options, folders, Path(work))
    kind = "quality" if options.quality else "speed"
    write(kind, rows, options)


def ingest(name: str, shared: Path, work: Path) -> Path:
    """Tokenise the data set as the pipeline does; returns the artifact's folder."""
    from components.ingest import step
    from components.runtime import execute
    from components.storage import Store, Tiers

    entry = DATA[name]
    splits = {
        key: {"uri": str(shared / value["uri"])} if "uri" in value else value
        for key in ("train", "validation", "test")
        if (value := entry[key])
    }
    arguments = {
        "task": entry["task"],
        "name": name,
        "model": {"id": "minilm-l6"},
        "data": {**splits, "format": entry["format"], "columns": entry["columns"]},
        "max_length": entry["max_length"],
        "seed": 0,
    }
    tiers = Tiers.under(work / name)
    config = {"step": "ingest", "arguments": arguments, "plan_hash": "", "requested": {}}
    uri = execute(
        "ingest", step.run, config=json.dumps(config), inputs={}, store=tiers.to_json(), run_id="b"
    )
    return Store(tiers).fetch(uri, work / f"{name}-dataset")


def speed(options: argparse.Namespace, folders: dict[str, Path], work: Path) -> list[dict]:
    """Real tokens a second of each system in each setting, in turns."""
    rows = []
    for name, folder in folders.items():
        for precision in ("fp32", "bf16"):
            rates: dict[str, list[float]] = {system: [] for system in options.systems}
            for repeat in range(options.repeats):
                for system in options.systems:
                    result = measure(system, name, folder, precision, work, options.steps, repeat)
                    rates[system].append(result["tokens_per_s"])
            medians = {system: statistics.median(values) for system, values in rates.items()}
            row = {"data": name, "precision": precision, "tokens_per_s": medians, "all": rates}
            for other in options.systems[1:]:
                row[f"ratio_to_{other}"] = round(medians["ours"] / medians[other], 3)
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def quality(options: argparse.Namespace, folders: dict[str, Path], work: Path) -> list[dict]:
    """Test scores and seconds an epoch of whole runs."""
    rows = []
    for name, folder in folders.items():
        for seed in range(options.seeds):
            for system in options.systems:
                result = measure(
                    system, name, folder, "bf16" if system == "ours" else "fp32", work, None, seed,
                    epochs=options.epochs,
                )  # fmt: skip
                score = test_score(Path(result.pop("output")), folder, DATA[name]["task"])
                row = {"data": name, "system": system, "seed": seed, **result, "test": score}
                print(json.dumps(row), flush=True)
                rows.append(row)
    return rows


def measure(
    system: str, name: str, folder: Path, precision: str, work: Path, steps: int | None, seed: int,
    epochs: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Train once; returns tokens_per_s, epoch_s and the folder of the model."""
    out = work / f"{system}-{name}-{precision}-{seed}-{time.monotonic_ns()}"
    out.mkdir()
    run = ours if system == "ours" else trainer
    return run(system, name, folder, precision, out, steps, seed, epochs)


def ours(
    _: str, name: str, folder: Path, precision: str, out: Path, steps: int | None, seed: int,
    epochs: int,
) -> dict[str, Any]:  # fmt: skip
    from components.train import report, step
    from components.train.job import Job

    job = Job(
        task=DATA[name]["task"], model={"id": "minilm-l6"}, dataset=str(folder),
        checkpoints=str(out / "checkpoints"), output=str(out / "model"), epochs=epochs,
        global_batch=BATCH, micro_batch=BATCH, precision=precision, learning_rate=RATE, seed=seed,
        stop_after_steps=steps, checkpoint_interval_s=10.0, packing=PACKING,
    )  # fmt: skip
    job.write(out / "job.json")
    done = subprocess.run(
        step.command(out / "job.json", 1), env=environment(), capture_output=True, text=True
    )
    events = [e for line in done.stdout.splitlines() if (e := report.parse(line))]
    last = events[-1] if events else {}
    if last.get("event") != "finished":
        raise RuntimeError(done.stdout + done.stderr)
    seconds, work = last["seconds"], last["workload"]
    names = ("data_wait", "forward", "backward", "communication", "optimiser", "checkpoint")
    loop = sum(seconds.get(n, 0.0) for n in names)
    return {
        "tokens_per_s": work["tokens"] / loop,
        "epoch_s": loop / work["steps"] * -(-work["rows"] // BATCH),
        "data_wait_share": seconds.get("data_wait", 0.0) / loop,
        "checkpoint_share": last["checkpoints"]["stall_s"] / loop,
        "checkpoints": last["checkpoints"]["saved"],
        "validation": last["best_metric"],
        "output": str(out / "model"),
    }


def trainer(
    system: str, name: str, folder: Path, precision: str, out: Path, steps: int | None, seed: int,
    epochs: int,
) -> dict[str, Any]:  # fmt: skip
    arguments = {
        "system": system, "task": DATA[name]["task"], "folder": str(folder), "out": str(out),
        "precision": precision, "steps": steps, "seed": seed, "epochs": epochs,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--child", json.dumps(arguments)],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(lines[-1].removeprefix("RESULT "))


def trainer_child(arguments: dict[str, Any]) -> None:
    """The Hugging Face Trainer on the same rows, in a process of its own."""
    import transformers as hf

    from components.lib.dataset import load_split, read_manifest
    from components.lib.modelling import save_model

    folder, out = Path(arguments["folder"]), Path(arguments["out"])
    manifest, split = read_manifest(folder), load_split(folder, "train")
    words = arguments["task"] == "token-classification"
    rows = [
        {
            "input_ids": split.sequence(i).tolist(),
            "labels": split.values("labels", i).tolist()
            if words
            else int(split.columns["label"][i]),
        }
        for i in range(split.rows)
    ]
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "tokenizer")
    hf.set_seed(arguments["seed"])
    auto = hf.AutoModelForTokenClassification if words else hf.AutoModelForSequenceClassification
    from components.lib.references import resolve_model_folder

    model = auto.from_pretrained(
        resolve_model_folder({"id": "minilm-l6"}), num_labels=len(manifest["labels"])
    )
    collator = hf.DataCollatorForTokenClassification if words else hf.DataCollatorWithPadding
    settings = hf.TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=BATCH, learning_rate=RATE,
        num_train_epochs=arguments["epochs"], max_steps=arguments["steps"] or -1,
        seed=arguments["seed"], report_to=[], save_strategy="no", use_cpu=True,
        logging_strategy="no", disable_tqdm=True, bf16=arguments["precision"] == "bf16",
        train_sampling_strategy="group_by_length" if arguments["system"] == "best" else "random",
    )  # fmt: skip
    counted = Counting(collator(tokenizer))
    run = hf.Trainer(model=model, args=settings, train_dataset=rows, data_collator=counted)
    result = run.train()
    steps_an_epoch = -(-split.rows // BATCH)
    model_folder = out / "model"
    model_folder.mkdir()
    info = {"labels": manifest["labels"], "task": arguments["task"], "variant": "tuned"}
    save_model(model, model_folder, tokenizer=folder / "tokenizer", info=info)
    seconds = result.metrics["train_runtime"]
    figures = {
        "tokens_per_s": counted.tokens / seconds,
        "epoch_s": seconds / run.state.global_step * steps_an_epoch,
        "output": str(model_folder),
    }
    print("RESULT " + json.dumps(figures))


class Counting:
    """A collator that counts real tokens."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.tokens = 0

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        return self.collator([dict(row) for row in rows])


def test_score(model_folder: Path, dataset: Path, task_name: str) -> dict[str, float]:
    """Score a saved model on the test split, in fp32."""
    import numpy as np
    import torch

    from components.lib.dataset import load_split
    from components.lib.modelling import load_model, read_labels
    from components.lib.tasks import make_task

    split = load_split(dataset, "test")
    task = make_task(task_name, read_labels(model_folder))
    model = load_model(model_folder, task_name)
    outputs = task.outputs(split)
    order = np.argsort(-split.lengths)
    with torch.inference_mode():
        for i in range(0, len(order), 64):
            batch = task.collate(split, order[i : i + 64], packed=False)
            task.record(outputs, split, model(**batch.inputs).logits, batch)
    return task.score(outputs, split)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(os.cpu_count())}  # fmt: skip


def write(kind: str, rows: list[dict], options: argparse.Namespace) -> None:
    """Save the result with the hardware and the date."""
    import dataclasses

    from components.runtime import hardware_here

    today = datetime.date.today().isoformat()
    path = REPOSITORY / "benchmarks" / "results" / f"train-{kind}-{today}.json"
    path.parent.mkdir(exist_ok=True)
    document = {
        "date": today,
        "hardware": dataclasses.asdict(hardware_here()),
        "load_average_at_end": os.getloadavg(),
        "settings": {"batch": BATCH, "learning_rate": RATE, "steps": options.steps,
                     "epochs": options.epochs, "seeds": options.seeds},
        "rows": rows,
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
