"""Compiled steps: few graphs over many batches, and the numbers of the model itself."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from components.lib import attention
from components.lib.dataset import Split
from components.lib.tasks import make_task
from components.train.compiled import MULTIPLE, compiled, fixed_shapes, size_step
from components.train.pooling import pool_packed
from tests.unit.test_train_packing import build


def split_of(rows: int, label: str) -> Split:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 60, rows).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    count = total if label == "labels" else rows
    columns = {
        label: random.integers(0, 3, count).astype(np.int32),
        "token_type_ids": np.zeros(total, np.int8),
    }
    ids = random.integers(4, 100, total).astype(np.int32)
    return Split(
        name="train", rows=rows, offsets=offsets, input_ids=ids, lengths=lengths, columns=columns
    )


@pytest.mark.parametrize(
    ("task_name", "label"), [("token-classification", "labels"), ("text-classification", "label")]
)
def test_few_graphs_and_the_same_gradients(task_name, label):
    torch._dynamo.reset()
    split = split_of(96, label)
    task = make_task(task_name, ["a", "b", "c"], pad_token_id=1)
    task.multiple = size_step(split.lengths, 16)
    batches = [
        task.collate(split, rows, packed=True)
        for rows in np.random.default_rng(1).permutation(96).reshape(6, 16)
    ]
    model = build("bert", task_name, attention.PACKED)
    if task_name == "text-classification":
        pool_packed(model)
    counter = CompileCounterWithBackend("aot_eager")
    fast = compiled(model, packed=True, backend=counter)
    for batch in batches:
        model.zero_grad()
        logits = model(**batch.inputs).logits[: len(batch.targets)]
        task.loss(logits, batch).backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        ours = fast(**fixed_shapes(batch.inputs)).logits[: len(batch.targets)]
        task.loss(ours, batch).backward()
        assert (ours - logits).abs().max() <= 1e-5
        for name, parameter in model.named_parameters():
            if name in expected:
                assert (parameter.grad - expected[name]).abs().max() <= 1e-4, name
    sizes = {batch.padded_tokens for batch in batches}
    lengths = {batch.inputs["max_length_q"] for batch in batches}
    assert len(lengths) > 1  # without fixed_shapes each would be a graph
    assert counter.frame_count == len(sizes)
    assert len(sizes) < len(batches)


def test_shapes_are_multiples_and_hold_every_sequence():
    bounds = torch.tensor([0, 5, 12, 20], dtype=torch.int32)
    inputs = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 8,
              "max_length_k": 8, "input_ids": torch.zeros(1, 20)}  # fmt: skip
    fixed = fixed_shapes(inputs)
    assert (len(fixed["cu_seq_lens_q"]) - 1) % MULTIPLE == 0
    assert fixed["cu_seq_lens_q"][:4].tolist() == bounds.tolist()
    assert set(fixed["cu_seq_lens_q"][4:].tolist()) == {20}
    assert fixed["max_length_q"] == MULTIPLE
    assert fixed["input_ids"] is inputs["input_ids"]
    padded = {"input_ids": torch.zeros(2, 20)}
    assert fixed_shapes(padded) is padded


def test_step_between_sizes_follows_the_data():
    short, long = np.full(100, 12), np.full(100, 400)
    assert size_step(short, 32) == MULTIPLE
    assert size_step(long, 32) == 1600
    assert size_step(long[:4], 32) % MULTIPLE == 0
