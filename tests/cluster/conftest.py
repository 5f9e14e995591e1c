"""A namespace of our own on the cluster that KUBECONFIG points at.

Nothing outside that namespace is changed: overlays and examples are applied with their namespace
replaced, cluster-scoped objects with a server-side dry run only, except a training runtime of the
namespace's name. The tests that start pods also
need images on the node and a way back to this machine:

    SUANLI_DATA_IMAGE     the data image, as a pod names it
    SUANLI_HOST_ADDRESS   an address of this machine that pods can reach
    SUANLI_STORE_FOLDER   a folder of the node that user 65532 may write (a hostPath volume)
    SUANLI_TRAIN_IMAGE    the train image (tests of training on two nodes)
    SUANLI_TRAINER        set when the controllers of Kubeflow Trainer and JobSet run
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from pipelines.jobs import CLAIM
from tests.kubernetes_schemas import kustomize
from tests.support import REPOSITORY


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """kubectl on one namespace."""

    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> Any:
        done = subprocess.run(
            ["kubectl", "--namespace", self.namespace, *arguments],
            input=stdin, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def apply(self, items: list[dict[str, Any]], *options: str, check: bool = True) -> Any:
        """Server-side apply, the way the documentation says."""
        return self.kubectl(
            "apply", "--server-side", "--validate=strict", *options, "-f", "-",
            stdin=yaml.safe_dump_all(items), check=check,
        )  # fmt: skip

    def here(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The objects with their namespace (and RBAC subjects') replaced by the test's own."""
        return [_moved(item, self.namespace) for item in items]


def _moved(item: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = dict(item["metadata"])
    if item["kind"] == "Namespace":
        metadata["name"] = namespace
    elif "namespace" in metadata:
        metadata["namespace"] = namespace
    moved = {**item, "metadata": metadata}
    if "subjects" in item:
        moved["subjects"] = [{**subject, "namespace": namespace} for subject in item["subjects"]]
    return moved


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a Kubernetes cluster: set KUBECONFIG")
    made = Cluster(namespace=f"suanli-test-{secrets.token_hex(4)}")
    namespace = yaml.safe_load((REPOSITORY / "manifests/base/namespace.yaml").read_text())
    made.apply([_moved(namespace, made.namespace)])
    try:
        yield made
    finally:
        made.kubectl("delete", "namespace", made.namespace, "--wait=false", check=False)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    names = ("SUANLI_DATA_IMAGE", "SUANLI_HOST_ADDRESS", "SUANLI_STORE_FOLDER")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        pytest.skip(f"needs pods: set {', '.join(missing)} (see tests/cluster/conftest.py)")
    return {name: os.environ[name] for name in names}


@pytest.fixture(scope="session")
def prepared(cluster: Cluster, environment: dict[str, str]) -> Iterator[Cluster]:
    """Accounts, roles and a claim on a folder of the node."""
    items = cluster.here(kustomize(REPOSITORY / "manifests/overlays/laptop"))
    cluster.apply([item for item in items if item["kind"] != "PersistentVolumeClaim"])
    name = cluster.namespace
    spec = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **spec,
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": environment["SUANLI_STORE_FOLDER"]},
            "claimRef": {"namespace": name, "name": CLAIM},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": name},
        "spec": {**spec, "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply([volume, claim])
    yield cluster
    cluster.kubectl("delete", "pods,jobs,pvc", "--all", "--wait=false", check=False)
    cluster.kubectl("delete", "pv", name, "--wait=false", check=False)


@pytest.fixture(scope="session")
def runtime(cluster: Cluster) -> Iterator[str]:
    """Name of a ClusterTrainingRuntime like ours (Trainer refuses TrainJobs of unknown ones)."""
    items = kustomize(REPOSITORY / "manifests/overlays/prod")
    (ours,) = [item for item in items if item["kind"] == "ClusterTrainingRuntime"]
    ours["metadata"]["name"] = cluster.namespace
    cluster.apply([ours])
    yield cluster.namespace
    cluster.kubectl(
        "delete", "clustertrainingruntime", cluster.namespace, "--wait=false", check=False
    )
