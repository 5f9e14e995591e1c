"""Attention on a CPU for sequences laid end to end: by groups of similar length, nothing padded
twice, forward and backward written out.

Padding all sequences of a batch to its longest costs attention 2.5 times the work it needs
(WNUT-17, 32 sentences); so sequences are sorted by length and cut into groups that are padded by
themselves. One gather brings tokens into place and one brings them back; their gradients are
gathers as well, where autograd would scatter (``index_put_``, one element at a time: 10 % of a BERT
step).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.lib.dropout import DropoutBits

# Lengths are rounded up to a multiple and groups hold a power of two of sequences, so that few
# shapes occur: oneDNN compiles a kernel for each new one (0.7 ms), as long as attention itself.
LENGTH_MULTIPLE = 8
# What one more group costs, in pairs of positions of one sequence (all heads): its dozen calls.
GROUP_COST_PAIRS = 4096
# Added to the score of a pair that must not attend: exp of it is 0, and it is finite in bf16, so a
# padded query that sees nothing gives numbers, which nobody reads, and no NaN.
HIDDEN = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sequences padded to one length; its rows in the gathered arrays are start..stop.

    `bias` is added to scores, broadcast over (sequences x heads, length, length); None for none.
    """

    start: int
    stop: int
    length: int
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each token of each head goes. Rows of the packed side are (token, head) in that order,
    rows of the gathered side (group, sequence, head, position).

    Attributes:
        queries: packed row of each gathered row; padding repeats the sequence's last token.
        keys: the same among the fewer heads of keys and values.
        gradients: as `queries`, with padding at one past the last packed row, where zeros stand.
        inverse: gathered row of each packed row.
        groups: what is computed together.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    gradients: torch.Tensor
    inverse: torch.Tensor
    groups: tuple[Group, ...]


