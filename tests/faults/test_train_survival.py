"""Killed at any moment, training ends with the weights it would have had.

``make soak`` kills at twenty random moments (SUANLI_SOAK=20) instead of three.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from components.contract import DataError
from components.lib import checkpoint
from components.lib.checkpoint import WHOLE
from components.train import report
from components.train.ending import finish
from components.train.loop import train
from components.train.setup import load_data
from components.train.world import join
from tests.train_support import command, make_dataset, make_job, run_job, weights_of

KILLS = int(os.environ.get("SUANLI_SOAK", "3"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    dataset = make_dataset(folder / "dataset", "token-classification", rows=320)
    job = job_in(folder, dataset)
    run_job(job)
    return dataset, job


@pytest.fixture(scope="module")
def world():
    world = join(threads=1)
    yield world
    dist.destroy_process_group()


def job_in(folder: Path, dataset: Path, **fields):
    """Dropout on, a checkpoint after nearly every step."""
    return make_job(folder, dataset, epochs=4, checkpoint_interval_s=0.02, **fields)


def start(job, processes=1):
    arguments, environment = command(job, processes)
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_checkpoint(job, beyond: int, process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        steps = [int(p.parent.name[5:]) for p in Path(job.checkpoints).glob(f"step-*/{WHOLE}")]
        if steps and max(steps) > beyond:
            return
        time.sleep(0.01)
    assert process.poll() is not None, "no checkpoint in time"


def equal(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.slow
def test_sigkill_at_random_steps_changes_nothing(uninterrupted, tmp_path):
    dataset, whole = uninterrupted
    job = job_in(tmp_path, dataset)
    chance = random.Random(KILLS)
    for kill in range(KILLS):
        process = start(job)
        wait_for_checkpoint(job, chance.randrange(0, 20) * (kill + 1) // KILLS, process)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.communicate()
    result = run_job(job)
    assert result["event"] == "finished"
    assert [e for e in result["events"] if e["event"] == "resumed"]
    assert result["workload"]["steps"] < 80
    assert equal(weights_of(job), weights_of(whole))


@pytest.mark.slow
def test_sigterm_saves_and_resume_is_exact(uninterrupted, tmp_path):
    dataset, whole = uninterrupted
    job = make_job(tmp_path, dataset, epochs=4, checkpoint_interval_s=1e9)
    process = start(job)
    seen = threading.Event()
    lines = []

    def read():
        for line in process.stdout:
            lines.append(line)
            event = report.parse(line)
            if event and event["event"] in ("progress", "evaluated"):
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(120), "".join(lines)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code = process.wait(60)
    reader.join()
    if code == 0:
        pytest.fail("training ended before SIGTERM arrived: make the job longer")
    assert code == 143
    assert time.monotonic() - asked < 20  # a pod's grace period is 30 s
    assert len(list(Path(job.checkpoints).glob(f"step-*/{WHOLE}"))) == 1
    result = run_job(job)
    assert [e for e in result["events"] if e["event"] == "resumed"]
    assert equal(weights_of(job), weights_of(whole))


@pytest.fixture(scope="module")
def killed(uninterrupted, tmp_path_factory):
    """The checkpoints of a run that was killed."""
    dataset, _ = uninterrupted
    job = job_in(tmp_path_factory.mktemp("killed"), dataset)
    process = start(job)
    wait_for_checkpoint(job, 6, process)
    process.kill()
    process.communicate()
    return Path(job.checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncate", "flip", "half-written", "no-metadata"])
def test_broken_checkpoint_is_passed_over(uninterrupted, killed, world, tmp_path, damage):
    dataset, whole = uninterrupted
    job = job_in(tmp_path, dataset)
    shutil.copytree(killed, job.checkpoints)
    newest = sorted(Path(job.checkpoints).glob("step-*"))[-1]
    payload = max(newest.glob("*.distcp"), key=lambda p: p.stat().st_size)
    if damage == "truncate":
        os.truncate(payload, payload.stat().st_size // 2)
    elif damage == "flip":
        body = bytearray(payload.read_bytes())
        body[len(body) // 2] ^= 1
        payload.write_bytes(body)
    elif damage == "half-written":
        (newest / WHOLE).unlink()
    else:
        (newest / ".metadata").unlink()
    run = train(job, world, load_data(job))
    finish(job, world, run)
    assert any(newest.name in problem for problem in run.saves.problems)
    assert 0 < run.history.resumed_from < int(newest.name[5:])
    assert equal(weights_of(job), weights_of(whole))


def test_full_disk_costs_checkpoints_and_nothing_else(world, tmp_path, monkeypatch):
    """Every second checkpoint breaks off half-way with the error of a full disk."""
    dataset = make_dataset(tmp_path / "dataset", "token-classification", rows=64)
    plain = make_job(tmp_path / "plain", dataset, checkpoint_interval_s=1e9)
    finish(plain, world, train(plain, world, load_data(plain)))
    save, calls = checkpoint.dcp.save, []

    def fill_up(state, *, storage_writer, **rest):
        calls.append(storage_writer.path)
        if len(calls) % 2:
            return save(state, storage_writer=storage_writer, **rest)
        Path(storage_writer.path).mkdir()
        (Path(storage_writer.path) / "__0_0.distcp").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", fill_up)
    job = make_job(tmp_path / "full", dataset, checkpoint_interval_s=0.0)
    run = train(job, world, load_data(job))
    finish(job, world, run)
    assert len(calls) >= 3
    assert any("No space left" in problem for problem in run.saves.problems)
    assert not list(Path(job.checkpoints).glob(".partial*"))
    assert equal(weights_of(job), weights_of(plain))
    identity = job.identity(load_data(job).manifest)
    path, document = checkpoint.Checkpoints(Path(job.checkpoints), identity).newest()
    assert path.name == f"step-{document['step']:08d}"


@pytest.mark.slow
def test_killed_rank_resumes_on_two_ranks_and_on_one(uninterrupted, tmp_path):
    """The same number of ranks gives the same bits; another number continues in the same order:
    without dropout, the losses are those of one process throughout."""
    dataset, _ = uninterrupted
    for processes in (2, 1):
        fields = {} if processes == 2 else {"dropout": 0.0}
        straight = job_in(tmp_path / f"straight-{processes}", dataset, **fields)
        expected = run_job(straight, processes)["losses"]
        job = job_in(tmp_path / f"killed-{processes}", dataset, **fields)
        process = start(job, 2)
        wait_for_checkpoint(job, 10, process)
        os.kill(random.Random(processes).choice(children_of(process.pid)), signal.SIGKILL)
        process.communicate()
        result = run_job(job, processes)
        assert result["event"] == "finished"
        assert [e for e in result["events"] if e["event"] == "resumed"]
        assert len(result["losses"]) == 80
        assert result["workload"]["processes"] == processes
        if processes == 2:
            assert equal(weights_of(job), weights_of(straight))
        else:
            # Before the kill two ranks added in another order: rounding, which training amplifies.
            assert np.abs(np.array(result["losses"]) - expected).max() <= 1e-4


def children_of(pid: int) -> list[int]:
    import psutil

    return [
        child.pid
        for child in psutil.Process(pid).children()
        if any("components.train.loop" in part for part in child.cmdline())
    ]


@pytest.mark.slow
def test_checkpoint_of_another_run_is_refused(uninterrupted, killed, world, tmp_path):
    dataset, _ = uninterrupted
    job = job_in(tmp_path, dataset, seed=7)
    shutil.copytree(killed, job.checkpoints)
    with pytest.raises(DataError, match=r"seed \(0, now 7\)"):
        train(job, world, load_data(job))
