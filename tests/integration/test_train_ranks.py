"""Several ranks compute what one computes: real gloo processes under torchrun."""

import numpy as np
import pytest

from tests.train_support import make_dataset, make_job, run_job, weights_of


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Sixty steps on one process; sequences of very different lengths, so ranks hold different
    numbers of labels."""
    folder = tmp_path_factory.mktemp("one")
    dataset = make_dataset(folder / "dataset", "token-classification", rows=157, longest=40)
    job = make_job(folder, dataset, epochs=6, dropout=0.0, learning_rate=5e-4)
    return dataset, job, run_job(job)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_loss_curve_equals_one_process(one, processes, tmp_path):
    dataset, job, reference = one
    assert len(reference["losses"]) == 60
    assert reference["losses"][-1] < 0.5 * reference["losses"][0]
    parallel = make_job(tmp_path, dataset, epochs=6, dropout=0.0, learning_rate=5e-4)
    result = run_job(parallel, processes)
    assert result["workload"]["processes"] == processes
    difference = np.abs(np.array(result["losses"]) - np.array(reference["losses"]))
    assert difference.max() <= 1e-6
    assert result["best_metric"] == pytest.approx(reference["best_metric"], abs=1e-9)
    # One process exchanges nothing; ranks wait for each other's gradients at every step.
    assert result["seconds"]["communication"] > 20 * reference["seconds"]["communication"]
    assert result["seconds"]["backward"] > 0
    ours, theirs = weights_of(parallel), weights_of(job)
    assert max((ours[k] - theirs[k]).abs().max().item() for k in ours) < 1e-3


@pytest.mark.slow
def test_with_dropout_the_metric_agrees(one, tmp_path):
    """Ranks draw other dropout than one process does; what is learnt is the same."""
    dataset, _, _ = one
    results = [
        run_job(make_job(tmp_path / str(n), dataset, epochs=6, learning_rate=5e-4), n)
        for n in (1, 2)
    ]
    assert results[0]["losses"] != results[1]["losses"]
    assert results[0]["best_metric"] > 0.8
    assert results[1]["best_metric"] == pytest.approx(results[0]["best_metric"], abs=0.05)


@pytest.mark.slow
def test_accumulation_equals_one_forward(one, tmp_path):
    dataset, _, reference = one
    job = make_job(tmp_path, dataset, epochs=6, dropout=0.0, learning_rate=5e-4, micro_batch=5)
    losses = run_job(job)["losses"]
    assert np.abs(np.array(losses) - np.array(reference["losses"])).max() <= 1e-6


@pytest.mark.slow
def test_sharded_ranks_learn_the_same(one, tmp_path):
    dataset, _, reference = one
    job = make_job(tmp_path, dataset, epochs=2, dropout=0.0, learning_rate=5e-4, sharding="fsdp")
    result = run_job(job, 2)
    assert np.isfinite(result["losses"]).all()
    whole = weights_of(job)
    assert whole["bert.embeddings.word_embeddings.weight"].shape == (30522, 128)
    # Another schedule length than the reference's, so only the first loss is the same figure.
    assert result["losses"][0] == pytest.approx(reference["losses"][0], abs=1e-6)
    assert result["losses"][-1] < result["losses"][0]


@pytest.mark.slow
def test_fewer_rows_than_ranks_is_refused(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "text-classification", rows=2)
    result = run_job(make_job(tmp_path, dataset, "text-classification"), 4)
    assert result["event"] == "error"
    assert "2 training rows for 4 ranks" in result["message"]
