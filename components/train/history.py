"""Where a run stands: steps done, what validation said, the best weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from components.lib.checkpoint import Checkpoints
from components.train import report
from components.train.job import Job
from components.train.trainee import Trainee
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
        """Return the fields as JSON, copied: a checkpoint is written while training goes on."""
        return copy.deepcopy({name: getattr(self, name) for name in self.__slots__})

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
            save_best(trainee, Path(job.checkpoints), self.step, world)
        else:
            self.without_improvement += 1
        patience = job.early_stopping
        self.stopped = patience is not None and self.without_improvement >= patience
        if world.rank == 0:
            report.emit("evaluated", **self.curve[-1])


def best_path(folder: Path, step: int) -> Path:
    """File with the weights after `step`, when they were the best so far."""
    return folder / f"best-{step:08d}.safetensors"


def save_best(trainee: Trainee, folder: Path, step: int, world: World) -> None:
    """Keep the trained weights. Older ones stay for a while: a checkpoint may refer to them."""
    from safetensors.torch import save_file

    named = trained(trainee)
    if trainee.sharded:  # every rank takes part in gathering
        named = {name: value.full_tensor() for name, value in named.items()}
    if world.rank != 0:
        return
    path = best_path(folder, step)
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in named.items()}, partial)
    partial.rename(path)
    for old in sorted(folder.glob("best-*.safetensors"))[:-KEPT_BEST]:
        old.unlink()


def load_best(trainee: Trainee, folder: Path, step: int) -> None:
    """Put the weights after `step` into the model."""
    from safetensors.torch import load_file

    # Drops what modules made of other weights in evaluation and kept (LeViT's position biases).
    trainee.train()
    named = trained(trainee)
    with torch.no_grad():
        for name, value in load_file(best_path(folder, step)).items():
            named[name].copy_(value)


def trained(trainee: Trainee) -> dict[str, torch.Tensor]:
    """Return what training changes: trainable parameters, and buffers such as running means."""
    parameters = {n: p.detach() for n, p in trainee.model.named_parameters() if p.requires_grad}
    buffers = {n: b for n, b in trainee.model.named_buffers() if b.is_floating_point()}
    return parameters | buffers


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
    return {"model": trained(trainee), "optimizer": optimizer}


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