@functools.lru_cache(maxsize=8)
def lay_out(
    bounds: tuple[int, ...],
    heads: int,
    key_heads: int,
    causal: bool,
    window: int | None,
    dtype: torch.dtype,
) -> Layout:
    """Plan the attention of one batch; all its layers of a kind share the plan.

    Args:
        bounds: (sequences + 1) offsets of the sequences.
        heads: query heads.
        key_heads: heads of keys and values; divides `heads`.
        causal: positions see only themselves and what is left of them.
        window: how far to the left (and right) a position sees, itself included; None for all.
        dtype: of the scores.
    """
    starts, lengths = np.array(bounds[:-1]), np.diff(bounds)
    head = np.arange(heads)[:, None]
    queries, keys, gradients, groups = [], [], [], []
    inverse = np.empty(bounds[-1] * heads, np.int64)
    row = 0
    for members in cut(lengths):
        longest = rounded(int(lengths[members].max()))
        place = np.arange(longest)
        inside = place < lengths[members, None]  # (members, longest)
        token = starts[members, None] + np.minimum(place, lengths[members, None] - 1)
        query = token[:, None] * heads + head  # (members, heads, longest)
        real = np.broadcast_to(inside[:, None], query.shape)
        queries.append(query.ravel())
        keys.append((token[:, None] * key_heads + head // (heads // key_heads)).ravel())
        gradients.append(np.where(real, query, bounds[-1] * heads).ravel())
        inverse[query[real]] = row + np.flatnonzero(real)
        stop = row + query.size
        bias = _bias(inside, heads, causal, window, dtype)
        groups.append(Group(start=row, stop=stop, length=longest, bias=bias))
        row = stop
    return Layout(
        queries=torch.from_numpy(np.concatenate(queries)),
        keys=torch.from_numpy(np.concatenate(keys)),
        gradients=torch.from_numpy(np.concatenate(gradients)),
        inverse=torch.from_numpy(inverse),
        groups=tuple(groups),
    )


def cut(lengths: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut sequences into groups, longest first: powers of two of them, at the least cost.

    The cost is pairs of positions plus a constant a group; dynamic programming from the end of the
    sorted list.
    """
    order = np.argsort(-lengths, kind="stable")
    count = len(order)
    sizes = 1 << np.arange(count.bit_length())
    best = np.zeros(count + 1)
    chosen = np.zeros(count + 1, np.int64)
    for start in range(count - 1, -1, -1):
        fit = sizes[sizes <= count - start]
        pairs = rounded(int(lengths[order[start]])) ** 2
        cost = GROUP_COST_PAIRS + fit * pairs + best[start + fit]
        least = int(np.argmin(cost))
        best[start], chosen[start] = cost[least], fit[least]
    groups, start = [], 0
    while start < count:
        groups.append(order[start : start + chosen[start]])
        start += int(chosen[start])
    return groups


def rounded(length: int) -> int:
    """Return the length that sequences of `length` are padded to."""
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _bias(
    inside: NDArray[Any], heads: int, causal: bool, window: int | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """Scores to add so that hidden pairs get no weight: (1 or sequences x heads, 1 or length,
    length)."""
    place = np.arange(inside.shape[1])
    distance = place[:, None] - place
    seen = np.ones((1, 1, len(place)), bool)
    if causal:
        seen = seen & (distance >= 0)
    elif not inside.all():  # a causal query never reaches the padding behind it
        seen = seen & inside[:, None, :]
    if window is not None:
        seen = seen & (np.abs(distance) < window)
    if seen.all():
        return None
    if len(seen) > 1:
        seen = np.repeat(seen, heads, axis=0)
    return torch.from_numpy(np.where(seen, 0.0, HIDDEN)).to(dtype)


class GroupedAttention(torch.autograd.Function):
    """softmax(scale * Q K^T + bias) V with dropout on the weights, group by group.

    ``apply(query, key, value, layout, scale, dropout, bits)``: query (tokens, heads, size), key and
    value (tokens, key heads, size), all contiguous; returns (tokens, heads, size).
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout,
        scale: float, dropout: float, bits: DropoutBits | None,
    ) -> torch.Tensor:  # fmt: skip
        size = query.shape[-1]
        q = query.reshape(-1, size).index_select(0, layout.queries)
        k = key.reshape(-1, size).index_select(0, layout.keys)
        v = value.reshape(-1, size).index_select(0, layout.keys)
        output = torch.empty_like(q)
        kept: list[torch.Tensor] = []
        for group in layout.groups:
            qg, kg, vg, og = (_rows(x, group) for x in (q, k, v, output))
            weights = _scores(qg, kg, group.bias, scale).softmax(-1)
            used = weights
            if dropout:
                mask = _mask(weights, dropout, bits)
                used = weights * mask
                kept.append(mask)
            torch.bmm(used, vg, out=og)
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scale, ctx.dropout = layout, scale, dropout
        ctx.shapes = (query.shape, key.shape)
        return output.index_select(0, layout.inverse).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        layout, scale, size = ctx.layout, ctx.scale, q.shape[-1]
        packed = gradient.reshape(-1, size)
        zeros = packed.new_zeros(1, size)
        g = torch.cat([packed, zeros]).index_select(0, layout.gradients)
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        rest = iter(kept)
        for group in layout.groups:
            qg, kg, vg, gg = (_rows(x, group) for x in (q, k, v, g))
            mask = next(rest) if ctx.dropout else None
            weights = next(rest)
            used = weights if mask is None else weights * mask
            torch.bmm(used.transpose(1, 2), gg, out=_rows(dv, group))
            dw = torch.bmm(gg, vg.transpose(1, 2))
            if mask is not None:
                dw.mul_(mask)
            ds = torch._softmax_backward_data(dw, weights, -1, weights.dtype).mul_(scale)
            torch.bmm(ds, kg, out=_rows(dq, group))
            torch.bmm(ds.transpose(1, 2), qg, out=_rows(dk, group))
        query_shape, key_shape = ctx.shapes
        back = [x.index_select(0, layout.inverse).view(query_shape) for x in (dq, dk, dv)]
        repeats = query_shape[1] // key_shape[1]
        if repeats > 1:  # several query heads share one of keys and values
            back[1:] = [x.unflatten(1, (key_shape[1], repeats)).sum(2) for x in back[1:]]
        return (*back, None, None, None, None)


def _rows(x: torch.Tensor, group: Group) -> torch.Tensor:
    """(sequences x heads, length, size) view of the group's rows."""
    return x[group.start : group.stop].view(-1, group.length, x.shape[-1])


def _scores(
    q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> torch.Tensor:
    if bias is None:
        return torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale)


def _mask(weights: torch.Tensor, dropout: float, bits: DropoutBits | None) -> torch.Tensor:
    if bits is not None:
        return bits.mask(weights.shape, dropout, weights.dtype)
    return torch.empty_like(weights).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
