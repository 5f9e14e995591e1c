"""What is left of a cut product takes over for what has gone, and channels are evened out before
rounding as the exporter does it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from components.compress import evened, mend
from components.lib import fake_quant, pruned
from components.lib.modelling import new_model

HEADS = [np.array([0]), np.array([0, 1])]
NEURONS = [np.arange(0, 512, 2), np.arange(512)]


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return new_model({"config": "bert-tiny"}, "text-classification", ["a", "b"]).eval()


def batches(count: int = 4) -> list[SimpleNamespace]:
    random = torch.Generator().manual_seed(1)
    mask = torch.ones(8, 24, dtype=torch.int64)
    mask[::2, 12:] = 0
    return [
        SimpleNamespace(inputs={
            "input_ids": torch.randint(1000, 20000, mask.shape, generator=random),
            "attention_mask": mask,
        })
        for _ in range(count)
    ]  # fmt: skip


def cut(model: torch.nn.Module) -> torch.nn.Module:
    import copy

    made = copy.deepcopy(model)
    pruned.shrink(made, HEADS, NEURONS)
    return made


@torch.no_grad()
def error(made: torch.nn.Module, model: torch.nn.Module, rows: list[SimpleNamespace]) -> float:
    """Mean squared change of the first layer's output, real tokens only."""
    total = 0.0
    for batch in rows:
        states = [
            m(**batch.inputs, output_hidden_states=True).hidden_states[1] for m in (made, model)
        ]
        real = batch.inputs["attention_mask"].bool()
        total += float((states[0] - states[1])[real].square().mean())
    return total / len(rows)


def test_what_is_left_takes_over() -> None:
    model, seen, unseen = tiny(), batches(8), batches(10)[8:]
    plain, mended = cut(model), cut(model)
    mend.mend(mended, model, [0, 1], HEADS, NEURONS, mend.moments_of(model, seen))
    assert error(mended, model, unseen) < 0.7 * error(plain, model, unseen)
    # A layer that lost nothing stays as it is.
    last, before = pruned.layers_of(mended)[1], pruned.layers_of(model)[1]
    assert torch.equal(last.output.dense.weight, before.output.dense.weight)
    assert torch.equal(last.attention.output.dense.bias, before.attention.output.dense.bias)


def test_inputs_that_others_determine_are_replaced_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd neurons say twice what the even ones say, and 3: nothing is lost without them."""
    monkeypatch.setattr(mend, "RIDGE", 1e-6)
    torch.manual_seed(0)
    whole = torch.nn.Linear(16, 5)
    even = torch.randn(200, 8) + 1.0
    values = torch.stack([even, 2 * even + 3], dim=2).flatten(1)
    stays = torch.arange(0, 16, 2)
    made = torch.nn.Linear(8, 5)
    made.load_state_dict({"weight": whole.weight[:, stays], "bias": whole.bias})
    moments = mend.Moments(total=torch.zeros(16), square=torch.zeros(16, 16))
    moments.add(values)
    with torch.no_grad():
        mend._fit(made, whole, stays, moments)
        torch.testing.assert_close(made(values[:, stays]), whole(values), atol=2e-3, rtol=1e-3)


def test_channels_with_outliers_are_evened_and_round_less() -> None:
    model = tiny()
    for layer in pruned.layers_of(model):
        value, output = layer.attention.self.value, layer.attention.output.dense
        value.weight.data[0] *= 500  # undone by what reads it
        output.weight.data[:, 0] /= 500
    rows = batches()
    factors = evened.factors_of(model, rows)
    assert pruned.layers_of(model)[0].attention.output.dense in factors
    with torch.no_grad():
        exact = model(**rows[0].inputs).logits
        errors = []
        for own in (None, factors):
            with fake_quant.eight_bit_products(pruned.layers_of(model), own):
                errors.append(float((model(**rows[0].inputs).logits - exact).abs().max()))
    assert errors[1] < 0.5 * errors[0]


def test_products_with_one_input_are_divided_alike() -> None:
    groups = evened.products_of(tiny())
    assert [len(group) for group in groups] == [3, 1, 1, 1] * 2
    linears = [m for m in pruned.layers_of(tiny()).modules() if type(m) is torch.nn.Linear]
    assert sum(map(len, groups)) == len(linears)


def test_factors_take_part_in_training() -> None:
    model, rows = tiny(), batches(1)
    layers = pruned.layers_of(model)
    factors = {group[0]: torch.full((group[0].in_features,), 2.0)
               for group in evened.products_of(model)}  # fmt: skip
    with fake_quant.eight_bit_products(layers, factors):
        model(**rows[0].inputs).logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())
    assert model.training is False
