"""What stands before the first step: data, model, the choice between packing and buckets; and the
evaluation on the whole validation set."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL, DataError, SpecError
from components.lib import modelling
from components.lib.augment import Augmentation
from components.lib.dataset import Split, load_split, read_manifest, remapped
from components.lib.references import load_tokenizer, pad_token_id
from components.lib.shard_index import read_index
from components.lib.streaming import Arrivals
from components.lib.tasks import Task, balanced_weights, class_counts, make_task
from components.train import report
from components.train.compiled import size_step
from components.train.isolation import Unpackable, check_isolation
from components.train.job import Job
from components.train.peak import peak_flops
from components.train.report import Reporter
from components.train.trainee import Trainee, make_trainee
from components.train.world import World

# Rows in a forward without gradients: no activations are kept, so more fit.
EVALUATION_ROWS = 64
# Embeddings that start positions after the padding id (fairseq's convention).
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "mpnet", "longformer")
# Packed rows are filled up to a multiple of this many tokens (WNUT-17: 0.8 % more of them). Each
# new shape makes oneDNN compile a dozen kernels, 1 to 2 ms each: 5 % of a step.
CPU_MULTIPLE = 16
# Vocabulary of a tokenizer is asked for only where a model is made from scratch.
LABELLED = ("token-classification", "text-classification", "image-classification")


@dataclass(slots=True, kw_only=True)
class Data:
    """Everything read before training.

    `width` is the model's hidden size, for balancing ranks; `packed` whether sequences are laid end
    to end; `tokenizer` the folder to hand on with the model. Of a dataset that still arrives,
    `arrivals` knows which rows are there and what is to come.
    """

    manifest: dict[str, Any]
    train: Split
    validation: Split
    task: Task
    tokenizer: Path | None
    pad: int
    width: int = 384
    packed: bool = False
    arrivals: Arrivals | None = None


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
    arrivals = None
    if job.streamed:
        index = read_index(folder, manifest)
        assert index is not None
        arrivals = Arrivals(folder, {name: index[name] for name in ("train", "validation")})
    load = partial(load_split, folder) if arrivals is None else arrivals.split
    train, validation = load("train"), load("validation")
    labels = manifest["labels"]
    for split in (train, validation):
        check_labels(split, labels, job.task, seen=arrivals and arrivals.labels(split.name))
    tokenizer = folder / "tokenizer" if job.task != "image-classification" else None
    if tokenizer is not None and not (tokenizer / "tokenizer.json").is_file():
        raise DataError(f"{folder}: dataset has no tokenizer", remedy="run ingest again")
    pad = pad_token_id(tokenizer) if tokenizer else 0
    weights = None
    if job.class_weights == "balanced" and job.task in LABELLED:
        counts = arrivals.class_counts("train", len(labels)) if arrivals else None
        weights = balanced_weights(class_counts(train, len(labels)) if counts is None else counts)
    task = make_task(
        job.task,
        labels,
        pad_token_id=pad,
        class_weights=weights,
        listwise=job.listwise,
        augmentation=Augmentation(**job.augment) if job.augment is not None else None,
        top=arrivals.index["train"].label_max if arrivals else None,
    )
    return Data(
        manifest=manifest,
        train=train,
        validation=validation,
        task=task,
        tokenizer=tokenizer,
        pad=pad,
        arrivals=arrivals,
    )


def check_labels(
    split: Split, labels: list[str], task: str, *, seen: NDArray[np.int64] | None = None
) -> None:
    """Raise DataError when a split cannot be learnt from or scored; `seen` are the labels that
    occur where the split itself is not there yet."""
    if split.rows == 0:
        raise DataError(f"the {split.name} split has no rows", remedy="give it data")
    if task not in LABELLED:
        return
    if len(labels) < 2:
        raise DataError(
            f"the data has the single class {labels!r}: there is nothing to learn",
            remedy="give data with at least two labels",
        )
    if seen is None:
        seen = split.columns["labels" if "labels" in split.columns else "label"]
    scored = seen[seen != IGNORED_LABEL]
    if not len(scored):
        raise DataError(f"the {split.name} split has no label at all", remedy="run ingest again")
    wrong = [int(v) for v in (scored.min(), scored.max()) if not 0 <= v < len(labels)]
    if wrong:
        raise DataError(
            f"the {split.name} split has label {wrong[0]}, outside 0..{len(labels) - 1}",
            remedy="run ingest again",
        )


def prepare(job: Job, world: World, data: Data) -> tuple[Trainee, Reporter, Data]:
    """Make the model for the data, and return the data as this model reads it.

    Raises:
        DataError: fewer rows than ranks, or sequences longer than the model's positions.
    """
    if data.train.rows < world.size:
        raise DataError(
            f"{data.train.rows} training rows for {world.size} ranks: some would never work",
            remedy=f"use at most {data.train.rows} processes",
        )
    count = data.train.rows if data.arrivals else len(data.task.units(data.train))
    steps = job.epochs * -(-count // job.global_batch)
    total = min(steps, job.stop_after_steps or steps)
    trainee, data = packed_if_exact(job, world, data, total)
    if job.compile and not trainee.compiled and world.rank == 0:
        report.emit("note", text="training.compile: graphs are made on GPUs only, not on this CPU")
    dense = modelling.parameter_count(trainee.model) - modelling.embedding_parameters(trainee.model)
    peak = job.peak_flops or peak_flops(world.device, trainee.precision)
    # Frozen weights get no gradient: two products a token instead of three (forward and backward).
    products = 3.0 if job.method == "full" else 2.0
    tensorboard = job.tracking.get("tensorboard")
    reporter = Reporter(
        enabled=world.rank == 0,
        total_steps=total,
        folder=Path(job.output).parent / "tensorboard" if tensorboard else None,
        wandb=bool(job.tracking.get("wandb")),
        flops_per_token=2.0 * products * dense,
        peak_flops=peak and peak * world.size,
        usd_per_hour=job.usd_per_hour,
    )
    return trainee, reporter, data


def packed_if_exact(job: Job, world: World, data: Data, steps: int) -> tuple[Trainee, Data]:
    """Make the model, with sequences laid end to end where the job wants it and the model keeps
    them apart; otherwise with padded buckets.

    Raises:
        SpecError: ``packing: packed`` was asked for and the model does not.
    """

    def attempt(packed: bool) -> tuple[Trainee, Data]:
        trainee = make_trainee(
            job,
            data.manifest["labels"],
            world,
            used=used_tokens(data),
            vocabulary=vocabulary(job, data),
            packed=packed,
            total_steps=steps,
        )
        check_lengths(data, trainee.model)
        ready = adapted(job, data, trainee, packed)
        if packed:
            check_isolation(trainee, ready, rows_there(ready, world))
        return trainee, ready

    if not choose_packing(job):
        return attempt(packed=False)
    try:
        return attempt(packed=True)
    except Unpackable as error:
        if job.packing == "packed":
            raise SpecError(f"training.packing: {error}", remedy="use packing: auto") from error
        if world.rank == 0:
            report.emit("note", text=f"batches are padded, since this model cannot pack: {error}")
        return attempt(packed=False)


def rows_there(data: Data, world: World) -> NDArray[np.int64]:
    """Return training rows that may be read; of a dataset that arrives, the first that have come
    (a wait that is the stream's, not the loading's)."""
    if data.arrivals is None:
        return np.arange(data.train.rows)
    start = world.mark(on_device=False)
    rows = data.arrivals.wait_first("train")
    end = world.mark(on_device=False)
    world.add("stream_wait", start, end)
    world.add("load", start, end, sign=-1.0)
    return rows


def used_tokens(data: Data) -> NDArray[np.int64]:
    """Return the sorted ids of all tokens in training and validation, padding included."""
    if data.tokenizer is None:
        return np.empty(0, np.int64)
    if data.arrivals is not None:
        found = [part.tokens for part in data.arrivals.index.values()]
    else:
        found = [np.unique(split.input_ids) for split in (data.train, data.validation)]
    return np.unique(np.concatenate([*found, [data.pad]])).astype(np.int64)


def vocabulary(job: Job, data: Data) -> int | None:
    """Size of the tokenizer's vocabulary where the model's table is made to measure."""
    if data.tokenizer is None or not job.model.get("config"):
        return None
    return int(load_tokenizer(data.tokenizer).get_vocab_size())


def choose_packing(job: Job) -> bool:
    """Whether sequences are to be laid end to end.

    A rule, not a stopwatch: a choice that changed with the machine's mood would change the order of
    the data, and a resumed run must choose as the first one did. ``auto`` packs texts: batches stay
    random, no token is padding, and a token of a short sequence weighs what any other does (docs/
    training.md has what buckets do instead).
    """
    if job.packing != "auto":
        return job.packing == "packed" and job.task != "image-classification"
    return job.task != "image-classification"


def check_lengths(data: Data, model: torch.nn.Module) -> None:
    """Raise DataError when a sequence is longer than the model has positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or data.tokenizer is None:
        return
    if model.config.model_type in OFFSET_POSITIONS:
        positions -= data.pad + 1
    longest = max(int(split.lengths.max()) for split in (data.train, data.validation))
    if longest > positions:
        raise DataError(
            f"the data has sequences of {longest} tokens, the model has {positions} positions",
            remedy=f"set training.max_length to at most {positions} and ingest again",
        )


