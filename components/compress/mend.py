"""Mend what is left for what has gone, before any training: the outputs of a product whose inputs
were cut are fitted again by least squares on training rows (as in Frantar & Alistarh 2022, OBC, and
Kurtic et al. 2023, ZipLM, in closed form and once).

With X the inputs, S those that stay, R those that go and C their covariance, the weights become

    W_S + W_R C_RS (C_SS + ridge)^-1

which is the least-squares fit of X W^T by X_S with the ridge pulling towards the weights as they
were; the bias takes up the means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.compress.evened import run
from components.lib.pruned import Kept, head_width, layers_of, layout_of
from components.lib.tasks import Batch

# Sequences that covariances are taken from: some thousands of tokens for at most a few thousand
# inputs; the ridge stands in for the rest.
MENDING_ROWS = 192
RIDGE = 0.03  # of the mean variance


@dataclass(slots=True)
class Moments:
    """Sums over the tokens that a product has read: (inputs), (inputs, inputs)."""

    total: torch.Tensor
    square: torch.Tensor
    tokens: int = 0

    def add(self, values: torch.Tensor) -> None:
        self.total += values.sum(0)
        self.square.addmm_(values.T, values)
        self.tokens += len(values)


@torch.no_grad()
def moments_of(model: torch.nn.Module, batches: Iterable[Batch]) -> dict[torch.nn.Linear, Moments]:
    """Return what the products after heads and after neurons read on `batches`."""
    layout, found = layout_of(model), {}
    for layer in layers_of(model):
        for name in filter(None, (layout.mixed, layout.narrow)):
            size = layer.get_submodule(name).in_features
            zeros = Moments(total=torch.zeros(size), square=torch.zeros(size, size))
            found[layer.get_submodule(name)] = zeros
    run(model, batches, {linear: moments.add for linear, moments in found.items()})
    return found


@torch.no_grad()
def mend(
    made: torch.nn.Module,
    model: torch.nn.Module,
    kept: Sequence[int],
    heads: Sequence[Kept],
    neurons: Sequence[Kept],
    moments: dict[torch.nn.Linear, Moments],
) -> None:
    """Fit the products of `made` anew, in place.

    Args:
        made: cut.
        model: the model it was cut from.
        kept: for each layer of `made` its position in `model`.
        heads: which of those layers' heads stayed.
        neurons: and which neurons.
        moments: of `model`.
    """
    layout, width = layout_of(model), head_width(model)
    whole = layers_of(model)
    for layer, position, own_heads, own_neurons in zip(
        layers_of(made), kept, heads, neurons, strict=True
    ):
        columns = (np.asarray(own_heads)[:, None] * width + np.arange(width)).ravel()
        for name, stays in ((layout.mixed, columns), (layout.narrow, own_neurons)):
            if name:
                before = whole[position].get_submodule(name)
                _fit(layer.get_submodule(name), before, torch.as_tensor(stays), moments[before])


def _fit(
    cut: torch.nn.Linear, whole: torch.nn.Linear, stays: torch.Tensor, moments: Moments
) -> None:
    gone = torch.ones(whole.in_features, dtype=torch.bool)
    gone[stays] = False
    if not gone.any() or not moments.tokens:
        return
    mean, square = moments.total / moments.tokens, moments.square / moments.tokens
    if cut.bias is None:
        mean = torch.zeros_like(mean)
    covariance = square - torch.outer(mean, mean)
    kept_part = covariance[stays][:, stays]
    kept_part.diagonal().add_(RIDGE * kept_part.diagonal().mean() + 1e-8)
    removed = whole.weight[:, gone].float()
    shared = removed @ covariance[gone][:, stays]
    moved = torch.linalg.solve(kept_part, shared.T).T
    if not moved.isfinite().all():  # a layer that never says anything has nothing to fit
        return
    cut.weight += moved
    if cut.bias is not None:
        cut.bias += removed @ mean[gone] - moved @ mean[stays]
