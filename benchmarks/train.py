"""Training speed and quality against the Hugging Face Trainer, paired: same model, rows, global
batch, learning rate, epochs.

    python -m benchmarks.train speed                # six settings: three data sets, two precisions
    python -m benchmarks.train quality --data wnut17 --systems ours example   # whole runs, test F1

Each measurement is a process of its own; the systems take turns. Speed is in real tokens (no
padding) a second of the training loop, loading and evaluation left out on both sides. The Trainer
runs as its NER example script sets it up (random order, padded to the longest, ``example``) and
with its best flags (``group_by_length``; bf16 where the setting says so, ``best``). Measurements
are added to one results file, so a long series may be run in parts; ``summary`` prints the ratios
of what is there. Needs ../shared/data (public data sets) and the package accelerate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.train_results import (
    BATCH,
    DATA,
    RATE,
    REPOSITORY,
    RESULTS,
    SYSTEMS,
    keep,
    summarise,
    today,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["speed", "quality", "summary"], default="speed")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--systems", nargs="*", default=["ours", "best", "example"])
    parser.add_argument("--rounds", type=int, default=1, help="speed: turns of all systems")
    parser.add_argument("--epochs", type=int, default=4, help="quality: length of a run")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="quality")
    parser.add_argument("--checkpoint-interval", type=float, default=8.0)
    parser.add_argument("--packing", default="auto", help="layout of our batches")
    parser.add_argument("--ingested", type=Path, help="keep the tokenised data sets here")
    parser.add_argument("--results", type=Path, default=RESULTS / f"train-{today()}.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        trainer_child(json.loads(options.child))
        return
    with tempfile.TemporaryDirectory() as work:
        if options.what != "summary":
            kept = options.ingested or Path(work)
            folders = {name: ingest(name, options.shared, kept) for name in options.data}
            {"speed": speed, "quality": quality}[options.what](options, folders, Path(work))
        summarise(options.results)


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
    folder = work / f"{name}-dataset"
    if folder.is_dir():
        return folder
    tiers = Tiers.under(work / name)
    config = {"step": "ingest", "arguments": arguments, "plan_hash": "", "requested": {}}
    uri = execute(
        "ingest", step.run, config=json.dumps(config), inputs={}, store=tiers.to_json(), run_id="b"
    )
    return Store(tiers).fetch(uri, folder)


def speed(options: argparse.Namespace, folders: dict[str, Path], work: Path) -> None:
    """Real tokens a second of each system in each setting, in turns."""
    for name, folder in folders.items():
        for precision in options.precisions:
            for number in range(options.rounds):
                for system in options.systems:
                    arguments = Arguments(
                        system=system, data=name, folder=folder, precision=precision, seed=number,
                        steps=SYSTEMS[system].steps, packing=options.packing,
                    )  # fmt: skip
                    result = measure(arguments, work)
                    del result["output"]
                    keep(options.results, "speed", arguments.key(), result)


def quality(options: argparse.Namespace, folders: dict[str, Path], work: Path) -> None:
    """Test scores of whole runs, with what a paired bootstrap needs."""
    for name, folder in folders.items():
        for seed in options.seeds:
            for precision in options.precisions:
                for system in options.systems:
                    arguments = Arguments(
                        system=system, data=name, folder=folder, precision=precision, seed=seed,
                        epochs=options.epochs, packing=options.packing,
                        checkpoint_interval_s=options.checkpoint_interval,
                    )  # fmt: skip
                    result = measure(arguments, work)
                    model, task = Path(result.pop("output")), DATA[name]["task"]
                    result["validation"] = score(model, folder, task, "validation")["score"]
                    test = score(model, folder, task, "test")
                    result |= {"test": test["score"], "counts": test["counts"]}
                    keep(options.results, "quality", arguments.key(), result)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """One training: a whole run of `epochs`, or its first `steps`."""

    system: str
    data: str
    folder: Path
    precision: str
    seed: int
    steps: int | None = None
    epochs: int = 1
    packing: str = "auto"
    checkpoint_interval_s: float = 1e9

    def key(self) -> dict[str, Any]:
        """What names this measurement in the results."""
        names = ("system", "data", "precision", "seed", "steps", "epochs")
        return {name: getattr(self, name) for name in names}


def measure(arguments: Arguments, work: Path) -> dict[str, Any]:
    """Train once in a process of its own; returns tokens_per_s, epoch_s and the model's folder."""
    out = work / f"{arguments.system}-{time.monotonic_ns()}"
    out.mkdir()
    return (trainer if SYSTEMS[arguments.system].sampling else ours)(arguments, out)


