"""A TrainJob on two nodes under Kubeflow Trainer's own controller, and one that loses a pod.

The train step's client creates and follows the jobs; their pods are "restricted", run our train
image, and find each other by the names that JobSet gives them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from components.storage import Store, Tiers
from pipelines.jobs import CLAIM
from pipelines.submit import RUNNER_ACCOUNT
from pipelines.trainjob import CHECKPOINTS, TrainJobRequest, TrainJobs, train_job
from tests.cluster.conftest import Cluster
from tests.kubernetes_schemas import kustomize
from tests.support import REPOSITORY
from tests.train_support import TINY, make_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A runtime of the test's own name and a dataset on the claim that the pods mount."""

    cluster: Cluster
    image: str
    runtime: str
    folder: Path
    dataset: str

    def run(self, name: str, training: Json, on_event: Callable[[Json], None]) -> Json:
        """Create the TrainJob, follow it to its end and return what it says of the model."""
        arguments = {"task": "token-classification", "model": TINY, "training": training}
        request = TrainJobRequest(
            name=name,
            namespace=self.cluster.namespace,
            image=self.image,
            nodes=2,
            processes_per_node=1,
            resources={
                "requests": {"cpu": "200m", "memory": "1Gi"},
                "limits": {"memory": "1Gi"},
            },
            config=json.dumps({"step": "train", "arguments": arguments}),
            dataset=self.dataset,
            store=Tiers.under(Path(CHECKPOINTS) / self.folder.name).to_json(),
            run_id="run-1",
            checkpoint_claim=CLAIM,
            timeout_s=600,
            runtime=self.runtime,
            service_account=RUNNER_ACCOUNT,
            secret="object-store",  # none there: its keys are optional
        )
        jobs = as_runner(self.cluster.namespace)
        jobs.create(train_job(request))
        # Created twice, as by a step that was started again: the first one is followed.
        return jobs.run(train_job(request), on_event)


def as_runner(namespace: str) -> TrainJobs:
    """The train step's client with the rights of its pod's account, and no others."""
    config.load_kube_config()
    api = client.ApiClient()
    account = f"system:serviceaccount:{namespace}:{RUNNER_ACCOUNT}"
    api.set_default_header("Impersonate-User", account)
    return TrainJobs(client.CustomObjectsApi(api), client.CoreV1Api(api))


@pytest.fixture(scope="module")
def trainer(
    prepared: Cluster,
    runtime: str,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    image = os.environ.get("SUANLI_TRAIN_IMAGE")
    if not image or not os.environ.get("SUANLI_TRAINER"):
        pytest.skip("needs Trainer's controller: set SUANLI_TRAINER and SUANLI_TRAIN_IMAGE")
    items = kustomize(REPOSITORY / "manifests/overlays/prod")
    rights = [item for item in items if item["kind"] in ("Role", "RoleBinding")]
    # The fixture's overlay has no Trainer: its role is taken over, not added to.
    prepared.apply(prepared.here(rights), "--force-conflicts")
    folder = Path(environment["SUANLI_STORE_FOLDER"]) / f"{prepared.namespace}-train"
    store = Store(Tiers.under(folder))
    rows = make_dataset(tmp_path_factory.mktemp("data") / "set", "token-classification", rows=64)
    uri = store.put_folder(rows, kind="dataset")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)  # the pods' user writes beside it
    return Trainer(cluster=prepared, image=image, runtime=runtime, folder=folder, dataset=uri)


def ignore(event: Json) -> None:
    pass


def test_two_nodes_train_one_model(trainer: Trainer, tmp_path: Path) -> None:
    training = {"epochs": 2, "global_batch": 16, "precision": "fp32", "learning_rate": 5e-4}
    finished = trainer.run("two-nodes", training, ignore)
    assert finished["workload"]["processes"] == 2
    assert finished["workload"]["steps"] == 8
    fetched = Store(Tiers.under(trainer.folder)).fetch(finished["uri"], tmp_path / "model")
    assert (fetched / "model.safetensors").is_file()
    trainer.cluster.kubectl("wait", "trainjob", "--all", "--for=delete", "--timeout=60s")


def test_training_goes_on_after_a_lost_pod(trainer: Trainer) -> None:
    training = {
        "epochs": 40, "global_batch": 16, "precision": "fp32", "learning_rate": 5e-4,
        "checkpoint_interval_s": 2.0,
    }  # fmt: skip
    events: list[Json] = []
    lost: list[str] = []
    name = f"lost-{trainer.cluster.namespace[-8:]}"  # checkpoints outlive the test

    def on_event(event: Json) -> None:
        events.append(event)
        saved = list(trainer.folder.parent.glob(f"{name}/*"))
        if lost or not saved or event["event"] != "progress":
            return
        selector = f"jobset.sigs.k8s.io/jobset-name={name}"
        names = trainer.cluster.kubectl("get", "pods", "-l", selector, "-o", "name").stdout
        lost.extend(name for name in names.split() if "-node-0-1-" in name)
        trainer.cluster.kubectl("delete", "--grace-period=0", "--force", *lost)

    finished = trainer.run(name, training, on_event)
    assert len(lost) == 1, "no pod was lost"
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    assert resumed, "training began again from nothing"
    assert finished["workload"]["steps"] == 160 - resumed[-1]
