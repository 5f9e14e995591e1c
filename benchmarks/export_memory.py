"""Peak resident memory of the export step, by model size and precision.

    python -m benchmarks.export_memory

Random BERT taggers of 22M (MiniLM's sizes) and 109M parameters (BERT-base's) go through the export
step, each in a process of its own. `pipelines.cost.chain` takes its slopes from the difference of
the two: bytes of memory for each byte of fp32 weights. Writes
benchmarks/results/export-memory-<date>.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.lib.host import hardware_here
from tests.inference_support import make_context, make_dataset, make_model, make_store

RESULTS = Path(__file__).parent / "results"
TASK = "token-classification"
SIZES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}
PRECISIONS = ("fp32", "int8", "int8-static")


def make(size: str, folder: Path) -> dict[str, Any]:
    """Store data and a random model of the size; returns what the step needs."""
    from transformers import BertConfig, BertForTokenClassification

    from components.lib.dataset import read_manifest
    from components.lib.modelling import load_model, read_info, save_model

    store = make_store(folder / "store")
    dataset = make_dataset(store, folder, TASK, rows=600)
    labels = read_manifest(store.fetch(dataset, folder / "dataset"))["labels"]
    small = store.fetch(make_model(store, folder / "small", TASK, labels), folder / "source")
    config = load_model(small, TASK).config.to_dict() | SIZES[size]
    config |= {"intermediate_size": 4 * config["hidden_size"], "vocab_size": 30_522}
    model = BertForTokenClassification(BertConfig(**config))
    info = {key: value for key, value in read_info(small).items() if key != "parameters"}
    models = {}
    for precision in PRECISIONS:
        named = {**info, "labels": labels, "onnx_precision": precision}
        save_model(model, folder / precision, tokenizer=small, info=named)
        models[precision] = store.put_folder(folder / precision, kind="model")
    return {
        "models": models,
        "dataset": dataset,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def export(precision: str, folder: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Run the step in this process; returns its peak resident memory in bytes."""
    from components.export import step

    inputs = {"model": made["models"][precision], "dataset": made["dataset"]}
    arguments = {"variant": precision}
    context = make_context(make_store(folder / "store"), "export", arguments, inputs)
    step.run(context)
    if context.workload["precision"] != precision:
        raise SystemExit(f"{precision} was not exported: {context.notes}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"precision": precision, "parameters": made["parameters"], "peak_bytes": peak}


def own_process(*arguments: str) -> dict[str, Any]:
    """Call this program with `arguments` and return the JSON that it prints last."""
    command = [sys.executable, "-m", "benchmarks.export_memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every size and precision, print a table and keep it."""
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            made = own_process("make", size, folder)
            for precision in PRECISIONS:
                found = own_process("export", precision, folder, json.dumps(made))
                rows.append({"size": size, **found})
                print(f"{size:<10} {precision:<12} {found['peak_bytes'] / 1e6:6.0f} MB", flush=True)
    slopes = {}
    for precision in PRECISIONS:
        small, large = (row for row in rows if row["precision"] == precision)
        weights = 4 * (large["parameters"] - small["parameters"])
        slopes[precision] = (large["peak_bytes"] - small["peak_bytes"]) / weights
    print("bytes for each byte of fp32 weights:", {k: round(v, 2) for k, v in slopes.items()})
    today = datetime.now(UTC).date().isoformat()
    document = {"date": today, "hardware": asdict(hardware_here()), "rows": rows, "slopes": slopes}
    path = RESULTS / f"export-memory-{today}.json"
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", size, folder]:
            print(json.dumps(make(size, Path(folder))))
        case ["export", precision, folder, text]:
            print(json.dumps(export(precision, Path(folder), json.loads(text))))
        case _:
            main()
