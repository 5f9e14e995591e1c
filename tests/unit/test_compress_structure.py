"""Which structures go, which layer teaches which, and what a variant's name means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from components.compress import importance, latency, structure
from components.compress.latency import Table
from components.compress.repair import constant, linear_decay
from components.compress.variant import Cut, parse
from components.contract import InfeasiblePlanError
from components.lib import distil
from components.lib.modelling import new_model

FLAT = Table(
    heads=((1, 1.0), (12, 12.0)), neurons=((64, 1.0), (1536, 24.0)), measured=False, setting="test"
)
PRICES = structure.Prices(head=49_000, neuron=770, rest=2_000)


def scores(seed: int = 0, layers: int = 6) -> importance.Importance:
    random = np.random.default_rng(seed)
    return importance.Importance(
        heads=[random.exponential(size=12) for _ in range(layers)],
        neurons=[random.exponential(size=1536) / 50 for _ in range(layers)],
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 0.9), st.floats(0.0, 1.0))
def test_the_goal_is_met_closely_and_the_best_stay(seed: int, share: float, weight: float) -> None:
    found = scores(seed)
    whole = 6 * (PRICES.rest + 12 * PRICES.head + 1536 * PRICES.neuron)
    goal = structure.Goal(parameters=share * whole, latency_weight=weight)
    choice = structure.choose(found, PRICES, FLAT, goal)
    left = PRICES.total(choice.sizes)
    # One head, or one group of neurons, may go too many.
    assert goal.parameters is not None
    assert goal.parameters - max(PRICES.head, 32 * PRICES.neuron) <= left <= goal.parameters
    kept_and_scores = zip(choice.heads + choice.neurons, found.heads + found.neurons, strict=True)
    for kept, own in kept_and_scores:
        gone = np.setdiff1d(np.arange(len(own)), kept)
        assert len(kept) >= 1
        assert not len(gone) or own[kept].min() >= own[gone].max()


def test_what_costs_time_goes_first_when_time_counts() -> None:
    slow_heads = Table(
        heads=((1, 10.0), (12, 120.0)), neurons=((64, 0.1), (1536, 2.4)), measured=False, setting=""
    )
    limit = 0.6 * 6 * (PRICES.rest + 12 * PRICES.head + 1536 * PRICES.neuron)
    kept = [
        sum(s.heads for s in structure.choose(scores(), PRICES, slow_heads, goal).sizes)
        for goal in (
            structure.Goal(parameters=limit, latency_weight=0.0),
            structure.Goal(parameters=limit, latency_weight=1.0),
        )
    ]
    assert kept[1] < kept[0]


def test_a_wanted_latency_is_reached() -> None:
    before = FLAT.of_layers([structure.Sizes(heads=12, neurons=1536)] * 6)
    choice = structure.choose(scores(), PRICES, FLAT, structure.Goal(latency_ms=before / 2))
    assert before / 2 * 0.95 < FLAT.of_layers(choice.sizes) <= before / 2


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(InfeasiblePlanError, match="can't go below"):
        structure.choose(scores(), PRICES, FLAT, structure.Goal(parameters=1000.0))


@pytest.mark.parametrize("students", [1, 2, 3, 4])
def test_layers_are_matched_as_an_exhaustive_search_would(students: int) -> None:
    for seed in range(20):
        table = np.random.default_rng(seed).random((students, 5))
        found = distil.match_layers(table)
        possible = ((*rising, 4) for rising in itertools.combinations(range(4), students - 1))
        best = min(possible, key=lambda way: sum(table[s, t] for s, t in enumerate(way)))
        assert tuple(found) == best


def test_soft_loss_is_the_divergence_and_zero_for_equals() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    assert float(distil.soft_loss_sum(a, a, 2.0)) == pytest.approx(0.0, abs=1e-6)
    p, q = functional.softmax(b, -1), functional.softmax(a, -1)
    by_hand = (p * (p.log() - q.log())).sum()
    assert float(distil.soft_loss_sum(a, b, 1.0)) == pytest.approx(float(by_hand), rel=1e-5)


def test_relations_do_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(4, 24), torch.randn(9, 24)
    teacher = [torch.randn(13, 24) for _ in range(3)]
    both = [torch.cat([first, second])] * 3
    joint = distil.relation_loss(both, teacher, np.array([4, 9]))
    alone = [
        distil.relation_loss([part] * 3, [t[rows] for t in teacher], np.array([len(part)]))
        for part, rows in ((first, slice(0, 4)), (second, slice(4, 13)))
    ]
    assert float(joint) == pytest.approx(float(alone[0] * 4 + alone[1] * 9) / 13, rel=1e-4)


def test_the_table_is_measured_on_the_runtime_and_grows() -> None:
    model = new_model({"config": "bert-tiny"}, "text-classification", ["a", "b"])
    table = latency.measure(model, precision="int8", target="cpu", length=32)
    assert table.measured
    assert 0 < table.of_heads(1) <= table.of_heads(2)
    assert 0 < table.of_neurons(64) < table.of_neurons(512)
    middle = table.of_neurons(300)
    assert table.of_neurons(256) <= middle <= table.of_neurons(384)


def test_a_target_that_is_not_here_is_counted_and_says_so() -> None:
    model = new_model({"config": "bert-tiny"}, "text-classification", ["a", "b"])
    table = latency.measure(model, precision="fp16", target="gpu", length=32)
    assert not table.measured
    assert "not here" in table.setting
    assert table.of_neurons(512) == pytest.approx(2 * table.of_neurons(256))


def test_schedules_end() -> None:
    factors = list(itertools.takewhile(lambda f: f is not None, map(linear_decay(4), range(9))))
    assert factors == [1.0, 0.75, 0.5, 0.25]
    assert [constant(2)(done) for done in range(3)] == [1.0, 1.0, None]
    assert linear_decay(10, deadline=0.0)(0) is None


def test_a_variant_is_read_from_left_to_right() -> None:
    recipe = parse("distill3+prune50+int8", "cpu")
    cuts = (Cut(method="distill", amount=3), Cut(method="prune", amount=50))
    assert recipe.cuts == cuts
    assert recipe.precision == "int8"
    assert parse("prune50", "gpu").precision == "fp16"
    assert parse("fp32", "cpu").cuts == ()
    assert parse("speed3+int8", "cpu").cuts == (Cut(method="speed", amount=3),)
    embed4 = [parse(v, "cpu").embed4 for v in ("int8", "embed4+int8-static", "prune50+int8")]
    assert embed4 == [False, True, True]
