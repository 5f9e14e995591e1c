"""Which rows are trained on together, in which order, on which rank: numpy only, no state.

Everything follows from the seed and the epoch, never from the number of ranks, so a job that is
resumed on other ranks sees the same global batches in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# Rows whose length differs by less than this are shuffled among each other before buckets are cut:
# neighbours change from epoch to epoch and a bucket still pads by only a few per cent.
LENGTH_JITTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What batches are made of: single rows, or whole groups where a loss compares rows.

    Attributes:
        rows: row numbers, unit by unit.
        offsets: (units + 1); unit u is ``rows[offsets[u]:offsets[u + 1]]``.
        lengths: tokens of each unit's longest row.
        weights: what each unit counts in the loss (scored labels).
    """

    rows: Rows
    offsets: Rows
    lengths: Rows
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, units: Rows) -> Rows:
        """Return the rows of `units`, in that order."""
        return np.concatenate([self.rows[self.offsets[u] : self.offsets[u + 1]] for u in units])


def single_rows(lengths: Rows, weights: NDArray[np.float64]) -> Units:
    """Every row is a unit of its own."""
    count = len(lengths)
    return Units(
        rows=np.arange(count), offsets=np.arange(count + 1), lengths=lengths, weights=weights
    )


def grouped_rows(group: Rows, lengths: Rows) -> Units:
    """All rows of a group are one unit (listwise ranking); each group counts once."""
    rows = np.argsort(group, kind="stable")
    _, first = np.unique(group[rows], return_index=True)
    return Units(
        rows=rows,
        offsets=np.append(first, len(rows)),
        lengths=np.maximum.reduceat(lengths[rows], first),
        weights=np.ones(len(first)),
    )


