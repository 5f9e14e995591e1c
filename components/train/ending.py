"""How a run ends: the best weights become the model artifact, and the log says what the run was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.contract import MAIN_METRIC
from components.lib import modelling, optim
from components.lib.checkpoint import Checkpoints
from components.train import adapters, report
from components.train.history import History, load_best
from components.train.job import Job
from components.train.report import Reporter
from components.train.setup import Data
from components.train.trainee import Trainee
from components.train.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a finished loop hands over."""

    trainee: Trainee
    data: Data
    history: History
    reporter: Reporter
    saves: Checkpoints


def finish(
    job: Job,
    world: World,
    run: Run,
    publish: Callable[[Path], dict[str, Any]] = lambda _: {},
) -> None:
    """Save the best model in ``job.output``, `publish` that folder, and emit ``finished`` with what
    it returned; on rank 0."""
    with world.phase("save"):
        model = best_model(job, world, run)
    if world.rank != 0:
        return
    with world.phase("save"):
        output = Path(job.output)
        output.mkdir(parents=True, exist_ok=True)
        modelling.save_model(
            model, output, tokenizer=run.data.tokenizer, info=information(job, run)
        )
    run.reporter.close()
    published = publish(output)
    peak = torch.cuda.max_memory_allocated() if world.device.type == "cuda" else None
    report.emit(
        "finished",
        seconds={name: round(value, 4) for name, value in world.seconds.items()},
        workload=workload(job, world, run),
        best_metric=run.history.best_metric,
        best_step=run.history.best_step,
        learning_rate=run.trainee.peak_rate,
        curve=run.history.curve,
        losses=run.history.losses,
        checkpoints={"saved": run.saves.saved, "stall_s": round(run.saves.stall_s, 4)},
        notes=run.saves.problems,
        peak_gpu_memory_bytes=peak,
        **published,
    )


def best_model(job: Job, world: World, run: Run) -> torch.nn.Module:
    """Return the plain transformers model with the best weights, adapters merged."""
    folder, step = Path(job.checkpoints), run.history.best_step
    if run.trainee.sharded:
        return unsharded(job, run) if world.rank == 0 else run.trainee.model
    load_best(run.trainee, folder, step)
    model = run.trainee.model
    if run.trainee.embedding is not None:
        optim.restore_embedding(model, *run.trainee.embedding)
    return adapters.merge(model) if job.method != "full" else model


def unsharded(job: Job, run: Run) -> torch.nn.Module:
    """Return a fresh whole model with the best weights that a sharded run gathered."""
    from safetensors.torch import load_file

    from components.train.history import best_path
    from components.train.setup import vocabulary

    size = vocabulary(job, run.data)
    overrides = {"vocab_size": size} if size else {}
    model = modelling.new_model(
        job.model, job.task, run.data.manifest["labels"], overrides=overrides
    )
    weights = load_file(best_path(Path(job.checkpoints), run.history.best_step))
    model.load_state_dict(weights, strict=False)
    return model


def information(job: Job, run: Run) -> dict[str, Any]:
    """Return the content of suanli.json."""
    return {
        "labels": run.data.manifest["labels"],
        "task": job.task,
        "variant": "tuned",
        "base_model": job.model.get("id") or job.model.get("config"),
        "max_length": job.max_length,
        "precision": run.trainee.precision,
        "history": run.history.curve,
        "best_metric": {
            "name": MAIN_METRIC[job.task],
            "value": run.history.best_metric,
            "step": run.history.best_step,
        },
        "learning_rate": run.trainee.peak_rate,
        "notes": [],
    }


def workload(job: Job, world: World, run: Run) -> dict[str, Any]:
    """The shape of the work, for the cost model; counts since the last resume, all ranks."""
    reporter, lengths = run.reporter, run.data.train.lengths
    return {
        "rows": run.data.train.rows,
        "tokens": reporter.tokens * world.size,
        "padded_tokens": reporter.padded_tokens * world.size,
        "sequences": reporter.sequences * world.size,
        "steps": run.history.step - (run.history.resumed_from or 0),
        "epochs": job.epochs,
        "global_batch": job.global_batch,
        "micro_batch": job.micro_batch,
        "seq_len_mean": float(lengths.mean()),
        "seq_len_max": int(lengths.max()),
        "parameters": modelling.parameter_count(run.trainee.model),
        "embedding_parameters": modelling.embedding_parameters(run.trainee.model),
        "precision": run.trainee.precision,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "packed": run.data.packed,
        "validation_tokens": run.data.validation.tokens,
        "validation_rows": run.data.validation.rows,
    }
