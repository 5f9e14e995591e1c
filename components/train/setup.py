"""What stands before the first step: data, model, the choice between packing and buckets; and the
evaluation on the whole validation set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.contract import DataError
from components.lib import modelling
from components.lib.dataset import Split, load_split, read_manifest
from components.lib.references import pad_token_id
from components.lib.tasks import Task, balanced_weights, class_counts, make_task
from components.train.job import Job
from components.train.report import Reporter
from components.train.trainee import Trainee, make_trainee, used_tokens
from components.train.world import World

# Rows in a forward without gradients: no activations are kept, so more fit.
EVALUATION_ROWS = 64


@dataclass(slots=True, kw_only=True)
class Data:
    """Everything read before training.

    `width` is the model's hidden size, for balancing ranks; `packed` whether sequences are laid end
    to end; `tokenizer` the folder to hand on with the model.
    """

    manifest: dict[str, Any]
    train: Split
    validation: Split
    task: Task
    tokenizer: Path | None
    width: int
    packed: bool
    pad: int


def load_data(job: Job) -> Data:
    """Read and check the dataset.

    Raises:
        DataError: it is of another task, has no label variety, or labels outside the range.
    """
    folder = Path(job.dataset)
    manifest = read_manifest(folder)
    if manifest["task"] != job.task:
        raise DataError(
            f"{folder}: dataset was ingested for {manifest['task']}, not {job.task}",
            remedy="run ingest again with this task",
        )
    train, validation = load_split(folder, "train"), load_split(folder, "validation")
    labels = manifest["labels"]
    for split in (train, validation):
        check_labels(split, labels, job.task)
    tokenizer = folder / "tokenizer" if job.task != "image-classification" else None
    if tokenizer is not None and not (tokenizer / "tokenizer.json").is_file():
        raise DataError(f"{folder}: dataset has no tokenizer", remedy="run ingest again")
    pad = pad_token_id(tokenizer) if tokenizer else 0
    weights = None
    if job.class_weights == "balanced":
        weights = balanced_weights(class_counts(train, len(labels)))
    task = make_task(
        job.task, labels, pad_token_id=pad, class_weights=weights, listwise=job.listwise
    )
    return Data(
        manifest=manifest,
        train=train,
        validation=validation,
        task=task,
        tokenizer=tokenizer,
        width=384,
        packed=False,
        pad=pad,
    )


def check_labels(split: Split, labels: list[str], task: str) -> None:
    """Raise DataError when a split cannot be learnt from or scored."""
    if split.rows == 0:
        raise DataError(f"the {split.name} split has no rows", remedy="give it data")
    if task in ("causal-lm", "text-pair-ranking"):
        return
    if len(labels) < 2:
        raise DataError(
            f"the data has the single class {labels!r}: there is nothing to learn",
            remedy="give data with at least two labels",
        )
    values = split.columns["labels" if "labels" in split.columns else "label"]
    low, high = int(values.min()), int(values.max())
    if high >= len(labels) or low < -100 or -100 < low < 0:
        raise DataError(
            f"the {split.name} split has label {high if high >= len(labels) else low}, outside "
            f"0..{len(labels) - 1}",
            remedy="run ingest again",
        )


def prepare(job: Job, world: World, data: Data) -> tuple[Trainee, Reporter]:
    """Make the model ready for the data, and the data for the model."""
    used = np.empty(0, np.int64)
    if data.tokenizer is not None:
        used = used_tokens([data.train, data.validation], data.pad)
    trainee = make_trainee(job, data.manifest["labels"], world, used)
    if trainee.embedding is not None:
        mapping = trainee.embedding[0]
        data.train = dataclasses.replace(data.train, input_ids=mapping[data.train.input_ids])
        data.validation = dataclasses.replace(
            data.validation, input_ids=mapping[data.validation.input_ids]
        )
        data.task.pad_token_id = int(mapping[data.pad])
    data.width = getattr(trainee.model.config, "hidden_size", data.width)
    if data.train.rows < world.size:
        raise DataError(
            f"{data.train.rows} training rows for {world.size} ranks: some would never work",
            remedy=f"use at most {data.train.rows} processes",
        )
    dense = modelling.parameter_count(trainee.model) - modelling.embedding_parameters(trainee.model)
    steps = job.epochs * -(-data.train.rows // job.global_batch)
    tensorboard = job.tracking.get("tensorboard")
    reporter = Reporter(
        enabled=world.rank == 0,
        total_steps=steps,
        folder=Path(job.output).parent / "tensorboard" if tensorboard else None,
        flops_per_token=6.0 * dense,
        peak_flops=job.peak_flops,
        usd_per_hour=job.usd_per_hour,
    )
    return trainee, reporter


@torch.inference_mode()
def evaluate(trainee: Trainee, data: Data, world: World) -> dict[str, float]:
    """Score the whole validation split; ranks share the rows."""
    split, task = data.validation, data.task
    lengths = split.lengths if split.images is None else np.ones(split.rows)
    order = np.argsort(-lengths, kind="stable")
    blocks = [order[i : i + EVALUATION_ROWS] for i in range(0, len(order), EVALUATION_ROWS)]
    outputs = task.outputs(split)
    trainee.eval()
    for rows in blocks[world.rank :: world.size]:
        batch = task.collate(split, rows, packed=False)
        task.record(outputs, split, trainee.logits(batch, training=False), batch)
    trainee.train()
    # Every row was recorded on one rank and is zero on the others.
    total = world.sum(torch.from_numpy(outputs).to(world.device)).cpu().numpy()
    return task.score(total, split)