def adapted(job: Job, data: Data, trainee: Trainee, packed: bool) -> Data:
    """Return `data` with the token ids of the compacted embedding and the layout of the model."""
    config = trainee.model.config
    task = copy.copy(data.task)
    data = dataclasses.replace(
        data, task=task, packed=packed, width=getattr(config, "hidden_size", data.width)
    )
    if data.tokenizer is None:
        task.size = getattr(config, "image_size", task.size)
        return data
    if trainee.device.type == "cpu":
        task.multiple = CPU_MULTIPLE
    elif trainee.compiled:
        task.multiple = size_step(data.train.lengths, job.micro_batch)
    if config.model_type in OFFSET_POSITIONS:
        task.position_offset = data.pad + 1
    if trainee.embedding is not None:
        mapping = trainee.embedding[0]
        task.pad_token_id = int(mapping[data.pad])
        data.train, data.validation = (
            dataclasses.replace(split, input_ids=remapped(split.input_ids, mapping))
            for split in (data.train, data.validation)
        )
    return data


@torch.no_grad()
def evaluate(trainee: Trainee, data: Data, world: World) -> dict[str, float]:
    """Score the whole validation split; ranks share the rows."""
    split, task = data.validation, data.task
    lengths = split.lengths if split.images is None else np.ones(split.rows)
    order = np.argsort(-lengths, kind="stable")
    blocks = [order[i : i + EVALUATION_ROWS] for i in range(0, len(order), EVALUATION_ROWS)]
    outputs = task.outputs(split)
    trainee.eval()
    # Sharded parameters are gathered by all ranks together: each runs the same number of forwards.
    rounds = -(-len(blocks) // world.size)
    for number in range(rounds):
        mine = number * world.size + world.rank
        rows = blocks[mine] if mine < len(blocks) else blocks[0][:1]
        batch = task.collate(split, rows, packed=data.packed)
        logits = trainee.logits(batch, training=False)
        if mine < len(blocks):
            task.record(outputs, split, logits, batch.to(trainee.device))
    trainee.train()
    trainee.reshard()
    # Every row was recorded on one rank and is zero on the others.
    total = world.sum(torch.from_numpy(outputs).to(world.device)).cpu().numpy()
    return task.score(total, split)
