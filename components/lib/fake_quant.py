"""Train with the rounding of 8-bit products in the forward pass (Jacob et al. 2018).

Weights are rounded symmetrically with a scale a column, activations to unsigned 8 bits with a scale
a tensor, as the exported graph does (components/export/quantise.py); where factors are given,
channels are evened out first, as the exporter does (components/export/smooth.py). Gradients pass as
if nothing had been rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch.nn import functional

WEIGHT_LEVELS = 127.0
ACTIVATION_LEVELS = 255.0
TABLE_LEVELS = 7.0
TABLE_BLOCK = 32
LEAST_SCALE = 2.0**-20


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """Round (outputs, inputs) with one scale an output."""
    with torch.no_grad():
        full = weight.float()
        scale = (full.abs().amax(dim=1, keepdim=True) / WEIGHT_LEVELS).clamp_min(1e-12)
        error = (full / scale).round().mul_(scale).sub_(full)
    return weight + error.to(weight.dtype)


def rounded_activation(values: torch.Tensor) -> torch.Tensor:
    """Round to 256 levels between the tensor's extremes, 0 among them."""
    with torch.no_grad():
        full = values.float()
        low, high = full.min().clamp_max(0.0), full.max().clamp_min(0.0)
        scale = ((high - low) / ACTIVATION_LEVELS).clamp_min(1e-12)
        zero = (-low / scale).round()
        level = (full / scale).round_().add_(zero).clamp_(0, ACTIVATION_LEVELS)
        error = level.sub_(zero).mul_(scale).sub_(full)
    return values + error.to(values.dtype)


def _half_above(values: torch.Tensor) -> torch.Tensor:
    """Round up to the next number that fp16 holds."""
    half = values.half()
    up = torch.nextafter(half, torch.full_like(half, torch.inf))
    return torch.where(half.float() < values, up, half).float()


def rounded_table(table: torch.Tensor) -> torch.Tensor:
    """Round an embedding table (rows, columns) to 15 levels with one scale for `TABLE_BLOCK`
    columns of a row, as `components.export.quantise.rows_to_int4` stores it. Rounding again changes
    nothing."""
    blocks = table.float().unflatten(1, (-1, TABLE_BLOCK))
    least = blocks.abs().amax(dim=2, keepdim=True) * ((1 - 1e-5) / TABLE_LEVELS)
    scale = _half_above(least.clamp_min(LEAST_SCALE))
    level = (blocks / scale).round_().clamp_(-TABLE_LEVELS, TABLE_LEVELS)
    return (level * scale).flatten(1).to(table.dtype)


def _forward(
    linear: torch.nn.Linear, factors: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(values: torch.Tensor) -> torch.Tensor:
        weight = linear.weight
        if factors is not None:
            own = factors.to(values.dtype)
            values, weight = values / own, weight * own
        weight = rounded_weight(weight)
        return functional.linear(rounded_activation(values), weight, linear.bias)

    return forward


@contextlib.contextmanager
def eight_bit_products(
    modules: Iterable[torch.nn.Module],
    factors: Mapping[torch.nn.Linear, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Let every linear layer below `modules` compute as its 8-bit form would, inside the block.

    Args:
        modules: what is changed.
        factors: for some of the linear layers what each channel of their input is divided by.
    """
    changed = [m for top in modules for m in top.modules() if type(m) is torch.nn.Linear]
    for linear in changed:
        own = (factors or {}).get(linear)
        linear.forward = _forward(linear, own)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for linear in changed:
            del linear.forward
