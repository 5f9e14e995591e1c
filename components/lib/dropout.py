"""Dropout on a CPU that does not cost more than the model."""

from __future__ import annotations

import numpy as np
import torch

# 16 random bits an element give a drop probability within 1e-5 of the one asked for, and the
# survivors are scaled by the probability that holds, so the expectation is exact.
LEVELS = 1 << 16


class DropoutBits:
    """The random bits of one model's dropout, a function of (seed, step, rank).

    torch draws one Bernoulli at a time on one core of a CPU: 2.9 ms for 400,000 elements, 15 % of a
    BERT step. SFC64 draws the bits of four elements in one word, and a comparison that writes
    floating-point numbers needs no pass over booleans: 0.2 ms.
    """

    def __init__(self) -> None:
        self._generator = np.random.SFC64(0)

    def seed(self, *numbers: int) -> None:
        """Start the stream that `numbers` name."""
        self._generator = np.random.SFC64(np.random.SeedSequence(numbers))

    def mask(self, shape: torch.Size, probability: float, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor that is 0 with `probability` and 1 / (1 - probability) elsewhere."""
        dropped = round(probability * LEVELS)
        count = shape.numel()
        words = self._generator.random_raw(-(-count // 4)).view(np.int16)
        kept = torch.empty(count, dtype=dtype)
        torch.ge(torch.from_numpy(words)[:count], dropped - LEVELS // 2, out=kept)
        return kept.mul_(LEVELS / (LEVELS - dropped)).view(shape)


class BitDropout(torch.nn.Module):
    """nn.Dropout on a CPU, from a `DropoutBits`."""

    def __init__(self, p: float, bits: DropoutBits) -> None:
        super().__init__()
        self.p = p  # transformers reads it for attention
        self.bits = bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        return x * self.bits.mask(x.shape, self.p, x.dtype)


def use_bit_dropout(model: torch.nn.Module) -> DropoutBits:
    """Replace the model's dropout layers, and the dropout inside ``suanli`` attention."""
    bits = DropoutBits()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Dropout:
                setattr(module, name, BitDropout(child.p, bits))
    for module in model.modules():
        module.dropout_bits = bits  # attention finds it through its module
    return bits