def ours(arguments: Arguments, out: Path) -> dict[str, Any]:
    from components.train import report, step
    from components.train.job import Job

    job = Job(
        task=DATA[arguments.data]["task"], model={"id": "minilm-l6"},
        dataset=str(arguments.folder), checkpoints=str(out / "checkpoints"),
        output=str(out / "model"), epochs=arguments.epochs, global_batch=BATCH, micro_batch=BATCH,
        precision=arguments.precision, learning_rate=RATE, seed=arguments.seed,
        stop_after_steps=arguments.steps, packing=arguments.packing,
        warmup_fraction=0.0, weight_decay=0.0,  # the example script's
        **({"fresh_factor": 1.0} if arguments.system == "plain" else {}),
        checkpoint_interval_s=arguments.checkpoint_interval_s,
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
        "tokens_per_s": round(work["tokens"] / loop, 1),
        "epoch_s": round(loop / work["steps"] * -(-work["rows"] // BATCH), 2),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "data_wait_share": round(seconds.get("data_wait", 0.0) / loop, 5),
        "checkpoint_share": round(last["checkpoints"]["stall_s"] / loop, 5),
        "checkpoints": last["checkpoints"]["saved"],
        "packed": work["packed"],
        "output": str(out / "model"),
    }


def trainer(arguments: Arguments, out: Path) -> dict[str, Any]:
    values = {
        **arguments.key(), "task": DATA[arguments.data]["task"],
        "folder": str(arguments.folder), "out": str(out),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--child", json.dumps(values)],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(done.stdout + done.stderr)
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


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
        train_sampling_strategy=SYSTEMS[arguments["system"]].sampling,
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
        "tokens_per_s": round(counted.tokens / seconds, 1),
        "epoch_s": round(seconds / run.state.global_step * steps_an_epoch, 2),
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


def score(model_folder: Path, dataset: Path, task_name: str, name: str) -> dict[str, Any]:
    """Score a saved model on the split `name`, in fp32: the scores, and `counts` of each example
    for a paired bootstrap (true positives, predicted, actual entities; or correct and 1)."""
    import numpy as np
    import torch

    from components.lib import metrics
    from components.lib.dataset import load_split
    from components.lib.modelling import load_model, read_labels
    from components.lib.tasks import make_task

    split, labels = load_split(dataset, name), read_labels(model_folder)
    task = make_task(task_name, labels)
    model = load_model(model_folder, task_name)
    outputs = task.outputs(split)
    order = np.argsort(-split.lengths)
    with torch.inference_mode():
        for i in range(0, len(order), 64):
            batch = task.collate(split, order[i : i + 64], packed=False)
            task.record(outputs, split, model(**batch.inputs).logits, batch)
    if task_name == "token-classification":
        scored = split.columns["labels"] >= 0
        sentence = np.repeat(split.columns["sentence"], split.lengths)[scored]
        starts = np.flatnonzero(np.append(True, sentence[1:] != sentence[:-1]))
        true = split.columns["labels"][scored]
        counts = metrics.entity_score(true, outputs[scored], starts, labels).counts
    else:
        correct = outputs.argmax(axis=1) == split.columns["label"]
        counts = np.stack([correct, np.ones(len(correct))], axis=1).astype(int)
    return {"score": task.score(outputs, split), "counts": counts.tolist()}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(os.cpu_count())}  # fmt: skip


if __name__ == "__main__":
    main()
