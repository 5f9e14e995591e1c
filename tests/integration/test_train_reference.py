"""The loop's losses are those of the same training written plainly with torch and transformers:
padded batches, the model's own loss, its own attention, every embedding row."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from components.lib import batching
from components.train.loop import train
from components.train.setup import load_data, prepare, used_tokens
from components.train.world import join
from tests.train_support import make_dataset, make_job

MODELS = {
    "token-classification": AutoModelForTokenClassification,
    "text-classification": AutoModelForSequenceClassification,
}


@pytest.fixture
def world():
    world = join(threads=1)
    yield world
    dist.destroy_process_group()


def plain_losses(job, world):
    """Linear warm-up and decay, AdamW, clipping at 1, mean of the loss over a batch's labels."""
    initial, _, _ = prepare(job, world, load_data(job))
    data = load_data(job)
    model = MODELS[job.task].from_config(initial.model.config, attn_implementation="sdpa")
    weights = dict(initial.model.state_dict())
    name = "bert.embeddings.word_embeddings.weight"
    table = model.state_dict()[name].clone()
    table[torch.from_numpy(used_tokens(data))] = weights[name]
    model.load_state_dict({**weights, name: table})
    model.train()
    batches = [
        batch
        for epoch in range(job.epochs)
        for batch in batching.epoch_batches(
            data.train.lengths, job.global_batch, seed=job.seed, epoch=epoch, bucketed=False
        )
    ]
    warmup = int(job.warmup_fraction * len(batches))
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "embeddings" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embeddings" in n]
    decay = [
        {"params": matrices, "weight_decay": job.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(decay, lr=job.learning_rate)
    factors = [
        (n + 1) / warmup if n < warmup else (len(batches) - n) / (len(batches) - warmup)
        for n in range(len(batches))
    ]
    losses = []
    for factor, rows in zip(factors, batches, strict=True):
        batch = data.task.collate(data.train, rows, packed=False)
        loss = model(**batch.inputs, labels=batch.targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = job.learning_rate * factor
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("task", sorted(MODELS))
def test_losses_are_those_of_a_plain_loop(task, world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", task, rows=90)
    job = make_job(tmp_path, dataset, task, epochs=4, dropout=0.0, weight_decay=0.1)
    done = train(job, world, load_data(job))
    assert done.data.packed
    plain = plain_losses(job, world)
    assert len(plain) == 24
    assert plain[-1] < 0.8 * plain[0]
    assert np.abs(np.array(done.history.losses) - plain).max() < 1e-5
