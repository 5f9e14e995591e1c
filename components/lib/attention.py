"""Attention that tells packed sequences apart, and dropout that does not cost more than the model.

Importing this module registers two attention implementations with transformers: ``suanli`` for
padded batches and ``suanli_packed`` for sequences laid end to end in one row, with their boundaries
in ``cu_seq_lens_q``. There no token sees another sequence: by torch's varlen kernel on a GPU, by
regrouping into a padded batch (attention only; all other layers see no padding) on a CPU.
``position_ids`` alone would leak (3e-3 on BERT).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

PADDED = "suanli"
PACKED = "suanli_packed"
# 16 random bits an element give a drop probability within 1e-5 of the one asked for, and the
# survivors are scaled by the probability that holds, so the expectation is exact.
LEVELS = 1 << 16


class DropoutBits:
    """The random bits of one model's dropout, a function of (seed, step, rank).

    torch draws one Bernoulli at a time on one core of a CPU: 15 % of a BERT step. SFC64 draws the
    bits of four elements in one word.
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
        kept = torch.from_numpy(words)[:count] >= dropped - LEVELS // 2
        return kept.to(dtype).mul_(LEVELS / (LEVELS - dropped)).view(shape)


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
        module.dropout_bits = bits  # found by `_dense` through the attention module
    return bits


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface.

    Args:
        module: the attention layer, asked whether it is causal.
        query: (rows, heads, tokens, head size); one row when packed.
        key: the same, perhaps with fewer heads (grouped queries).
        value: the same.
        attention_mask: what `mask` returned.
        dropout: probability on attention weights.
        scaling: factor on scores.
        cu_seq_lens_q: (sequences + 1) boundaries when packed.
        max_length_q: longest packed sequence.
        is_causal: overrides the module's.
        sliding_window: most positions a token sees to its left (and right) when packed.

    Returns:
        (rows, tokens, heads, head size), and None for the weights.
    """
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if cu_seq_lens_q is None:
        causal = causal and attention_mask is None and query.shape[2] > 1
        output = _dense(module, query, key, value, attention_mask, dropout, scaling, causal)
        return output.transpose(1, 2).contiguous(), None
    assert max_length_q is not None
    if query.is_cuda and dropout == 0.0:
        return _varlen(
            query, key, value, cu_seq_lens_q, max_length_q, scaling, causal, sliding_window
        ), None
    return _regrouped(
        module, query, key, value, cu_seq_lens_q, max_length_q, dropout, scaling, causal,
        sliding_window,
    ), None  # fmt: skip


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor,
    longest: int, scaling: float | None, causal: bool, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """torch's flash kernel for sequences laid end to end (no dropout)."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    left = -1 if window is None else window - 1
    output = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scaling,
        window_size=(left, 0 if causal else left), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return output[None]


def _regrouped(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    bounds: torch.Tensor, longest: int, dropout: float, scaling: float | None, causal: bool,
    window: int | None,
) -> torch.Tensor:  # fmt: skip
    """Put each sequence in a row of its own, attend, and lay them end to end again."""
    bounds = bounds.long()
    place = torch.arange(longest, device=query.device)
    inside = place < bounds.diff()[:, None]  # (sequences, longest)
    source = torch.where(inside, bounds[:-1, None] + place, 0)
    q, k, v = (x[0].transpose(0, 1)[source].transpose(1, 2) for x in (query, key, value))
    mask = inside[:, None, None, :]
    if causal:
        mask = mask & (place[:, None] >= place)
    if window is not None:
        mask = mask & ((place[:, None] - place).abs() < window)
    output = _dense(module, q, k, v, mask, dropout, scaling, False)
    return output.transpose(1, 2)[inside][None]


def _dense(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    mask: torch.Tensor | None, dropout: float, scaling: float | None, causal: bool,
) -> torch.Tensor:  # fmt: skip
    """(rows, heads, tokens, head size) attention; `mask` is boolean, True where attended."""
    if query.shape[1] != key.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    bits = getattr(module, "dropout_bits", None)
    if dropout == 0.0 or bits is None:
        return functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, causal, scale=scaling
        )
    scores = torch.matmul(query, key.transpose(2, 3)) * (scaling or query.shape[-1] ** -0.5)
    if causal:
        length = query.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return torch.matmul(weights * bits.mask(weights.shape, dropout, weights.dtype), value)


def mask(
    *, attention_mask: torch.Tensor | None = None, mask_function: Any = None, **rest: Any
) -> torch.Tensor | None:
    """transformers' mask interface: for plain bidirectional attention (rows, 1, 1, tokens) is all
    that is needed; anything else is left to transformers."""
    if mask_function is bidirectional_mask_function:
        return None if attention_mask is None else attention_mask[:, None, None, :]
    result: torch.Tensor | None = sdpa_mask(
        attention_mask=attention_mask, mask_function=mask_function, **rest
    )
    return result


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """`attention` that refuses to run without boundaries: it gets no mask either, so it would mix
    sequences silently.

    Raises:
        ValueError: no ``cu_seq_lens_q``.
    """
    if cu_seq_lens_q is None:
        raise ValueError(f"{PACKED} attention needs cu_seq_lens_q: this model does not pass it on")
    return attention(module, query, key, value, None, cu_seq_lens_q=cu_seq_lens_q, **rest)


AttentionInterface.register(PADDED, attention)
AttentionMaskInterface.register(PADDED, mask)
# No mask function for PACKED on purpose: transformers then builds no (tokens, tokens) mask.
AttentionInterface.register(PACKED, packed_attention)
