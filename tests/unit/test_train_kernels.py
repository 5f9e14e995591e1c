"""What makes a CPU step fast computes what the plain way computes: attention by groups, linear
layers on oneDNN, packed rows filled up to few shapes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from components.lib import attention, grouped, linear
from components.lib.dropout import DropoutBits
from components.lib.tasks import make_task
from tests.unit.test_train_packing import build, gradients, split_of


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=70).map(np.array))
def test_groups_hold_every_sequence_once_in_few_shapes(lengths):
    groups = grouped.cut(lengths)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert all(len(g).bit_count() == 1 for g in groups)
    pairs = sum(len(g) * grouped.rounded(int(lengths[g].max())) ** 2 for g in groups)
    together = len(lengths) * grouped.rounded(int(lengths.max())) ** 2
    extra = grouped.GROUP_COST_PAIRS * len(lengths).bit_count()
    assert pairs + grouped.GROUP_COST_PAIRS * len(groups) <= together + extra


def attend(query, key, value, bounds, **options):
    """Through transformers' interface, as a packed layer calls it."""
    module = torch.nn.Module()
    module.dropout_bits = options.pop("bits", None)
    longest = int(np.diff(bounds).max())
    output, _ = attention.attention(
        module, query, key, value, None, cu_seq_lens_q=torch.tensor(bounds, dtype=torch.int32),
        max_length_q=longest, **options,
    )  # fmt: skip
    return output[0]


@pytest.mark.parametrize(
    ("key_heads", "causal", "window"), [(4, False, None), (2, True, None), (4, False, 5)]
)
def test_grouped_attention_and_its_gradients_equal_torchs(key_heads, causal, window):
    torch.manual_seed(0)
    bounds = [0, 5, 40, 41, 54, 83]
    tensors = [torch.randn(1, h, 83, 8, requires_grad=True) for h in (4, key_heads, key_heads)]
    ours = attend(*tensors, bounds, is_causal=causal, sliding_window=window)
    weight = torch.randn_like(ours)
    our_gradients = torch.autograd.grad((ours * weight).sum(), tensors)
    parts = []
    for start, stop in itertools.pairwise(bounds):
        q, k, v = (x[:, :, start:stop].repeat_interleave(4 // x.shape[1], 1) for x in tensors)
        place = torch.arange(stop - start)
        seen = torch.ones(stop - start, stop - start, dtype=torch.bool)
        seen &= (place[:, None] >= place) if causal else seen
        seen &= ((place[:, None] - place).abs() < window) if window else seen
        parts.append(functional.scaled_dot_product_attention(q, k, v, seen)[0].transpose(0, 1))
    theirs = torch.cat(parts)
    their_gradients = torch.autograd.grad((theirs * weight).sum(), tensors)
    assert (ours - theirs).abs().max() <= 1e-5
    for mine, reference in zip(our_gradients, their_gradients, strict=True):
        assert (mine - reference).abs().max() <= 1e-5


def test_dropout_on_weights_has_the_right_gradient():
    """With the same bits each time, the gradient is that of the function computed."""
    torch.manual_seed(0)
    bits = DropoutBits()
    query, key, value = (torch.randn(1, 2, 11, 4, dtype=torch.float64) for _ in range(3))

    def function(q, k, v):
        bits.seed(1, 2, 3)
        return attend(q, k, v, [0, 3, 11], dropout=0.4, bits=bits)

    plain = attend(query, key, value, [0, 3, 11])
    assert (function(query, key, value) - plain).abs().max() > 0.1
    inputs = tuple(x.requires_grad_() for x in (query, key, value))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="without oneDNN")
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(64, 192, True), (192, 64, False)])
def test_onednn_linear_and_its_gradients_equal_torchs(inputs, outputs, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(2, 37, inputs, requires_grad=True)
    theirs = layer(x)
    weight = torch.randn_like(theirs)
    wanted = torch.autograd.grad((theirs * weight).sum(), [x, *layer.parameters()])
    layer.__class__ = linear.FastLinear
    ours = layer(x)
    found = torch.autograd.grad((ours * weight).sum(), [x, *layer.parameters()])
    assert (ours - theirs).abs().max() <= 1e-5
    for mine, reference in zip(found, wanted, strict=True):
        assert (mine - reference).abs().max() <= 1e-4 * reference.abs().max()


def test_only_large_fp32_layers_change(monkeypatch):
    monkeypatch.setattr(linear, "worthwhile", lambda: True)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3))
    names = list(model.state_dict())
    linear.use_fast_linear(model)
    assert type(model[0]) is linear.FastLinear
    assert type(model[1]) is torch.nn.Linear
    assert list(model.state_dict()) == names
    low = model.to(torch.bfloat16)(torch.ones(2, 64, dtype=torch.bfloat16))
    assert low.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("family", "task_name"), [("bert", "token-classification"), ("llama", "causal-lm")]
)
def test_filling_up_a_packed_row_changes_nothing(family, task_name):
    split = split_of(task_name, family)
    rows = np.array([2, 4, 0, 1])
    results = []
    for multiple in (1, 16):
        task = make_task(task_name, ["a", "b", "c"], pad_token_id=1)
        task.multiple = multiple
        batch = task.collate(split, rows, packed=True)
        assert batch.padded_tokens % multiple == 0
        model = build(family, task_name, attention.PACKED)
        logits, loss, found = gradients(model, task, batch)
        outputs = task.outputs(split)
        task.record(outputs, split, logits, batch)
        results.append((logits[:, : batch.tokens], loss, found, outputs))
    plain, filled = results
    assert (plain[0] - filled[0]).abs().max() <= 1e-6
    assert filled[1] == pytest.approx(plain[1], rel=1e-6)
    assert all((plain[2][n] - filled[2][n]).abs().max() <= 1e-5 for n in plain[2])
    assert filled[3] == pytest.approx(plain[3], rel=1e-5)
