"""Batches: every row once, the same order for any number of ranks, little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.lib import batching

lengths_strategy = st.lists(st.integers(1, 128), min_size=1, max_size=300).map(np.array)


@settings(max_examples=50, deadline=None)
@given(
    lengths=lengths_strategy, size=st.integers(1, 40), epoch=st.integers(0, 5), how=st.booleans()
)
def test_epoch_has_every_unit_once(lengths, size, epoch, how):
    batches = batching.epoch_batches(lengths, size, seed=3, epoch=epoch, bucketed=how)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sum(len(b) == size for b in batches) >= len(lengths) // size
    again = batching.epoch_batches(lengths, size, seed=3, epoch=epoch, bucketed=how)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_and_seeds_differ():
    lengths = np.random.default_rng(0).integers(5, 60, 500)
    first = batching.epoch_batches(lengths, 32, seed=0, epoch=0)
    for seed, epoch in ((0, 1), (1, 0)):
        other = batching.epoch_batches(lengths, 32, seed=seed, epoch=epoch)
        assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in other}


def test_buckets_pad_little_and_random_batches_much():
    lengths = np.random.default_rng(0).gamma(3.0, 10.0, 3400).astype(int) + 3
    bucketed = batching.epoch_batches(lengths, 32, seed=0, epoch=0)
    random = batching.epoch_batches(lengths, 32, seed=0, epoch=0, bucketed=False)
    assert batching.padding_ratio(lengths, bucketed) < 1.08
    assert batching.padding_ratio(lengths, random) > 1.7


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_strategy, budget=st.integers(16, 512))
def test_packs_respect_the_budget(lengths, budget):
    bins = batching.pack(lengths, budget)
    assert sorted(np.concatenate(bins).tolist()) == list(range(len(lengths)))
    for b in bins:
        assert lengths[b].sum() <= budget or len(b) == 1
    # First-fit-decreasing needs at most 11/9 of the optimum + 1 (Johnson 1973).
    if lengths.max() <= budget:
        assert len(bins) <= 11 / 9 * np.ceil(lengths.sum() / budget) * 2 + 1


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_are_balanced_by_cost(ranks):
    lengths = np.random.default_rng(1).gamma(3.0, 10.0, 32 * ranks).astype(int) + 3
    cost = batching.compute_cost(lengths, 384)
    shares = batching.split_by_cost(cost, ranks)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    loads = [cost[s].sum() for s in shares]
    assert max(loads) / np.mean(loads) < 1.02


def test_more_ranks_than_rows_leaves_some_empty():
    shares = batching.split_by_cost(np.ones(2), 4)
    assert [len(s) for s in shares] == [1, 1, 0, 0]


def test_micro_batches_keep_to_rows_and_padded_tokens():
    lengths = np.array([100, 10, 10, 10, 50, 50])
    parts = batching.micro_batches(lengths, rows=4, token_budget=120, packed=False)
    assert sorted(np.concatenate(parts).tolist()) == list(range(6))
    for part in parts:
        assert len(part) <= 4
        assert len(part) * lengths[part].max() <= 120


def test_groups_stay_together():
    units = batching.grouped_rows(np.array([7, 3, 7, 3, 9]), np.array([4, 5, 6, 7, 8]))
    assert [sorted(units.of(np.array([u])).tolist()) for u in range(3)] == [[1, 3], [0, 2], [4]]
    assert units.lengths.tolist() == [7, 6, 8]
