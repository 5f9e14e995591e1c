"""Packed sequences see only themselves, in every family of models, forward and backward."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from components.lib import attention
from components.lib.dataset import Split
from components.lib.dropout import DropoutBits
from components.lib.tasks import make_task
from components.train.pooling import pool_packed

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "vocab_size": 100, "pad_token_id": 1,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
FAMILIES = {
    "bert": {},
    "roberta": {"max_position_embeddings": 70},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "dropout": 0.0,
                   "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2,
                   "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "llama": {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip
NO_TYPES = ("distilbert", "modernbert", "llama", "roberta")


def split_of(task: str, family: str) -> Split:
    random = np.random.default_rng(0)
    lengths = np.array([5, 17, 9, 3, 12], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    columns = {"label": random.integers(0, 3, 5).astype(np.int32)}
    if task != "text-classification":
        columns = {"labels": random.integers(0, 3, total).astype(np.int32)}
        columns["labels"][offsets[:-1]] = -100
    if family not in NO_TYPES:
        columns["token_type_ids"] = random.integers(0, 2, total).astype(np.int8)
    ids = random.integers(4, 100, total).astype(np.int32)
    return Split(
        name="train", rows=5, offsets=offsets, input_ids=ids, lengths=lengths, columns=columns
    )


def build(family: str, task: str, implementation: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], "num_labels": 3})
    auto = {
        "token-classification": AutoModelForTokenClassification,
        "text-classification": AutoModelForSequenceClassification,
        "causal-lm": AutoModelForCausalLM,
    }[task]
    return auto.from_config(config, attn_implementation=implementation).eval()


def gradients(model, task, batch):
    logits = model(**batch.inputs).logits
    loss = task.loss(logits, batch)
    loss.backward()
    flat = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), loss.item(), flat


CASES = [(f, "token-classification") for f in ("bert", "roberta", "distilbert", "modernbert")]
CASES += [(f, "text-classification") for f in ("bert", "roberta", "distilbert", "modernbert")]
CASES += [("llama", "causal-lm")]


@pytest.mark.parametrize(("family", "task_name"), CASES)
def test_packed_equals_padded(family, task_name):
    split = split_of(task_name, family)
    task = make_task(task_name, ["a", "b", "c"], pad_token_id=1)
    task.position_offset = 2 if family == "roberta" else 0
    rows = np.array([3, 0, 4, 1, 2])
    padded = task.collate(split, rows, packed=False)
    packed = task.collate(split, rows, packed=True)
    assert packed.padded_tokens == packed.tokens == split.tokens
    plain = build(family, task_name, "sdpa")
    logits, loss, reference = gradients(plain, task, padded)
    model = build(family, task_name, attention.PACKED)
    if task_name == "text-classification":
        pool_packed(model)
    packed_logits, packed_loss, ours = gradients(model, task, packed)
    if task_name != "text-classification":
        logits = logits[padded.inputs["attention_mask"].bool()][None]
    assert packed_logits.shape == logits.shape
    assert (packed_logits - logits).abs().max() <= 1e-5
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert reference.keys() == ours.keys()
    for name, gradient in reference.items():
        assert (ours[name] - gradient).abs().max() <= 1e-5, name


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padded_implementation_equals_sdpa(family):
    """Ours for padded batches, which the CPU path uses."""
    task_name = "causal-lm" if family == "llama" else "token-classification"
    split = split_of(task_name, family)
    task = make_task(task_name, ["a", "b", "c"], pad_token_id=1)
    batch = task.collate(split, np.arange(5), packed=False)
    inside = batch.inputs["attention_mask"].bool()
    _, loss, reference = gradients(build(family, task_name, "sdpa"), task, batch)
    _, our_loss, ours = gradients(build(family, task_name, attention.PADDED), task, batch)
    assert inside.sum() < inside.numel()
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert max((ours[n] - g).abs().max().item() for n, g in reference.items()) <= 1e-5


def test_planted_leak_is_caught():
    """The comparison above fails when boundaries are wrong by one sequence."""
    split = split_of("token-classification", "bert")
    task = make_task("token-classification", ["a", "b", "c"], pad_token_id=1)
    batch = task.collate(split, np.arange(5), packed=True)
    model = build("bert", "token-classification", attention.PACKED)
    right = model(**batch.inputs).logits
    leaky = dict(batch.inputs)
    bounds = leaky["cu_seq_lens_q"]
    leaky["cu_seq_lens_q"] = torch.cat([bounds[:1], bounds[2:]])  # the first two are one
    leaky["max_length_q"] = int(leaky["cu_seq_lens_q"].diff().max())
    difference = (model(**leaky).logits - right).abs()
    assert difference[0, : int(bounds[2])].max() > 1e-4
    assert difference[0, int(bounds[2]) :].max() < 1e-6


def test_packed_attention_without_boundaries_is_refused():
    model = build("bert", "token-classification", attention.PACKED)
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        model(input_ids=torch.ones(2, 5, dtype=torch.long))


def test_bit_dropout_drops_the_right_share_and_keeps_the_mean():
    bits = DropoutBits()
    bits.seed(0, 1, 2)
    mask = bits.mask(torch.Size((1000, 1000)), 0.1, torch.float32)
    assert (mask == 0).float().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert mask.mean().item() == pytest.approx(1.0, abs=2e-3)
    bits.seed(0, 1, 2)
    assert torch.equal(mask, bits.mask(torch.Size((1000, 1000)), 0.1, torch.float32))
    bits.seed(0, 1, 3)
    assert not torch.equal(mask, bits.mask(torch.Size((1000, 1000)), 0.1, torch.float32))
