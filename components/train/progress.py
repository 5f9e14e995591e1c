"""Where a run stands: steps done, what validation said, the best weights; and how it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from components.contract import MAIN_METRIC
from components.lib import modelling, optim
from components.lib.checkpoint import Checkpoints
from components.train import report
from components.train.job import Job
from components.train.report import Reporter
from components.train.setup import Data
from components.train.trainee import Trainee, load_weights, save_weights
from components.train.world import World

KEPT_BEST = 3


@dataclass(slots=True, kw_only=True)
class History:
    """What a checkpoint remembers besides tensors.

    `curve` has one entry an evaluation, `losses` one an optimiser step.
    """

    step: int = 0
    best_metric: float = -math.inf
    best_step: int = -1
    without_improvement: int = 0
    stopped: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rate: float = 0.0
    resumed_from: int | None = None

    @classmethod
    def resume(cls, checkpoints: Checkpoints, trainee: Trainee, world: World) -> History:
        """Continue from the newest whole checkpoint, or begin."""
        found = checkpoints.newest()
        if found is None:
            return cls()
        path, document = found
        state = state_of(trainee)
        checkpoints.load(path, state)
        restore(trainee, state)
        history = cls(**document["meta"])
        history.resumed_from = history.step
        if world.rank == 0:
            report.emit("resumed", step=history.step)
        return history

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def advance(self, loss: float, rate: float) -> None:
        """Count one optimiser step."""
        self.step += 1
        self.losses.append(loss)
        self.learning_rate = rate

    def evaluated(
        self,
        epoch: int,
        scores: dict[str, float],
        metric: str,
        trainee: Trainee,
        job: Job,
        world: World,
    ) -> None:
        """Take in an evaluation: keep the weights when they are the best so far, stop early when
        they have not been for too long."""
        since = self.curve[-1]["step"] if self.curve else 0
        recent = self.losses[since:]
        self.curve.append(
            {
                "step": self.step,
                "epoch": epoch,
                "loss": sum(recent) / max(len(recent), 1),
                "learning_rate": self.learning_rate,
                "validation": scores,
            }
        )
        value = scores[metric]
        if value > self.best_metric or self.best_step < 0:
            self.best_metric, self.best_step, self.without_improvement = value, self.step, 0
            if world.rank == 0:
                save_best(trainee, Path(job.checkpoints), self.step)
        else:
            self.without_improvement += 1
        patience = job.early_stopping
        self.stopped = patience is not None and self.without_improvement >= patience
        if world.rank == 0:
            report.emit("evaluated", **self.curve[-1])


def best_path(folder: Path, step: int) -> Path:
    """File with the weights after `step`, when they were the best so far."""
    return folder / f"best-{step:08d}.safetensors"


def save_best(trainee: Trainee, folder: Path, step: int) -> None:
    """Keep these weights. Older ones stay for a while: a checkpoint may refer to them."""
    save_weights(trainee.model, best_path(folder, step))
    for old in sorted(folder.glob("best-*.safetensors"))[:-KEPT_BEST]:
        old.unlink()


def state_of(trainee: Trainee) -> dict[str, Any]:
    """Return the tensors a run continues from, by the parameters' names."""
    named = {id(p): name for name, p in trainee.model.named_parameters()}
    optimizer: dict[str, Any] = {}
    for group in trainee.optimizer.param_groups:
        for parameter in group["params"]:
            slots = trainee.optimizer.state.get(parameter) or initial_slots(trainee, parameter)
            optimizer[named[id(parameter)]] = {
                k: v if torch.is_tensor(v) else torch.tensor(float(v)) for k, v in slots.items()
            }
    trained = {n: p.detach() for n, p in trainee.model.named_parameters() if p.requires_grad}
    buffers = {n: b for n, b in trainee.model.named_buffers() if b.is_floating_point()}
    return {"model": trained | buffers, "optimizer": optimizer}


