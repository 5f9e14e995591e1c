"""How much worse the model gets without a head, a neuron or a layer, estimated on training rows.

Heads and neurons: the diagonal of the Fisher information of a mask on their outputs (Kwon et al.
2022, "A fast post-training pruning framework"): the square of each sequence's derivative of the
loss, summed over sequences. Labels are drawn from the model's own predictions: on the tuned model
the derivative of the training loss has all but vanished, that of drawn labels has not.

Layers: how far the predictions move when a layer is left out.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from components.compress.material import Material
from components.lib import distil
from components.lib.pruned import head_width, layers_of, layout_of
from components.lib.tasks import Batch

Scores = list[NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """For each layer the scores of its heads and of its neurons, in one unit: the loss's rise."""

    heads: Scores
    neurons: Scores


def measure(model: torch.nn.Module, material: Material, rows: NDArray[np.int64]) -> Importance:
    """Score every head and neuron of an fp32 model on `rows` of the training split."""
    layout, width = layout_of(model), head_width(model)
    watched = []
    for layer in layers_of(model):
        watched.append((layer.get_submodule(layout.mixed) if layout.mixed else None, width))
        watched.append((layer.get_submodule(layout.narrow), 1))
    scores = [
        np.zeros(0 if module is None else module.in_features // size) for module, size in watched
    ]
    model.eval()
    random = torch.Generator().manual_seed(0)
    for batch in material.batches(rows):
        inputs: dict[int, torch.Tensor] = {}
        with _watching([module for module, _ in watched], inputs):
            logits = model(**batch.inputs).logits
        _drawn_loss(logits, batch, material.task.name, random).backward()
        mask = batch.inputs.get("attention_mask")
        for index, (module, size) in enumerate(watched):
            if module is not None:
                scores[index] += _squared_derivatives(inputs[index], mask, size)
        model.zero_grad(set_to_none=True)
    return Importance(heads=scores[0::2], neurons=scores[1::2])


@contextlib.contextmanager
def _watching(
    modules: Sequence[torch.nn.Module | None], inputs: dict[int, torch.Tensor]
) -> Iterator[None]:
    """Keep the inputs of `modules`, with their gradients."""
    handles = []
    for index, module in enumerate(modules):
        if module is None:
            continue

        def keep(_: object, received: tuple[torch.Tensor, ...], index: int = index) -> None:
            received[0].retain_grad()
            inputs[index] = received[0]

        handles.append(module.register_forward_pre_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _squared_derivatives(
    values: torch.Tensor, mask: torch.Tensor | None, size: int
) -> NDArray[np.float64]:
    """Sum over sequences of the squared derivative by a mask on groups of `size` columns."""
    assert values.grad is not None
    product = (values.detach() * values.grad).double()
    if mask is not None:
        product = product * mask[..., None]
    by_row = product.flatten(1, -2).sum(1)  # (rows, columns)
    squared: NDArray[np.float64] = by_row.unflatten(1, (-1, size)).sum(2).square().sum(0).numpy()
    return squared


def _drawn_loss(
    logits: torch.Tensor, batch: Batch, task: str, random: torch.Generator
) -> torch.Tensor:
    """Sum of the loss against labels drawn from the predictions themselves."""
    mask = batch.inputs.get("attention_mask")
    flat = logits.flatten(0, -2)
    if task in distil.PER_TOKEN and mask is not None:
        flat = logits[mask.bool()]
    if flat.shape[-1] == 1:  # scores: noise of unit variance
        return (flat.squeeze(-1) * torch.randn(len(flat), generator=random)).sum()
    drawn = torch.multinomial(flat.detach().softmax(-1), 1, generator=random).squeeze(-1)
    return functional.cross_entropy(flat, drawn, reduction="sum")


@torch.no_grad()
def cheapest_layers(
    model: torch.nn.Module, material: Material, rows: NDArray[np.int64], count: int
) -> list[int]:
    """Choose `count` layers to leave out, one after another: each time the one whose absence moves
    the predictions on `rows` least (KL). The last layer feeds the head and stays.

    Returns:
        Positions to remove, the most dispensable first.
    """
    model.eval()
    batches = list(material.batches(rows))
    whole = [_logits(model, batch, material.task.name) for batch in batches]
    layers = layers_of(model)
    gone: list[int] = []
    count = min(count, len(layers) - 1)
    for _ in range(count):
        moved = {}
        for position in range(len(layers) - 1):
            if position in gone:
                continue
            with _skipping([layers[i] for i in [*gone, position]]):
                moved[position] = sum(
                    float(distil.soft_loss_sum(_logits(model, b, material.task.name), ref, 1.0))
                    for b, ref in zip(batches, whole, strict=True)
                )
        gone.append(min(moved, key=lambda position: moved[position]))
    return gone


def _logits(model: torch.nn.Module, batch: Batch, task: str) -> torch.Tensor:
    logits: torch.Tensor = model(**batch.inputs).logits
    mask = batch.inputs.get("attention_mask")
    if task in distil.PER_TOKEN and mask is not None:
        return logits[mask.bool()]
    return logits.flatten(0, -2)


@contextlib.contextmanager
def _skipping(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let `layers` hand on what they receive."""

    def pass_on(_: object, received: tuple[torch.Tensor, ...], output: object) -> object:
        return (received[0], *output[1:]) if isinstance(output, tuple) else received[0]

    handles = [layer.register_forward_hook(pass_on) for layer in layers]
    try:
        yield
    finally:
        for handle in itertools.chain(handles):
            handle.remove()
