"""Two pods of the training runtime find each other: image, /dev/shm, network, gloo.

Trainer's controller makes such pods from the ClusterTrainingRuntime and gives them PET_* variables;
here the test does both, so that no controller is needed.
"""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import Cluster
from tests.support import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RUNTIME = REPOSITORY / "manifests/components/trainer/clustertrainingruntime.yaml"
WAIT_S = 180.0
PORT = 29500
PROGRAM = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize > 64 << 20
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
import components.train.step
print("ranks", dist.get_world_size(), "sum", total.item(), flush=True)
dist.destroy_process_group()
"""


def pod(name: str, image: str, rank: int, master: str | None) -> dict[str, Any]:
    runtime = yaml.safe_load(RUNTIME.read_text())
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template = copy.deepcopy(job["template"]["spec"]["template"])
    spec = template["spec"]
    (container,) = spec["containers"]
    own_address = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    address = {"value": master} if master else own_address
    container |= {
        "image": image,
        "command": ["torchrun", "--no-python", "python", "-c", PROGRAM],
        "env": [
            {"name": "PET_NNODES", "value": "2"},
            {"name": "PET_NPROC_PER_NODE", "value": "1"},
            {"name": "PET_NODE_RANK", "value": str(rank)},
            {"name": "PET_MASTER_ADDR", **address},
            {"name": "PET_MASTER_PORT", "value": str(PORT)},
            {"name": "GLOO_SOCKET_IFNAME", "value": "eth0"},
        ],
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    }
    spec |= {"restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, **template} | {
        "metadata": {"name": name, **template["metadata"]}
    }


def status(cluster: Cluster, name: str, path: str) -> str:
    text: str = cluster.kubectl("get", "pod", name, "-o", f"jsonpath={path}", check=False).stdout
    return text


def test_two_pods_of_the_runtime_reduce_over_gloo(cluster: Cluster) -> None:
    image = os.environ.get("SUANLI_TRAIN_IMAGE")
    if not image:
        pytest.skip("needs pods: set SUANLI_TRAIN_IMAGE to the train image")
    account = yaml.safe_load((REPOSITORY / "manifests/base/serviceaccount-runner.yaml").read_text())
    cluster.apply([account])
    cluster.apply([pod("rank-0", image, 0, None)])
    deadline = time.monotonic() + WAIT_S
    while not (address := status(cluster, "rank-0", "{.status.podIP}")):
        assert time.monotonic() < deadline, "rank 0 got no address"
        time.sleep(0.5)
    cluster.apply([pod("rank-1", image, 1, address)])
    names = ("rank-0", "rank-1")
    while not all(status(cluster, n, "{.status.phase}") in ("Succeeded", "Failed") for n in names):
        assert time.monotonic() < deadline, "the ranks did not end"
        time.sleep(0.5)
    logs = [cluster.kubectl("logs", name).stdout for name in names]
    assert [status(cluster, n, "{.status.phase}") for n in names] == ["Succeeded"] * 2, logs
    assert all("ranks 2 sum 3.0" in log for log in logs), logs
