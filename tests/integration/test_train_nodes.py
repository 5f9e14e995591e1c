"""Two "nodes" of two processes over loopback run the program of a TrainJob's pods."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from components.storage import Store, Tiers
from components.train import report
from pipelines.trainjob import TrainJobRequest, train_job
from tests.support import REPOSITORY
from tests.train_support import TINY, make_dataset, make_job, run_job


@pytest.mark.slow
def test_two_nodes_of_two_equal_one_process(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", "token-classification", rows=64)
    tiers = Tiers.under(tmp_path / "store")
    store = Store(tiers)
    training = {"epochs": 2, "global_batch": 16, "precision": "fp32", "learning_rate": 5e-4}
    arguments = {"task": "token-classification", "model": TINY, "training": training}
    request = TrainJobRequest(
        name="loop", namespace="here", image="none", nodes=2, processes_per_node=2, resources={},
        config=json.dumps({"step": "train", "arguments": arguments}),
        dataset=store.put_folder(dataset, kind="dataset"), store=tiers.to_json(), run_id="r",
        checkpoint_claim="none", timeout_s=600,
    )  # fmt: skip
    trainer = train_job(request)["spec"]["trainer"]
    text = trainer["args"][0].replace("/checkpoints/loop", str(tmp_path / "checkpoints"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):
        # The variables that the Trainer's torch plugin sets in each pod.
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path / f"tmp{rank}"),
            "PET_NNODES": "2", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
        }  # fmt: skip
        (tmp_path / f"tmp{rank}").mkdir()
        program = [sys.executable, "-m", "torch.distributed.run", *trainer["command"][1:], text]
        nodes.append(
            subprocess.Popen(
                program,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    logs = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(logs)
    events = [e for line in logs[0].splitlines() if (e := report.parse(line))]
    finished = next(e for e in events if e["event"] == "finished")
    assert finished["workload"]["processes"] == 4
    assert report.MARK not in logs[1]
    folder = store.fetch(finished["uri"], tmp_path / "fetched")
    assert (folder / "model.safetensors").is_file()
    # Dropout differs by rank, so the losses are close, not equal.
    alone = run_job(make_job(tmp_path / "one", dataset, learning_rate=5e-4))
    assert np.abs(np.array(finished["losses"]) - alone["losses"]).max() < 0.1
