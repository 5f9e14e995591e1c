"""Rows of different lengths as one flat array with offsets: cut, surround, join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from components.ingest.encode import Tokens, ranges


def longest_first(
    left: np.ndarray, right: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut pairs to `capacity` tokens, taking from the longer one: the same arithmetic as the
    ``longest_first`` truncation of the tokenizers library."""
    short, long = np.minimum(left, right), np.maximum(left, right)
    long = np.where(short > capacity, short, np.maximum(short, capacity - short))
    both = short + long > capacity
    short = np.where(both, capacity // 2, short)
    long = np.where(both, capacity - capacity // 2, long)
    cut, swapped = left + right > capacity, left > right
    return (
        np.where(cut, np.where(swapped, long, short), left),
        np.where(cut, np.where(swapped, short, long), right),
    )


def cut(tokens: Tokens, keep: np.ndarray) -> Tokens:
    """Keep the first `keep` tokens of each row."""
    if (keep == tokens.lengths).all():
        return tokens
    flat = tokens.flat[ranges(tokens.offsets[:-1], keep)]
    return Tokens(flat, np.concatenate([[0], np.cumsum(keep)]))


def surround(tokens: Tokens, before: tuple[int, ...], after: tuple[int, ...]) -> Tokens:
    """Put fixed values around each row."""
    lengths = tokens.lengths + len(before) + len(after)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.empty(int(offsets[-1]), tokens.flat.dtype)
    for position, value in enumerate(before):
        flat[offsets[:-1] + position] = value
    flat[ranges(offsets[:-1] + len(before), tokens.lengths)] = tokens.flat
    for position, value in enumerate(after):
        flat[offsets[1:] - len(after) + position] = value
    return Tokens(flat, offsets)


def interleave(head: Tokens, tail: Tokens) -> Tokens:
    """Join row by row."""
    offsets = head.offsets + tail.offsets
    flat = np.empty(int(offsets[-1]), head.flat.dtype)
    flat[ranges(offsets[:-1], head.lengths)] = head.flat
    flat[ranges(offsets[:-1] + head.lengths, tail.lengths)] = tail.flat
    return Tokens(flat, offsets)


def list_column(tokens: Tokens) -> Any:
    """Return an Arrow list column without copying row by row."""
    offsets = pa.array(tokens.offsets.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(tokens.flat))
