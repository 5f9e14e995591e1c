"""Attention that tells packed sequences apart.

Importing this module registers two attention implementations with transformers: ``suanli`` for
padded batches and ``suanli_packed`` for sequences laid end to end in one row, with their boundaries
in ``cu_seq_lens_q``. There no token sees another sequence: by torch's varlen kernel on a GPU, group
by group of similar length on a CPU (`grouped`; all other layers see no padding at all).
``position_ids`` alone would leak (3e-3 on BERT).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from components.lib.grouped import GroupedAttention, lay_out

PADDED = "suanli"
PACKED = "suanli_packed"


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
    if query.is_cuda and dropout == 0.0 and query.dtype != torch.float32:
        return _varlen(
            query, key, value, cu_seq_lens_q, max_length_q, scaling, causal, sliding_window
        ), None
    # torch's varlen kernel knows neither dropout on the weights nor fp32; a graph holds no numpy.
    if query.is_cuda or torch.compiler.is_compiling():
        return _regrouped(
            module, query, key, value, cu_seq_lens_q, max_length_q, dropout, scaling, causal,
            sliding_window,
        ), None  # fmt: skip
    bounds = tuple(cu_seq_lens_q.tolist())
    layout = lay_out(bounds, query.shape[1], key.shape[1], causal, sliding_window, query.dtype)
    output = GroupedAttention.apply(
        *(x[0].transpose(0, 1).contiguous() for x in (query, key, value)), layout,
        scaling or query.shape[-1] ** -0.5, dropout, getattr(module, "dropout_bits", None),
    )  # fmt: skip
    return output[None], None


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
    """Put each sequence in a row of its own, attend, and lay them end to end again. All shapes
    follow from the inputs', so that nothing waits for the GPU and a graph can hold it."""
    bounds = bounds.long()
    place = torch.arange(longest, device=query.device)
    inside = place < bounds.diff()[:, None]  # (sequences, longest)
    source = torch.where(inside, bounds[:-1, None] + place, 0)
    q, k, v = (x[0].transpose(0, 1)[source].transpose(1, 2) for x in (query, key, value))
    # A sequence of no tokens looks at token 0: a softmax of nothing is no number, even unused.
    mask = (inside | (place == 0))[:, None, None, :]
    if causal:
        mask = mask & (place[:, None] >= place)
    if window is not None:
        mask = mask & ((place[:, None] - place).abs() < window)
    output = _dense(module, q, k, v, mask, dropout, scaling, False)
    token = torch.arange(query.shape[2], device=query.device)
    sequence = torch.searchsorted(bounds[1:], token, right=True)
    return output.transpose(1, 2)[sequence, token - bounds[sequence]][None]


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