def initial_slots(trainee: Trainee, parameter: torch.Tensor) -> dict[str, Any]:
    """Slots of AdamW before its first step, which makes them lazily; other optimisers' are made by
    a step on zero gradients that is not applied."""
    if isinstance(trainee.optimizer, torch.optim.AdamW):
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    twin = torch.nn.Parameter(parameter.detach().clone())
    twin.grad = torch.zeros_like(twin)
    optimizer = type(trainee.optimizer)([twin], lr=0.0)
    optimizer.step()
    return dict(optimizer.state[twin])


def restore(trainee: Trainee, state: dict[str, Any]) -> None:
    """Put loaded tensors where `state_of` took them from."""
    named = dict(trainee.model.named_parameters())
    with torch.no_grad():
        for name, value in {**named, **dict(trainee.model.named_buffers())}.items():
            if name in state["model"]:
                value.copy_(state["model"][name])
    for name, slots in state["optimizer"].items():
        parameter = named[name]
        trainee.optimizer.state[parameter] = {
            k: v.clone() if k == "step" else v.to(parameter.device) for k, v in slots.items()
        }
    if trainee.copy is not None:
        trainee.copy.refresh()


def finish(
    job: Job,
    world: World,
    data: Data,
    trainee: Trainee,
    history: History,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> None:
    """Save the best model and say what the run was."""
    if world.rank != 0:
        return
    with world.phase("save"):
        load_weights(trainee.model, best_path(Path(job.checkpoints), history.best_step))
        if trainee.embedding is not None:
            optim.restore_embedding(trainee.model, *trainee.embedding)
        output = Path(job.output)
        output.mkdir(parents=True, exist_ok=True)
        info = {
            "labels": data.manifest["labels"],
            "task": job.task,
            "variant": "tuned",
            "base_model": job.model.get("id") or job.model.get("config"),
            "max_length": job.max_length,
            "precision": trainee.precision,
            "history": history.curve,
            "best_metric": {"name": MAIN_METRIC[job.task], "value": history.best_metric,
                            "step": history.best_step},
            "learning_rate": trainee.peak_rate,
            "notes": [],
        }  # fmt: skip
        modelling.save_model(trainee.model, output, tokenizer=data.tokenizer, info=info)
    reporter.close()
    report.emit(
        "finished",
        seconds={k: round(v, 4) for k, v in world.seconds.items()},
        workload=workload(job, world, data, trainee, history, reporter),
        best_metric=history.best_metric,
        best_step=history.best_step,
        learning_rate=trainee.peak_rate,
        curve=history.curve,
        losses=history.losses,
        checkpoints={"saved": checkpoints.saved, "stall_s": round(checkpoints.stall_s, 4)},
        notes=checkpoints.problems,
        peak_gpu_memory_bytes=torch.cuda.max_memory_allocated()
        if world.device.type == "cuda"
        else None,
    )


def workload(
    job: Job, world: World, data: Data, trainee: Trainee, history: History, reporter: Reporter
) -> dict[str, Any]:
    """The shape of the work, for the cost model; counts since the last resume, all ranks."""
    lengths = data.train.lengths
    return {
        "rows": data.train.rows,
        "tokens": reporter.tokens * world.size,
        "padded_tokens": reporter.padded_tokens * world.size,
        "sequences": reporter.sequences * world.size,
        "steps": history.step - (history.resumed_from or 0),
        "epochs": job.epochs,
        "global_batch": job.global_batch,
        "micro_batch": job.micro_batch,
        "seq_len_mean": float(lengths.mean()) if len(lengths) else 0.0,
        "seq_len_max": int(lengths.max()) if len(lengths) else 0,
        "parameters": modelling.parameter_count(trainee.model),
        "embedding_parameters": modelling.embedding_parameters(trainee.model),
        "precision": trainee.precision,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "packed": data.packed,
        "validation_tokens": data.validation.tokens,
        "validation_rows": data.validation.rows,
    }
