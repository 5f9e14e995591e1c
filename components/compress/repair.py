"""Train a cut model to say what the tuned one says: logits, hidden states and, if asked, attention.

The same batches, optimiser and bf16 copy as the train step's; embeddings stay as they were tuned
(they are not cut, and words that the training data lacks would otherwise be left behind).
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from components.compress import evened
from components.compress.material import Material
from components.contract import MAIN_METRIC, StepError
from components.lib import distil, fake_quant, optim
from components.lib.modelling import parameter_count
from components.lib.pruned import layers_of
from components.lib.tasks import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each signal counts in the loss.

    Attributes:
        task: the labels' own loss.
        logits: divergence from the teacher's predictions.
        hidden: distance of hidden states, layer by layer.
        relations: attention between tokens in the last layer; 0 leaves it out.
        temperature: softens both predictions.
    """

    task: float = 0.3
    logits: float = 0.7
    hidden: float = 1.0
    relations: float = 0.0
    temperature: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        rate: peak learning rate; None for the rule times `rate_factor`.
        warmup_steps: steps of linear warm-up.
        dtype: what forward and backward compute in.
        eight_bits: end the training with 8-bit rounding in the forward pass.
        rate_factor: a student learns from dense signals: it stands, and needs, larger steps than
            fine-tuning.
    """

    rate: float | None = None
    rate_factor: float = 3.0
    warmup_steps: int = 20
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dtype: torch.dtype = torch.float32
    eight_bits: bool = False
    weights: Weights = field(default_factory=Weights)


REMATCH_STEPS = 50


class Student:
    """A cut model in training; `advance` may be called again and again."""

    def __init__(
        self,
        model: torch.nn.Module,
        teacher: distil.Teacher,
        material: Material,
        settings: Settings,
        *,
        layer_map: list[int],
    ) -> None:
        """
        Args:
            model: fp32, changed in place.
            teacher: what to learn from.
            material: what to learn on.
            settings: how.
            layer_map: for each layer of `model` the teacher's layer it came from.
        """
        self.model, self.teacher, self.material = model, teacher, material
        self.settings, self.layer_map = settings, layer_map
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.read = np.zeros(material.lessons.rows, bool)
        self.factors: evened.Factors | None = None
        self._batches = material.epochs()
        _without_dropout(model)
        table = model.get_input_embeddings()
        if isinstance(table, torch.nn.Embedding):
            table.weight.requires_grad_(False)
        self.copy = None
        if settings.dtype != torch.float32:
            self.copy = optim.ComputeCopy(model, settings.dtype)
        self.forward = self.copy.replica if self.copy else model
        self.listener = distil.Listener(self.forward, settings.weights.relations > 0)
        self.rate = settings.rate or settings.rate_factor * optim.learning_rate_rule(
            method="full",
            parameters=parameter_count(model),
            global_batch=material.global_batch,
            from_scratch=False,
        )
        groups = optim.parameter_groups(model, settings.weight_decay)
        device = torch.device("cpu")
        self.optimizer = optim.make_optimizer("adamw", groups, self.rate, device)

    def advance(
        self,
        factor: Callable[[int], float | None],
        *,
        report: Callable[[int, float], None] | None = None,
        eight_bits_below: float = 0.0,
    ) -> None:
        """Train until `factor` says None.

        Args:
            factor: given the steps done in this call, the share of the peak rate, or None to stop.
            report: told (steps done in this call, loss) every few steps.
            eight_bits_below: round products to 8 bits once the factor is below this.

        Raises:
            StepError: the loss is not finite.
        """
        start, done = time.perf_counter(), 0
        self.forward.train()
        while (share := factor(done)) is not None:
            rounding = self.rounding() if share < eight_bits_below else contextlib.nullcontext()
            share *= min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
            with rounding:
                loss = self._step(next(self._batches), share * self.rate)
            if not math.isfinite(loss):
                raise StepError(
                    f"loss of distillation is {loss} at step {self.step}",
                    remedy="lower training.learning_rate",
                )
            self.losses.append(loss)
            self.step += 1
            done += 1
            if report is not None and done % 10 == 0:
                report(done, loss)
        self.seconds += time.perf_counter() - start

    def rounding(self) -> contextlib.AbstractContextManager[None]:
        """Compute the layers as their 8-bit form would, while the block lasts: with channels evened
        out as they ask for when rounding begins."""
        if self.factors is None:
            rows = self.material.calibration_rows(evened.EVENING_ROWS)
            self.factors = evened.factors_of(self.forward, self.material.batches(rows))
        return fake_quant.eight_bit_products(layers_of(self.forward), self.factors)

    def _step(self, batch: Batch, rate: float) -> float:
        loss = self._loss(batch)
        loss.backward()
        self.read[batch.rows] = True
        if self.copy is not None:
            self.copy.collect_gradients()
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.copy is not None:
            self.copy.refresh()
        return float(loss.detach())

    def _loss(self, batch: Batch) -> torch.Tensor:
        weights, name = self.settings.weights, self.material.task.name
        taught = None
        if weights.logits or weights.hidden or weights.relations:
            taught = self.teacher.signals(batch)
        with self.listener.attached():
            said = self.listener.run(name, batch, dtype=self.settings.dtype)
        logits = _as_logits(said.logits, batch, name)
        units = max(_scored(batch, name), 1)
        # Of rows without labels nothing: not a term of this sum, nor counted in it.
        loss = weights.task * self.material.task.loss(logits, batch) / units
        if taught is None:
            return loss
        divergence = distil.soft_loss_sum(said.logits, taught.logits, weights.temperature)
        loss = loss + weights.logits * divergence / len(said.logits)
        if weights.hidden:
            if self.step and self.step % REMATCH_STEPS == 0:
                self._rematch(said, taught)
            pairs = list(zip(said.hidden, self.layer_map, strict=True))
            distances = [distil.distance(own, taught.hidden[at]) for own, at in pairs]
            loss = loss + weights.hidden * sum(distances) / len(distances)
        if said.projections and taught.projections:
            lengths = _lengths(batch)
            relations = distil.relation_loss(said.projections, taught.projections, lengths)
            loss = loss + weights.relations * relations
        return loss

    def _rematch(self, said: distil.Signals, taught: distil.Signals) -> None:
        """Let every layer learn from the teacher's layer it resembles most, in order."""
        if len(said.hidden) == len(taught.hidden):
            return
        with torch.no_grad():
            table = [[float(distil.distance(o, t)) for t in taught.hidden] for o in said.hidden]
        self.layer_map = distil.match_layers(np.array(table))

    @torch.inference_mode()
    def divergence(self, rows: int | None = None) -> float:
        """Mean KL from the teacher's predictions on validation rows: smoother than any score, it
        ranks candidates on few rows."""
        self.forward.eval()
        total, items = 0.0, 0
        for batch in self.material.validation_batches(rows):
            own = distil.Listener(self.forward).run(
                self.material.task.name, batch, dtype=self.settings.dtype
            )
            other = distil.Listener(self.teacher.model).run(
                self.material.task.name, batch, dtype=self.teacher.dtype
            )
            total += float(distil.soft_loss_sum(own.logits, other.logits, 1.0))
            items += len(own.logits)
        return total / max(items, 1)

    def weights(self) -> list[torch.Tensor]:
        """A copy of everything that training changes."""
        return [p.detach().clone() for p in self.model.parameters() if p.requires_grad]

    def restore(self, weights: list[torch.Tensor]) -> None:
        """Go back to what `weights` returned."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        with torch.no_grad():
            for own, kept in zip(trained, weights, strict=True):
                own.copy_(kept)
        if self.copy is not None:
            self.copy.refresh()

    def history(self) -> list[dict[str, Any]]:
        """What suanli.json says of the training."""
        loss = self.losses[-1] if self.losses else None
        epoch = self.step / self.material.steps_per_epoch
        return [{"step": self.step, "epoch": epoch, "loss": loss}]

    def score(self) -> dict[str, float]:
        """Return the metrics on the whole validation split."""
        return self.material.score(self.forward)

    def main_score(self) -> float:
        """Return the main metric on the whole validation split."""
        return self.score()[MAIN_METRIC[self.material.task.name]]


def linear_decay(steps: int, deadline: float | None = None) -> Callable[[int], float | None]:
    """Learning-rate factor that falls to zero over `steps`, or over the time left until
    `deadline` (perf_counter) when that comes first."""
    start = time.perf_counter()

    def factor(done: int) -> float | None:
        progress = done / max(steps, 1)
        if deadline is not None:
            if time.perf_counter() >= deadline:
                return None
            if math.isfinite(deadline):
                progress = max(progress, (time.perf_counter() - start) / (deadline - start))
        return None if progress >= 1 else 1.0 - progress

    return factor


def constant(steps: int, deadline: float | None = None) -> Callable[[int], float | None]:
    """The peak rate for `steps`, or until `deadline`."""

    def factor(done: int) -> float | None:
        late = deadline is not None and time.perf_counter() > deadline
        return None if done >= steps or late else 1.0

    return factor


def compute_dtype(precision: str) -> torch.dtype:
    """bf16 where it is asked for, or ``auto`` and this processor multiplies it."""
    wanted = precision == "bf16" or (precision == "auto" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if wanted else torch.float32


def clone(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in fp32 whose parameters may all be trained."""
    made = copy.deepcopy(model).float()
    return made.requires_grad_(True)


