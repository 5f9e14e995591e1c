"""The model under training: made, wrapped for its precision and its ranks, ready for steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from components.contract import SpecError
from components.lib import attention, modelling, optim
from components.lib.dataset import Split
from components.lib.tasks import Batch
from components.train.job import Job
from components.train.world import World


@dataclass(slots=True, kw_only=True)
class Trainee:
    """Model, optimiser and how a forward runs.

    Attributes:
        model: the fp32 model whose parameters the optimiser changes.
        forward: what computes: the model itself, its DDP wrapper or its low-precision copy.
        copy: the low-precision copy, when there is one.
        optimizer: over the model's trainable parameters.
        precision: fp32, bf16 or fp16.
        peak_rate: learning rate at the top of the schedule.
        embedding: what `optim.restore_embedding` needs, when rows were left out.
    """

    model: torch.nn.Module
    forward: torch.nn.Module
    copy: optim.ComputeCopy | None
    optimizer: torch.optim.Optimizer
    precision: str
    peak_rate: float
    device: torch.device
    embedding: tuple[NDArray[np.int64], torch.Tensor] | None
    scaler: torch.amp.GradScaler
    bits: attention.DropoutBits | None

    def seed(self, seed: int, step: int, rank: int) -> None:
        """Make the dropout of the coming step a function of these numbers."""
        # Distinct for 2^20 ranks and 2^31 steps.
        torch.manual_seed((seed << 51) ^ (step << 20) ^ rank)
        if self.bits is not None:
            self.bits.seed(seed, step, rank)

    def logits(self, batch: Batch, *, training: bool = True) -> torch.Tensor:
        """Run the model on a batch."""
        module = self.forward if training else self.copy.replica if self.copy else self.model
        inputs = {
            name: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.inputs.items()
        }
        if self.copy is not None and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        autocast = self.precision != "fp32" and self.copy is None
        with torch.autocast(self.device.type, dtype, enabled=autocast):
            logits: torch.Tensor = module(**inputs).logits
        return logits

    @contextlib.contextmanager
    def synchronised(self, last: bool) -> Iterator[None]:
        """Let ranks exchange gradients only in the last forward-backward of a step."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            with self.forward.no_sync():
                yield
        else:
            yield

    def train(self) -> None:
        """Dropout on."""
        (self.copy.replica if self.copy else self.model).train()

    def eval(self) -> None:
        """Dropout off."""
        (self.copy.replica if self.copy else self.model).eval()

    def step(self, rate: float, clip_norm: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        if self.copy is not None:
            self.copy.collect_gradients()
        self.scaler.unscale_(self.optimizer)
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.copy is not None:
            self.copy.refresh()
        return float(norm)


def resolve_precision(name: str, device: torch.device) -> str:
    """Return the precision that ``auto`` stands for here, and check the others.

    bf16 where the hardware multiplies it: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX.

    Raises:
        SpecError: this device cannot run it.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16" if fast else "fp16") if name == "auto" else name
    if name == "fp16":
        raise SpecError("training.precision: fp16 needs a GPU", remedy="use bf16 or fp32 on a CPU")
    if name == "auto":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return name


def used_tokens(splits: list[Split], pad_token_id: int) -> NDArray[np.int64]:
    """Return the sorted ids of all tokens in `splits`, padding included."""
    found = [np.unique(split.input_ids) for split in splits]
    return np.unique(np.concatenate([*found, [pad_token_id]])).astype(np.int64)


def make_trainee(job: Job, labels: list[str], world: World, used: NDArray[np.int64]) -> Trainee:
    """Build everything a step needs.

    Args:
        job: the run.
        labels: label names.
        world: this rank.
        used: token ids that occur in the data; empty for images.
    """
    torch.manual_seed(job.seed)
    implementation = attention.PADDED if world.device.type == "cpu" else "sdpa"
    model = modelling.new_model(
        job.model, job.task, labels, attention=implementation, overrides=_overrides(job)
    )
    parameters = modelling.parameter_count(model)
    rate = job.learning_rate or optim.learning_rate_rule(
        method=job.method,
        parameters=parameters,
        global_batch=job.global_batch,
        from_scratch=bool(job.model.get("config")),
    )
    precision = resolve_precision(job.precision, world.device)
    embedding = None
    if len(used) and job.method == "full" and job.optimizer in ("auto", "adamw"):
        embedding = optim.compact_embedding(model, used)
    model.to(world.device)
    copy = None
    forward = model
    if world.size > 1:
        forward = DistributedDataParallel(
            model, gradient_as_bucket_view=True, static_graph=not job.activation_checkpointing
        )
    elif precision == "bf16" and world.device.type == "cpu":
        copy = optim.ComputeCopy(model, torch.bfloat16)
        forward = copy.replica
    bits = attention.use_bit_dropout(forward) if world.device.type == "cpu" else None
    groups = optim.parameter_groups(model, job.weight_decay)
    return Trainee(
        model=model,
        forward=forward,
        copy=copy,
        optimizer=optim.make_optimizer(job.optimizer, groups, rate, world.device),
        precision=precision,
        peak_rate=rate,
        device=world.device,
        embedding=embedding,
        scaler=torch.amp.GradScaler(world.device.type, enabled=precision == "fp16"),
        bits=bits,
    )


def _overrides(job: Job) -> dict[str, Any]:
    if job.dropout is None:
        return {}
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
             "dropout", "attention_dropout")  # fmt: skip
    return dict.fromkeys(names, job.dropout)


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the model's weights atomically."""
    from safetensors.torch import save_file

    state = {k: v.detach().contiguous() for k, v in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(_untied(state), partial)
    partial.rename(path)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path), strict=False)


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop names whose memory another name already holds (tied embeddings)."""
    seen: set[int] = set()
    return {
        k: v for k, v in state.items() if v.data_ptr() not in seen and not seen.add(v.data_ptr())
    }


def barrier() -> None:
    """Wait for every rank."""
    dist.barrier()