def epoch_batches(
    lengths: Rows, global_batch: int, *, seed: int, epoch: int, bucketed: bool = True
) -> list[Rows]:
    """Cut an epoch into global batches: every unit exactly once, the last batch may be smaller.

    Args:
        lengths: tokens of each unit.
        global_batch: units of one optimiser step, over all ranks.
        seed: with `epoch`, decides the order.
        epoch: number of the pass over the data, from 0.
        bucketed: units of similar length share a batch; otherwise batches are random.

    Returns:
        Index arrays, one an optimiser step.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if not bucketed:
        return [order[i : i + global_batch] for i in range(0, len(order), global_batch)]
    jitter = random.uniform(1.0, 1.0 + LENGTH_JITTER, size=len(order))
    order = order[np.argsort(lengths[order] * jitter, kind="stable")]
    batches = [order[i : i + global_batch] for i in range(0, len(order), global_batch)]
    return [batches[i] for i in random.permutation(len(batches))]


# Of a streamed epoch, shards among whose rows a batch is drawn, and with how many it begins.
WINDOW_SHARDS, FIRST_SHARDS = 8, 4
# Global batches among whose rows a streamed epoch looks for rows of similar length.
BUCKET_BATCHES = 64
STREAMED = 1  # keeps the numbers of a streamed epoch apart from those of any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """An epoch over shards that arrive one after the other.

    Attributes:
        rows: every row once, in the order of use.
        shards: every shard once, in the order in which it is first needed.
    """

    rows: Rows
    shards: Rows


def streamed_epoch(shard_rows: Rows, *, seed: int) -> Streamed:
    """Order an epoch so that it can begin with a few shards and is shuffled within a window.

    Shards come in random order. Each row gets a random place within a window of `WINDOW_SHARDS`
    that opens when its shard does, and rows are used by place: as a shuffle buffer of that size
    would hand them out, but as a function of the seed alone. The first `FIRST_SHARDS` windows open
    at once.

    Args:
        shard_rows: rows of each shard.
        seed: decides the order.
    """
    random = np.random.default_rng([seed, 0, STREAMED])
    shards = random.permutation(len(shard_rows))
    sizes = shard_rows[shards]
    starts = np.cumsum(sizes) - sizes
    opens = np.maximum(0, starts - int(sizes[: FIRST_SHARDS - 1].sum()))
    window = max(1.0, float(shard_rows.mean()) * WINDOW_SHARDS)
    places = np.repeat(opens, sizes) + random.random(int(sizes.sum())) * window
    firsts = (np.cumsum(shard_rows) - shard_rows)[shards]  # row numbers, in the order of the shards
    rows = np.arange(len(places)) + np.repeat(firsts - starts, sizes)
    order = rows[np.argsort(places, kind="stable")]
    return Streamed(rows=order, shards=shards)


def streamed_batches(
    order: Rows, lengths: Rows, global_batch: int, *, seed: int, bucketed: bool
) -> list[Rows]:
    """Cut a streamed epoch into global batches: every row exactly once.

    Args:
        order: rows in the order of use.
        lengths: tokens of each row.
        global_batch: rows of one optimiser step, over all ranks.
        seed: see `streamed_epoch`.
        bucketed: rows of similar length share a batch, among `BUCKET_BATCHES` batches at a time.
    """
    if not bucketed:
        return [order[i : i + global_batch] for i in range(0, len(order), global_batch)]
    random = np.random.default_rng([seed, 0, STREAMED, 1])
    batches: list[Rows] = []
    for first in range(0, len(order), BUCKET_BATCHES * global_batch):
        part = order[first : first + BUCKET_BATCHES * global_batch]
        jitter = random.uniform(1.0, 1.0 + LENGTH_JITTER, size=len(part))
        part = part[np.argsort(lengths[part] * jitter, kind="stable")]
        cut = [part[i : i + global_batch] for i in range(0, len(part), global_batch)]
        batches += [cut[i] for i in random.permutation(len(cut))]
    return batches


def split_by_cost(cost: NDArray[np.float64], ranks: int) -> list[Rows]:
    """Share positions 0..n-1 among ranks so that the dearest share is as cheap as greedy
    longest-first gets it, and no rank is left without work while another has two.

    Returns:
        One array of positions a rank, ascending; empty for ranks beyond the number of positions.
    """
    load = np.zeros(ranks)
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for position in np.argsort(-cost, kind="stable"):
        rank = int(np.argmin(load))
        shares[rank].append(int(position))
        load[rank] += cost[position]
    return [np.array(sorted(share), dtype=np.int64) for share in shares]


def compute_cost(lengths: Rows, width: int) -> NDArray[np.float64]:
    """Relative cost of sequences in an encoder of hidden size `width`: the linear layers' 24 h^2
    operations a token and layer against attention's 4 h s (Korthikanti et al., 2205.05198)."""
    return lengths * (1.0 + lengths / (6.0 * width))


def pack(lengths: Rows, token_budget: int) -> list[Rows]:
    """First-fit-decreasing: bins of at most `token_budget` tokens; a longer sequence gets its own.

    Returns:
        Positions of each bin, ascending, bins in order of creation.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for position in np.argsort(-lengths, kind="stable"):
        size = int(lengths[position])
        index = next((i for i, free in enumerate(room) if size <= free), len(bins))
        if index == len(bins):
            bins.append([])
            room.append(token_budget)
        bins[index].append(int(position))
        room[index] -= size
    return [np.array(sorted(b), dtype=np.int64) for b in bins]


def micro_batches(
    lengths: Rows, *, rows: int, token_budget: int | None, packed: bool
) -> list[Rows]:
    """Cut one rank's share of a global batch into forwards.

    Args:
        lengths: tokens of each unit of the share.
        rows: most units in one forward.
        token_budget: most tokens in one forward, padding included unless packed; None for no limit.
        packed: sequences are laid end to end instead of padded.
    """
    if packed and token_budget:
        return pack(lengths, token_budget)
    order = np.argsort(-lengths, kind="stable")  # longest first: memory peaks at once, not later
    batches, start = [], 0
    while start < len(order):
        fit = rows if not token_budget else max(1, token_budget // int(lengths[order[start]]))
        batches.append(order[start : start + min(rows, fit)])
        start += len(batches[-1])
    return batches


def padding_ratio(lengths: Rows, batches: Sequence[Rows]) -> float:
    """Processed over real tokens when every batch is padded to its longest row."""
    processed = sum(len(b) * int(lengths[b].max()) for b in batches)
    return processed / max(int(lengths.sum()), 1)
