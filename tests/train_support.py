"""Small datasets in the artifact layout, and jobs on them, for the tests of training."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.lib.references import TOKENIZER_FILES, resolve_tokenizer_folder
from components.train.job import Job
from tests.support import REPOSITORY

NER_LABELS = ["O", "B-LOC", "I-LOC"]
TINY = {"config": "bert-tiny"}


def columns(task: str, rows: int, seed: int, longest: int) -> dict[str, Any]:
    """Learnable rows: tokens from 1100 on are entities; other tasks' texts are of low or of high
    tokens, and that is the label."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, longest + 1, size=rows)
    upper = random.integers(0, 2, size=rows)
    low, high, shift = (1000, 1200, 0) if task == "token-classification" else (1000, 1016, 100)
    ids = [
        np.concatenate([[101], random.integers(low, high, n - 2) + shift * u, [102]])
        for n, u in zip(lengths, upper, strict=True)
    ]
    table: dict[str, Any] = {"input_ids": [x.tolist() for x in ids]}
    if task == "token-classification":
        table["labels"] = [[-100, *np.where(x[1:-1] >= 1100, 1, 0).tolist(), -100] for x in ids]
        table["sentence"] = table["document"] = list(range(rows))
    elif task == "text-classification":
        table["label"] = upper.tolist()
        table["example"] = list(range(rows))
    elif task == "text-pair-ranking":
        table["token_type_ids"] = [[0] * (len(x) // 2) + [1] * (len(x) - len(x) // 2) for x in ids]
        table["label"] = upper.astype(float).tolist()
        table["group"] = (np.arange(rows) // 8).tolist()
    elif task == "causal-lm":
        # The completion repeats the prompt's first token.
        table["input_ids"] = [[101, int(x[1]), *[int(x[1])] * 3, 102] for x in ids]
        table["labels"] = [[-100, -100, *x[2:]] for x in table["input_ids"]]
    return table


def images(rows: int, seed: int) -> dict[str, Any]:
    """Squares that are bright on the left (0) or on the right (1)."""
    from PIL import Image

    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    encoded = []
    for label in labels:
        pixels = random.integers(0, 120, (16, 16, 3))
        pixels[:, 8 * label : 8 * label + 8] += 120
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    return {"image": encoded, "label": labels.tolist()}


TYPES = {
    "input_ids": pa.list_(pa.int32()),
    "labels": pa.list_(pa.int32()),
    "token_type_ids": pa.list_(pa.int8()),
    "sentence": pa.int64(),
    "document": pa.int64(),
    "example": pa.int64(),
    "group": pa.int64(),
    "image": pa.binary(),
}


SMALL_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 128, "vocab_size": 30522,
              "max_position_embeddings": 64, "tie_word_embeddings": True, "pad_token_id": 0,
              "bos_token_id": 101, "eos_token_id": 102},
    # Computes attention by itself: takes packed inputs and mixes the sequences.
    "deberta-v2": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 64, "vocab_size": 30522, "pad_token_id": 0,
                   "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "image_size": 16, "patch_size": 4,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}  # fmt: skip


def small_config(folder: Path, family: str) -> dict[str, str]:
    """Reference to a configuration folder of a model smaller than any known by name."""
    folder.mkdir(parents=True)
    config = {"model_type": family, **SMALL_MODELS[family]}
    (folder / "config.json").write_text(json.dumps(config))
    return {"config": str(folder)}


def make_dataset(
    folder: Path, task: str, *, rows: int = 96, longest: int = 24, labels: list[str] | None = None
) -> Path:
    """Write a dataset artifact for `task` with `rows` training and 48 validation rows."""
    folder.mkdir(parents=True)
    names = {"token-classification": NER_LABELS, "causal-lm": [], "text-pair-ranking": []}
    splits = {}
    for seed, (split, count) in enumerate((("train", rows), ("validation", 48))):
        image = task == "image-classification"
        table = images(count, seed) if image else columns(task, count, seed, longest)
        label = pa.float32() if task == "text-pair-ranking" else pa.int32()
        schema = pa.schema([(name, TYPES.get(name, label)) for name in table])
        path = folder / f"{split}.parquet"
        pq.write_table(pa.table(table, schema=schema), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        tokens = sum(map(len, table.get("input_ids", [])))
        shard = {"file": path.name, "sha256": digest, "rows": count, "tokens": tokens,
                 "bytes": path.stat().st_size}  # fmt: skip
        splits[split] = {"shards": [shard], "rows": count, "tokens": tokens}
    manifest = {
        "schema_version": 1,
        "task": task,
        "name": "tiny",
        "labels": labels if labels is not None else names.get(task, ["zero", "one"]),
        "scheme": "BIO2",
        "model_id": "minilm-l6",
        "max_length": longest,
        "splits": splits,
        "sources": [],
        "statistics": {},
        "warnings": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if task != "image-classification":
        (folder / "tokenizer").mkdir()
        source = resolve_tokenizer_folder({"id": "minilm-l6"})
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / "tokenizer" / name)
    return folder


def make_job(folder: Path, dataset: Path, task: str = "token-classification", **fields: Any) -> Job:
    """A short fp32 job of a tiny model from scratch, its folders below `folder`."""
    defaults: dict[str, Any] = {
        "model": TINY,
        "epochs": 2,
        "global_batch": 16,
        "micro_batch": 16,
        "precision": "fp32",
        "learning_rate": 1e-3,
        "threads": 1,
    }
    return Job(
        task=task,
        dataset=str(dataset),
        checkpoints=str(folder / "checkpoints"),
        output=str(folder / "model"),
        **{**defaults, **fields},
    )


def command(job: Job, processes: int = 1) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run `job`."""
    from components.train import step

    path = Path(job.output).parent / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    job.write(path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1",
                   "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    return step.command(path, processes), environment


def run_job(job: Job, processes: int = 1) -> dict[str, Any]:
    """Run `job` in processes of its own and return its last event (finished or error)."""
    from components.train import report

    arguments, environment = command(job, processes)
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    events = [e for line in done.stdout.splitlines() if (e := report.parse(line))]
    last = [e for e in events if e["event"] in ("finished", "error")]
    if not last:
        raise AssertionError(
            f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return {**last[-1], "exit_code": done.returncode, "events": events}


def weights_of(job: Job) -> dict[str, Any]:
    """The weights a finished job left."""
    from safetensors.torch import load_file

    return load_file(Path(job.output) / "model.safetensors")
