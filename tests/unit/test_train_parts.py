"""The parts of training that need no process: rules, schedules, optimiser tricks, losses, jobs."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.contract import DataError, SpecError
from components.lib import losses, modelling, optim
from components.lib.tasks import balanced_weights
from components.train import report
from components.train.job import FRESH_FACTOR, Job
from components.train.search import candidates
from components.train.setup import load_data
from tests.train_support import make_dataset, make_job

ARGUMENTS = {"task": "token-classification", "model": {"id": "minilm-l6"}}
FOLDERS = {"dataset": "d", "checkpoints": "c", "output": "o"}


def test_learning_rate_rule():
    def rule(**changes):
        base = {"method": "full", "parameters": 110_000_000, "global_batch": 32,
                "from_scratch": False}  # fmt: skip
        return optim.learning_rate_rule(**{**base, **changes})

    assert rule() == pytest.approx(5e-5)
    assert rule(parameters=22_700_000) == pytest.approx(1.1e-4, rel=0.01)
    assert rule(parameters=335_000_000) == pytest.approx(2.9e-5, rel=0.02)
    assert rule(method="lora") == pytest.approx(5e-4)
    assert rule(global_batch=128) == pytest.approx(1e-4)
    assert rule(parameters=10**12) == pytest.approx(5e-6)
    assert rule(from_scratch=True) == pytest.approx(5e-4)


def test_schedule_warms_up_and_ends_near_zero():
    factors = [optim.schedule(s, total=100, warmup=10) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[99] == pytest.approx(1 / 90)
    assert optim.schedule(0, total=10, warmup=0) == 1.0


def test_a_fresh_head_learns_faster_than_what_is_pretrained(tmp_path):
    reference = {"id": "minilm-l6"}
    model = modelling.new_model(reference, "token-classification", ["a", "b"])
    fresh = modelling.fresh_parameters(model, reference)
    assert sorted(fresh) == ["classifier.bias", "classifier.weight"]
    groups = optim.parameter_groups(model, 0.01, fresh=fresh, fresh_factor=FRESH_FACTOR)
    faster = [p for g in groups if g["factor"] == FRESH_FACTOR for p in g["params"]]
    assert {id(p) for p in faster} == {id(p) for p in model.classifier.parameters()}
    decayed = [g for g in groups if g["weight_decay"] == 0.01]
    assert [g["factor"] for g in decayed] == [1.0, FRESH_FACTOR]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    # A head that was saved goes on as it was, one of another size does not.
    model.save_pretrained(tmp_path)
    assert modelling.fresh_parameters(model, {"id": str(tmp_path)}) == []
    wider = modelling.new_model(reference, "token-classification", ["a", "b", "c"])
    assert sorted(modelling.fresh_parameters(wider, {"id": str(tmp_path)})) == sorted(fresh)
    assert modelling.fresh_parameters(model, {"config": "bert-tiny"}) == []


def test_search_candidates_surround_the_rule():
    rates = candidates(1e-4, 5)
    assert rates[2] == pytest.approx(1e-4)
    assert (rates[0], rates[-1]) == (pytest.approx(2.5e-5), pytest.approx(4e-4))


def test_compact_embedding_changes_nothing():
    """Three AdamW steps on the compact table equal three on the full one, bit for bit."""
    results = []
    for compact in (False, True):
        torch.manual_seed(0)
        model = modelling.new_model(
            {"config": "bert-tiny"}, "token-classification", ["a", "b"],
            overrides={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        ).train()  # fmt: skip
        ids = torch.tensor([[0, 500, 7, 29000], [7, 7, 500, 3]])
        mapped = ids
        if compact:
            mapping, full = optim.compact_embedding(model, np.unique(ids.numpy()))
            mapped = torch.from_numpy(mapping)[ids]
        groups = optim.parameter_groups(model, 0.01)
        optimizer = optim.make_optimizer("auto", groups, 1e-3, torch.device("cpu"))
        for _ in range(3):
            model(input_ids=mapped, labels=torch.ones_like(ids)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if compact:
            optim.restore_embedding(model, mapping, full)
        results.append(model.state_dict())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_compute_copy_follows_the_model():
    model = torch.nn.Linear(4, 2)
    copy = optim.ComputeCopy(model, torch.bfloat16)
    copy.replica(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
    copy.replica(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
    copy.collect_gradients()
    assert torch.equal(model.weight.grad, torch.full((2, 4), 2.0))
    assert copy.replica.weight.grad is None
    with torch.no_grad():
        model.weight.fill_(3.0)
    copy.refresh()
    assert torch.equal(copy.replica.weight.float(), model.weight)


def test_class_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 90 + [1] * 9 + [2])
    ours = balanced_weights(np.bincount(labels))
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert ours == pytest.approx(theirs)


def test_weighted_cross_entropy_sums_to_torchs_weighted_mean():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 5, 4), torch.randint(0, 4, (3, 5))
    targets[0, 0] = -100
    weights = np.array([1.0, 2.0, 0.5, 3.0])
    total = losses.cross_entropy_sum(logits, targets, weights)
    count = losses.label_weights(targets.numpy(), weights).sum()
    mean = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), weight=torch.tensor(weights, dtype=torch.float32)
    )
    assert total.item() / count == pytest.approx(mean.item(), rel=1e-6)


def test_listwise_loss_by_hand():
    scores = torch.tensor([1.0, 2.0, 0.5, 0.1])
    relevance = torch.tensor([0.0, 1.0, 0.0, 0.0])
    group = torch.tensor([0, 0, 1, 1])
    expected = -torch.log_softmax(scores[:2], 0)[1]  # the second group has nothing relevant
    assert losses.listwise_sum(scores, relevance, group).item() == pytest.approx(expected.item())


def test_job_takes_the_specs_shapes():
    training = {"learning_rate": {"search": 4.0}, "early_stopping": {"patience": 3},
                "epochs": 2.0, "lora": None, "processes": 1}  # fmt: skip
    job = Job.from_arguments({**ARGUMENTS, "training": training}, **FOLDERS)
    assert (job.search, job.early_stopping, job.epochs) == (4, 3, 2)
    assert job.learning_rate is None
    fixed = Job.from_arguments({**ARGUMENTS, "training": {"learning_rate": 1e-4}}, **FOLDERS)
    assert fixed.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"method": "magic"}, "training.method: 'magic' is unknown"),
        ({"precision": "int4"}, "training.precision"),
        ({"epochs": 0}, "training.epochs: 0"),
        ({"learning_rate": 3.0}, "training.learning_rate: 3.0"),
    ],
)
def test_wrong_settings_are_refused(training, message):
    with pytest.raises(SpecError, match=message):
        Job.from_arguments({**ARGUMENTS, "training": training}, **FOLDERS)


def test_single_class_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "d", "text-classification", labels=["only"])
    with pytest.raises(DataError, match="single class"):
        load_data(make_job(tmp_path, dataset, "text-classification"))


def test_label_outside_the_range_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "d", "token-classification", labels=["O", "B-LOC"])
    (dataset / "manifest.json").write_text(
        (dataset / "manifest.json").read_text().replace('["O", "B-LOC"]', '["O", "B-X", "I-X"]')
    )
    load_data(make_job(tmp_path, dataset))
    table = pq.read_table(dataset / "train.parquet")
    column = [[9 if v == 1 else v for v in row] for row in table.column("labels").to_pylist()]
    field = table.schema.field("labels")
    place = table.schema.get_field_index("labels")
    changed = table.set_column(place, field, pa.array(column, field.type))
    pq.write_table(changed, dataset / "train.parquet")
    with pytest.raises(DataError, match=r"label 9, outside 0\.\.2"):
        load_data(make_job(tmp_path, dataset))


def test_wrong_task_and_missing_tokenizer_are_refused(tmp_path):
    dataset = make_dataset(tmp_path / "d", "text-classification")
    with pytest.raises(DataError, match="ingested for text-classification"):
        load_data(make_job(tmp_path, dataset, "token-classification"))
    (dataset / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="no tokenizer"):
        load_data(make_job(tmp_path, dataset, "text-classification"))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match="pickled weights only"):
        modelling.new_model({"id": str(tmp_path)}, "text-classification", ["a", "b"])


def test_events_survive_other_output():
    assert report.parse("[rank0] noise") is None
    assert report.parse(report.MARK + '{"event": "x", "y": 1}') == {"event": "x", "y": 1}
    assert report.parse(report.MARK + "{torn") is None