def _without_dropout(model: torch.nn.Module) -> None:
    """The teacher's answers restrain a student enough, and dropout would cost a tenth of a step."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_dropout", "attention_probs_dropout_prob"):
        for layer in layers_of(model):
            for module in layer.modules():
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)


def _as_logits(logits: torch.Tensor, batch: Batch, task: str) -> torch.Tensor:
    """Give per-token logits the padded shape that the task's loss compares with its targets."""
    if task not in distil.PER_TOKEN:
        return logits
    mask = batch.inputs.get("attention_mask")
    shape = (*batch.inputs["input_ids"].shape, logits.shape[-1])
    if mask is None:
        return logits.view(shape)
    padded = logits.new_zeros(shape)
    padded[mask.bool()] = logits
    return padded


def _scored(batch: Batch, task: str) -> int:
    """Units of the batch in the task's loss."""
    from components.contract import IGNORED_LABEL

    if task in distil.PER_TOKEN or not batch.targets.is_floating_point():
        return int((batch.targets != IGNORED_LABEL).sum())
    return len(batch.rows)


def _lengths(batch: Batch) -> Any:
    mask = batch.inputs.get("attention_mask")
    if mask is not None:
        return mask.sum(1).numpy()
    rows, longest = next(iter(batch.inputs.values())).shape[:2]
    return np.full(rows, longest)
