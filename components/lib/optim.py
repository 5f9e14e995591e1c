"""Optimisers, the learning-rate rule and schedule, and what makes steps cheap, not different."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.contract import SpecError

# The rule's anchor: BERT-base (110 M parameters) is fine-tuned at 5e-5 with batches of 32 (Devlin
# et al. 2019 try 2e-5 to 5e-5). Larger models want less, smaller ones more: the square root gives
# 1.1e-4 for a 23 M MiniLM and 2.9e-5 for BERT-large, both inside the ranges their papers report.
ANCHOR_RATE = 5e-5
ANCHOR_PARAMETERS = 110e6
ANCHOR_BATCH = 32
RATE_RANGE = (5e-6, 2e-4)
# Adapters start at zero and are few: an order of magnitude more (Hu et al. 2021 use 2e-4 to 5e-4).
ADAPTER_FACTOR = 10.0
# Without pretrained weights there is nothing to forget (DeiT: 5e-4 at batch 512, AdamW).
SCRATCH_RATE = 5e-4


def learning_rate_rule(
    *, method: str, parameters: int, global_batch: int, from_scratch: bool
) -> float:
    """Return the learning rate that ``auto`` stands for.

    ``5e-5 * sqrt(110e6 / parameters)`` kept within 5e-6..2e-4, times ``sqrt(batch / 32)`` (Adam's
    square-root scaling, Malladi et al. 2022), times 10 for adapters; 5e-4 from scratch.
    """
    if from_scratch:
        return SCRATCH_RATE
    low, high = RATE_RANGE
    rate = min(max(ANCHOR_RATE * math.sqrt(ANCHOR_PARAMETERS / parameters), low), high)
    rate *= math.sqrt(global_batch / ANCHOR_BATCH)
    return rate * (ADAPTER_FACTOR if method in ("lora", "adalora") else 1.0)


def schedule(step: int, *, total: int, warmup: int) -> float:
    """Factor on the peak rate at `step` of `total` (from 0): linear up, then linear to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def parameter_groups(
    model: torch.nn.Module,
    weight_decay: float,
    *,
    fresh: Collection[str] = (),
    fresh_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Decay matrices of linear layers only: decaying embeddings pulls rare words to nothing, and
    biases and norms have no scale to restrain (as in the BERT paper, embeddings added).

    Args:
        model: the parameters that need gradients are taken.
        weight_decay: of AdamW.
        fresh: names of parameters that start at random in a model that otherwise does not.
        fresh_factor: ``factor`` of their groups, for the learning rate; that of others is 1.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and id(parameter) not in embeddings
            groups.setdefault((name not in fresh, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            "factor": 1.0 if pretrained else fresh_factor,
        }
        for (pretrained, decayed), parameters in sorted(groups.items(), reverse=True)
    ]


def make_optimizer(
    name: str, groups: list[dict[str, Any]], rate: float, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimiser called `name`: adamw (also ``auto``), adafactor or adamw-8bit.

    Raises:
        SpecError: unknown name, or its package is not there.
    """
    if name in ("auto", "adamw"):
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    if name == "adamw-8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise SpecError(
                "training.optimizer: adamw-8bit needs the package bitsandbytes",
                remedy="install it, or use optimizer: adafactor",
            ) from error
        if device.type != "cuda":
            raise SpecError("training.optimizer: adamw-8bit needs a GPU", remedy="use adamw")
        return AdamW8bit(groups, lr=rate)
    raise SpecError(f"training.optimizer: {name!r} is unknown", remedy="use auto")


class ComputeCopy:
    """A low-precision replica that runs forward and backward for an fp32 model.

    The fp32 model keeps the weights that the optimiser changes (as Micikevicius et al. 2018); the
    replica is refreshed after each step. Against autocast this saves the casts of every
    activation between layers: 1.2 times as fast on a CPU with AVX512-BF16.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        self.replica = copy.deepcopy(model).to(dtype)
        pairs = zip(model.parameters(), self.replica.parameters(), strict=True)
        trained = [(full, low) for full, low in pairs if full.requires_grad]
        self._full = [full for full, _ in trained]
        self._low = [low for _, low in trained]
        self._gradients: list[torch.Tensor] = [torch.zeros_like(full) for full in self._full]

    def collect_gradients(self) -> None:
        """Add the replica's gradients to the model's, in fp32, and clear them."""
        with torch.no_grad():
            for full, low, buffer in zip(self._full, self._low, self._gradients, strict=True):
                if low.grad is None:
                    continue
                if full.grad is None:
                    full.grad = buffer.copy_(low.grad)
                else:
                    full.grad.add_(low.grad)
                low.grad = None

    def refresh(self) -> None:
        """Copy the model's weights into the replica."""
        with torch.no_grad():
            torch._foreach_copy_(self._low, self._full)


def compact_embedding(
    model: torch.nn.Module, used: NDArray[np.int64]
) -> tuple[NDArray[np.int64], torch.Tensor] | None:
    """Keep only the embedding rows of tokens that occur, for the time of training.

    A row whose token never occurs has zero gradient at every step, and without decay on
    embeddings AdamW leaves it bit for bit as it was: dropping it changes nothing but the memory and
    time of the optimiser (WNUT-17 uses 9,800 of 30,522 rows). Exact for optimisers that treat
    elements independently.

    Args:
        model: changed in place.
        used: sorted token ids that occur, padding included.

    Returns:
        The map from old id to new (-1 where dropped) and the full matrix for `restore_embedding`;
        None when the model's input embedding is tied to its output or is no plain embedding.
    """
    table = model.get_input_embeddings()
    if type(table) is not torch.nn.Embedding or model.get_output_embeddings() is not None:
        return None
    full = table.weight.detach().clone()
    mapping = np.full(len(full), -1, dtype=np.int64)
    mapping[used] = np.arange(len(used))
    smaller = torch.nn.Embedding(len(used), table.embedding_dim)
    if table.padding_idx is not None:
        smaller.padding_idx = int(mapping[table.padding_idx])
    smaller.weight = torch.nn.Parameter(full[torch.from_numpy(used)].clone())
    smaller.weight.requires_grad_(table.weight.requires_grad)
    model.set_input_embeddings(smaller)
    return mapping, full


def restore_embedding(
    model: torch.nn.Module, mapping: NDArray[np.int64], full: torch.Tensor
) -> None:
    """Undo `compact_embedding`, with the trained rows put back in their places."""
    table = model.get_input_embeddings()
    whole = torch.nn.Embedding(*full.shape)
    kept = torch.from_numpy(np.flatnonzero(mapping >= 0))
    weight = full.clone()
    weight[kept] = table.weight.detach()
    whole.weight = torch.nn.Parameter(weight)
    if table.padding_idx is not None:
        whole.padding_idx = int(kept[table.padding_idx])
    model.set_input_embeddings(whole)
