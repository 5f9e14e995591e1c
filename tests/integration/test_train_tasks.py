"""Every task and method learns its toy data and leaves a model that loads, in this process."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from components.contract import DataError, SpecError, StepError
from components.lib import modelling
from components.train.ending import finish
from components.train.loop import train
from components.train.search import search_learning_rate
from components.train.setup import load_data
from components.train.world import join
from tests.train_support import TINY, make_dataset, make_job, small_config


@pytest.fixture(scope="module")
def world():
    world = join(threads=1)
    yield world
    dist.destroy_process_group()


def run(job, world):
    done = train(job, world, load_data(job))
    finish(job, world, done)
    labels = json.loads((Path(job.output) / "labels.json").read_text())
    loaded = modelling.load_model(Path(job.output), job.task)
    if job.task in ("token-classification", "text-classification", "image-classification"):
        assert loaded.config.num_labels == len(labels)
    return done, loaded


CASES = [
    ("token-classification", {}, 0.8),
    ("text-classification", {}, 0.95),
    ("text-pair-ranking", {}, 0.95),
    ("text-pair-ranking", {"listwise": True, "global_batch": 2}, 0.95),
    ("causal-lm", {"learning_rate": 1e-2}, -4.0),
    ("image-classification", {}, 0.95),
]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("task", "fields", "least", "packing"),
    [(*case, "bucket") for case in CASES]
    + [(*case, "packed") for case in CASES if case[0] != "image-classification"],
)
def test_task_learns(task, fields, least, packing, precision, world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", task, longest=12)
    model = {"causal-lm": "llama", "image-classification": "vit"}.get(task)
    reference = small_config(tmp_path / "config", model) if model else TINY
    job = make_job(
        tmp_path, dataset, task,
        **{"model": reference, "epochs": 8, "packing": packing, "precision": precision, **fields},
    )  # fmt: skip
    done, _ = run(job, world)
    assert done.history.best_metric >= least
    assert done.history.losses[-1] < done.history.losses[0]


def tiny_folder(tmp_path: Path) -> Path:
    """A "pretrained" model: tiny, random, saved."""
    torch.manual_seed(0)
    folder = tmp_path / "pretrained"
    folder.mkdir()
    model = modelling.new_model(TINY, "token-classification", ["x", "y"])
    modelling.save_model(
        model, folder, tokenizer=None, info={"labels": ["x", "y"], "task": "token-classification"}
    )
    return folder


@pytest.mark.parametrize("method", ["lora", "adalora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_are_trained_alone_and_merged(method, precision, world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    folder = tiny_folder(tmp_path)
    job = make_job(
        tmp_path, dataset, model={"id": str(folder)}, method=method, lora={"rank": 4},
        learning_rate=1e-2, epochs=4, precision=precision,
    )  # fmt: skip
    done, loaded = run(job, world)
    assert done.history.losses[-1] < done.history.losses[0]
    before = modelling.load_model(folder, "token-classification").state_dict()
    after = loaded.state_dict()
    table, query = (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
    )
    assert torch.equal(before[table], after[table])
    assert not torch.equal(before[query], after[query])
    assert not [name for name in after if "lora" in name]


@pytest.mark.parametrize(
    ("family", "task"), [("deberta-v2", "token-classification"), ("llama", "text-classification")]
)
def test_model_that_cannot_pack_is_padded_and_says_so(family, task, world, tmp_path, capsys):
    dataset = make_dataset(tmp_path / "dataset", task, rows=32)
    reference = small_config(tmp_path / "config", family)
    job = make_job(tmp_path, dataset, task, model=reference, epochs=1)
    done, _ = run(job, world)
    assert not done.data.packed
    assert "batches are padded, since this model cannot pack" in capsys.readouterr().out
    with pytest.raises(SpecError, match=r"training\.packing"):
        run(dataclasses.replace(job, packing="packed"), world)


def test_adapter_target_that_does_not_exist(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    job = make_job(
        tmp_path, dataset, model={"id": str(tiny_folder(tmp_path))}, method="lora",
        lora={"targets": ["qkv_proj"]},
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"no layer 'qkv_proj'.*query"):
        run(job, world)


def test_search_takes_the_best_of_n_and_remembers(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    job = make_job(tmp_path, dataset, epochs=4, learning_rate=None, search=3)
    data = load_data(job)
    chosen = search_learning_rate(job, world, data, train)
    kept = json.loads((Path(job.checkpoints) / "search.json").read_text())
    best = max(kept["tried"], key=lambda t: t["metric"])
    assert chosen.learning_rate == kept["rate"]
    assert best["metric"] == max(t["metric"] for t in kept["tried"])
    assert len(kept["tried"]) == 3

    def refuse(*_):
        raise AssertionError("searched again")

    assert search_learning_rate(job, world, data, refuse).learning_rate == kept["rate"]


def test_early_stopping_keeps_the_best_weights(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "text-classification", rows=32)
    job = make_job(tmp_path, dataset, "text-classification", epochs=40, early_stopping=2)
    done, _ = run(job, world)
    curve = done.history.curve
    assert len(curve) < 40
    values = [point["validation"]["accuracy"] for point in curve]
    assert done.history.best_metric == max(values)
    assert values.index(max(values)) == len(values) - 3


def test_views_are_seen_in_training_and_are_the_same_in_each_run(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "image-classification")
    reference = small_config(tmp_path / "config", "vit")

    def losses(name, augment):
        job = make_job(
            tmp_path / name, dataset, "image-classification", model=reference, stop_after_steps=3,
            augment=augment,
        )  # fmt: skip
        return train(job, world, load_data(job)).history.losses

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    assert losses("a", {}) == losses("b", {}) != losses("c", None)


def test_class_weights_change_the_loss(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    plain = make_job(tmp_path / "a", dataset, stop_after_steps=1, dropout=0.0)
    weighted = make_job(
        tmp_path / "b", dataset, stop_after_steps=1, dropout=0.0, class_weights="balanced"
    )
    losses = [train(job, world, load_data(job)).history.losses[0] for job in (plain, weighted)]
    assert losses[0] != losses[1]


def test_activation_checkpointing_changes_nothing(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    losses = []
    for flag in (False, True):
        job = make_job(
            tmp_path / str(flag), dataset, dropout=0.0, epochs=1, activation_checkpointing=flag
        )
        losses.append(train(job, world, load_data(job)).history.losses)
    assert np.abs(np.array(losses[0]) - losses[1]).max() <= 1e-6


def test_adafactor_learns_and_resumes(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    fields = {"optimizer": "adafactor", "learning_rate": 1e-2, "epochs": 4}
    done, _ = run(make_job(tmp_path, dataset, **fields), world)
    assert done.history.losses[-1] < 0.8 * done.history.losses[0]


def test_not_a_number_names_step_and_batch(world, tmp_path):
    folder = tiny_folder(tmp_path)
    model = modelling.load_model(folder, "token-classification", ["O", "B-LOC", "I-LOC"])
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    with pytest.raises(StepError, match=r"loss is nan at step 0 \(epoch 0, batch 0, rows \["):
        run(make_job(tmp_path, dataset, model={"id": str(folder)}), world)
    assert not Path(tmp_path / "model").exists()


def test_longer_than_the_model_allows_is_refused(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification", longest=700)
    with pytest.raises(DataError, match="the model has 512 positions"):
        run(make_job(tmp_path, dataset), world)


def test_unknown_scratch_model_is_refused(world, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    with pytest.raises(SpecError, match="neither a folder nor a known name"):
        run(make_job(tmp_path, dataset, model={"config": "bert-giant"}), world)
