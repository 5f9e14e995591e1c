"""The model under training: made, wrapped for its precision and its ranks, ready for steps."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from components.contract import SpecError
from components.lib import attention, modelling, optim
from components.lib.dropout import DropoutBits, use_bit_dropout
from components.lib.linear import use_fast_linear
from components.lib.tasks import Batch
from components.train import adapters, pooling
from components.train.compiled import compiled, fixed_shapes
from components.train.exchange import Exchange
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
        bits: the source of dropout on a CPU.
        sharded: parameters are spread over the ranks (FSDP2).
        compiled: `forward` runs graphs that torch.compile made (evaluation does not).
        exchange: the clock of DDP's exchange of gradients.
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
    bits: DropoutBits | None
    method: str
    sharded: bool
    compiled: bool
    exchange: Exchange | None

    def seed(self, seed: int, step: int, rank: int) -> None:
        """Make the dropout of the coming step a function of these numbers."""
        # A hash, since 64 bits hold no three numbers of 31 bits side by side.
        text = f"{seed}/{step}/{rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
        if self.bits is not None:
            self.bits.seed(seed, step, rank)

    def logits(self, batch: Batch, *, training: bool = True) -> torch.Tensor:
        """Run the model on a batch."""
        module = self.forward if training else self._without_ranks()
        inputs = {
            name: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.inputs.items()
        }
        if training and self.compiled:
            inputs = fixed_shapes(inputs)
        if self.copy is not None and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        autocast = self.precision != "fp32" and self.copy is None and not self.sharded
        with torch.autocast(self.device.type, dtype, enabled=autocast):
            logits: torch.Tensor = module(**inputs).logits
        return logits[: len(batch.targets)]  # without the sequence that fills up a packed row

    def extra_loss(self) -> torch.Tensor | float:
        """Regularisation of the method, a mean like the loss of a global batch."""
        return adapters.orthogonality(self.forward) if self.method == "adalora" else 0.0

    @contextlib.contextmanager
    def synchronised(self, last: bool) -> Iterator[None]:
        """Let ranks exchange gradients only in the last forward-backward of a step; its time is
        counted as communication from the moment that the last gradients were ready."""
        wrapper = getattr(self.forward, "_orig_mod", self.forward)  # of torch.compile
        if isinstance(wrapper, DistributedDataParallel) and not last:
            with wrapper.no_sync():
                yield
        else:
            if self.sharded:
                wrapper.set_requires_gradient_sync(last)
            yield
            if self.exchange is not None:
                self.exchange.count()

    def train(self) -> None:
        """Dropout on."""
        self._without_ranks().train()

    def eval(self) -> None:
        """Dropout off."""
        self._without_ranks().eval()

    def reshard(self) -> None:
        """Give up the whole parameters that a forward without backward leaves behind (FSDP2)."""
        if self.sharded:
            for module in self.model.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def step(self, number: int, rate: float, clip_norm: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping.

        Args:
            number: steps done before this one.
            rate: learning rate.
            clip_norm: largest global norm.
        """
        if self.copy is not None:
            self.copy.collect_gradients()
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.method == "adalora":
            self.model.base_model.update_and_allocate(number)
        self.optimizer.zero_grad(set_to_none=True)
        if self.copy is not None:
            self.copy.refresh()
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _without_ranks(self) -> torch.nn.Module:
        return self.copy.replica if self.copy is not None else self.model


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


def make_trainee(
    job: Job,
    labels: list[str],
    world: World,
    *,
    used: NDArray[np.int64],
    vocabulary: int | None,
    packed: bool,
    total_steps: int,
) -> Trainee:
    """Build everything a step needs.

    Args:
        job: the run.
        labels: label names.
        world: this rank.
        used: token ids that occur in the data; empty for images.
        vocabulary: size of the tokenizer's, for models from scratch.
        packed: sequences come laid end to end.
        total_steps: optimiser steps of the run.
    """
    torch.manual_seed(job.seed)
    on_cpu = world.device.type == "cpu"
    implementation = attention.PACKED if packed else attention.PADDED if on_cpu else "sdpa"
    overrides = _overrides(job, vocabulary if job.model.get("config") else None)
    if packed and not on_cpu:  # torch's varlen kernel has no dropout on attention weights
        overrides |= {"attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0}
    model = modelling.new_model(
        job.model, job.task, labels, attention=implementation, overrides=overrides
    )
    rate = job.learning_rate or optim.learning_rate_rule(
        method=job.method,
        parameters=modelling.parameter_count(model),
        global_batch=job.global_batch,
        from_scratch=bool(job.model.get("config")),
    )
    precision = resolve_precision(job.precision, world.device)
    sharded = job.sharding == "fsdp" and world.size > 1
    embedding = None
    exact = job.method == "full" and job.optimizer in ("auto", "adamw") and not sharded
    if len(used) and exact:
        embedding = optim.compact_embedding(model, used)
    if job.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if packed and job.task in pooling.SEQUENCE_TASKS:
        pooling.pool_packed(model)
    if job.method != "full":
        model = adapters.add_adapters(model, job, total_steps)
    model.to(world.device)
    if on_cpu and precision == "fp32" and not sharded:
        use_fast_linear(model)
    graphs = job.compile and not on_cpu
    forward, copy = _wrapped(model, job, world, precision, sharded)
    ddp = isinstance(forward, DistributedDataParallel)
    exchange = Exchange(world, forward) if ddp else None
    if graphs:  # around DDP, whose buckets then cut the graph: gradients travel while it runs
        forward = compiled(forward, packed=packed)
    # Recomputed layers must draw the same dropout again, which torch only does for its own.
    with_bits = on_cpu and not job.activation_checkpointing
    fresh = () if job.method != "full" else modelling.fresh_parameters(model, job.model)
    groups = optim.parameter_groups(
        model, job.weight_decay, fresh=fresh, fresh_factor=job.fresh_factor
    )
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
        bits=use_bit_dropout(copy.replica if copy else model) if with_bits else None,
        method=job.method,
        sharded=sharded,
        compiled=graphs,
        exchange=exchange,
    )


def _wrapped(
    model: torch.nn.Module, job: Job, world: World, precision: str, sharded: bool
) -> tuple[torch.nn.Module, optim.ComputeCopy | None]:
    """Return what runs forward and backward, and the low-precision copy if that is what does."""
    if sharded:
        _shard(model, precision)
        return model, None
    if world.size > 1:
        # AdaLoRA changes which parameters matter as it goes; graphs are cut at buckets instead.
        static = not (job.activation_checkpointing or job.method == "adalora" or job.compile)
        wrapper = DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=static)
        return wrapper, None
    if precision == "bf16" and world.device.type == "cpu":
        copy = optim.ComputeCopy(model, torch.bfloat16)
        return copy.replica, copy
    return model, None


def _shard(model: torch.nn.Module, precision: str) -> None:
    """FSDP2: each transformer layer is a unit, gathered for its forward and backward."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def _overrides(job: Job, vocabulary: int | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if vocabulary is not None:
        overrides["vocab_size"] = vocabulary
    if job.dropout is not None:
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
                 "dropout", "attention_dropout")  # fmt: skip
        overrides |= dict.fromkeys(names, job.dropout)
    return overrides
