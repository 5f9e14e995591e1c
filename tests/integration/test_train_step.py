"""The train step under the runtime: its artifact, its report, its restarts and its errors."""

import json
import os
import signal
import threading
import time

import psutil
import pytest

from components.contract import DataError
from components.lib.modelling import read_info, read_labels
from components.runtime import execute
from components.storage import Store, Tiers
from components.train import step
from tests.train_support import NER_LABELS, TINY, make_dataset, make_job, run_job

TRAINING = {"epochs": 3, "global_batch": 16, "precision": "fp32", "learning_rate": 1e-3}


def run_step(folder, dataset, **training):
    tiers = Tiers.under(folder / "store")
    store = Store(tiers)
    arguments = {
        "task": "token-classification",
        "model": TINY,
        "training": {**TRAINING, **training},
        "tracking": {"tensorboard": True},
    }
    config = {"step": "train", "arguments": arguments, "plan_hash": "p",
              "requested": {"usd_per_hour": 3600.0}}  # fmt: skip
    uri = execute(
        "train",
        step.run,
        config=json.dumps(config),
        inputs={"dataset": store.put_folder(dataset, kind="dataset")},
        store=tiers.to_json(),
        run_id="r",
    )
    return store, uri


@pytest.mark.slow
def test_artifact_and_report(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    store, uri = run_step(tmp_path, dataset)
    model = store.fetch(uri, tmp_path / "model")
    assert read_labels(model) == NER_LABELS
    info = read_info(model)
    assert info["best_metric"]["name"] == "entity_f1"
    assert [point["epoch"] for point in info["history"]] == [1, 2, 3]
    assert (model / "tokenizer.json").is_file()
    assert list((model / "tensorboard").glob("events.out.tfevents.*"))
    report = store.get_json("runs/r/steps/train.json")
    assert report["workload"]["steps"] == 18
    assert report["workload"]["sequences"] == 3 * 96
    assert report["workload"]["padded_tokens"] >= report["workload"]["tokens"]
    for phase in ("data_wait", "forward", "backward", "optimiser", "evaluate"):
        assert report["seconds"][phase] > 0
    assert report["metrics"]["first_step_after_s"] < report["seconds"]["total"]
    assert "stream_wait" not in report["seconds"]  # it was on the hot tier
    assert len(report["series"]["loss"]) == 18
    events = (tmp_path / "store/hot/runs/r/events.jsonl").read_text().splitlines()
    progress = [e for e in map(json.loads, events) if e["event"] == "progress"]
    assert progress[-1]["fraction"] == 1.0
    assert progress[-1]["tokens_per_s"] > 0
    assert {"loss", "eta_s"} <= progress[-1].keys()
    assert 0 < progress[-1]["mfu"] < 1
    assert 0 < progress[-1]["usd"] <= report["seconds"]["train_process"]  # a dollar a second


@pytest.mark.slow
def test_killed_training_process_is_restarted_from_its_checkpoint(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification", rows=320)
    killed = threading.Event()

    def kill_when_it_has_a_checkpoint():
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not killed.is_set():
            saved = list((tmp_path / "store").glob("hot/scratch/*/checkpoints/step-*/whole.json"))
            for child in psutil.Process().children(recursive=True) if saved else []:
                if "components.train.loop" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.set()
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_when_it_has_a_checkpoint)
    killer.start()
    store, _ = run_step(tmp_path, dataset, epochs=4, checkpoint_interval_s=0.02)
    killed.set()
    killer.join()
    notes = store.get_json("runs/r/steps/train.json")["notes"]
    assert "training process ended with -9; restarted" in notes
    assert any(note.startswith("resumed from step") for note in notes)


@pytest.mark.slow
def test_bad_input_ends_at_once_with_its_message(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification", longest=700)
    with pytest.raises(DataError, match="the model has 512 positions"):
        run_step(tmp_path, dataset)
    store = Store(Tiers.under(tmp_path / "store"))
    error = store.get_json("runs/r/errors/train.json")
    assert (error["kind"], error["exit_code"]) == ("bad_input", 2)
    assert store.get_json("runs/r/steps/train.json") is None


def test_weights_and_biases_gets_the_curves_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    dataset = make_dataset(tmp_path / "dataset", "token-classification")
    job = make_job(tmp_path, dataset, epochs=2, tracking={"wandb": True})
    run_job(job)
    [log] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    text = log.read_bytes()
    for name in (b"validation/entity_f1", b"learning_rate", b"gradient_norm"):
        assert name in text
