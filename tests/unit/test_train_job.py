"""The TrainJob: valid against the cluster's own schema, followed and cleaned up."""

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from components.contract import StepError
from components.train import report
from pipelines.trainjob import QUEUE_LABEL, TrainJobRequest, TrainJobs, train_job
from tests.support import REPOSITORY, SHARED, needs_shared

REQUEST = TrainJobRequest(
    name="wnut-train-1a2b", namespace="suanli", image="suanli/train:0.1.0", nodes=2,
    processes_per_node=8, resources={"requests": {"cpu": "90", "memory": "900Gi"},
                                     "limits": {"nvidia.com/gpu": "8", "memory": "900Gi"}},
    config='{"step": "train"}', dataset="artifact://dataset/" + "0" * 64, store="{}",
    run_id="r1", checkpoint_claim="suanli-checkpoints", timeout_s=7200, queue="gpu",
    node_selector={"node.kubernetes.io/instance-type": "p5.48xlarge"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    service_account="suanli-runner", secret="suanli-store",
)  # fmt: skip


def undeclared(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Fields of `value` that `schema` does not declare (server-side apply rejects them)."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        parts = [
            undeclared(v, schema.get("items", {}), f"{path}[{i}]") for i, v in enumerate(value)
        ]
        return list(itertools.chain.from_iterable(parts))
    if not isinstance(value, dict):
        return []
    found = [f"{path}.{name} missing" for name in schema.get("required", []) if name not in value]
    for name, child in value.items():
        known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if known is None:
            found.append(f"{path}.{name}")
        elif isinstance(known, dict):
            found += undeclared(child, known, f"{path}.{name}")
    return found


@needs_shared
def test_every_field_is_in_the_cluster_schema():
    crd = yaml.safe_load((SHARED / "crds/trainer/trainer.kubeflow.org_trainjobs.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    job = train_job(REQUEST)
    assert undeclared(job["spec"], schema["spec"]) == []
    job["spec"]["podSpecOverrides"] = []  # of Trainer before 2.2
    assert undeclared(job["spec"], schema["spec"]) == [".podSpecOverrides"]


def test_credentials_are_named_where_trainer_takes_them():
    """Its webhook: a patch "must not have envs for the … node containers"."""
    spec = train_job(REQUEST)["spec"]
    environment = {entry.pop("name"): entry for entry in spec["trainer"]["env"]}
    key = environment["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "suanli-store", "key": "AWS_SECRET_ACCESS_KEY", "optional": True}
    (patch,) = spec["runtimePatches"]
    assert '"env"' not in json.dumps(patch)


def test_job_says_what_the_request_says():
    job = train_job(REQUEST)
    assert job == train_job(REQUEST)
    assert job["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert job["spec"]["suspend"] is True
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert json.loads(trainer["args"][0])["checkpoints"] == "/checkpoints/wnut-train-1a2b"
    text = json.dumps(job)
    assert "suanli-store" in text
    assert "AWS_SECRET_ACCESS_KEY" in text


@pytest.mark.parametrize("with_queue", [True, False])
def test_only_a_queued_job_starts_suspended(with_queue):
    import dataclasses

    request = dataclasses.replace(REQUEST, queue="gpu" if with_queue else None)
    assert train_job(request)["spec"]["suspend"] is with_queue


def test_runtime_in_manifests_fits():
    path = REPOSITORY / "manifests/components/trainer/clustertrainingruntime.yaml"
    runtime = yaml.safe_load(path.read_text())
    job = train_job(REQUEST)
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    patched = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    replicated = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert patched["replicatedJobs"][0]["name"] in [r["name"] for r in replicated]
    assert runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] > 0


class Cluster:
    """A TrainJob that goes through `states`, with a growing log of rank 0."""

    def __init__(self, states: list[str | None], logs: list[list[str]]) -> None:
        self.states, self.logs = states, logs
        self.jobs: dict[str, Any] = {}
        self.polls = 0

    def create_namespaced_custom_object(self, *args: Any) -> None:
        if args[4]["metadata"]["name"] in self.jobs:
            raise ApiError(409)
        self.jobs[args[4]["metadata"]["name"]] = args[4]

    def get_namespaced_custom_object(self, *args: Any) -> Any:
        if args[4] not in self.jobs:
            raise ApiError(404)
        state = self.states[min(self.polls, len(self.states) - 1)]
        entry = {"type": state, "status": "True", "message": "node-1 was lost"}
        return {"status": {"conditions": [entry] if state else []}}

    def delete_namespaced_custom_object(self, *args: Any, **_: Any) -> None:
        if self.jobs.pop(args[4], None) is None:
            raise ApiError(404)

    def list_namespaced_pod(self, *_: Any, **__: Any) -> Any:
        metadata = SimpleNamespace(name="pod", creation_timestamp=self.polls)
        return SimpleNamespace(items=[SimpleNamespace(metadata=metadata)])

    def read_namespaced_pod_log(self, *_: Any) -> str:
        lines = self.logs[min(self.polls, len(self.logs) - 1)]
        self.polls += 1
        return "\n".join(lines)


class ApiError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def event(name: str, **fields: Any) -> str:
    return report.MARK + json.dumps({"event": name, **fields})


def test_follow_tells_events_once_survives_a_restart_and_cleans_up():
    first = ["noise", event("progress", fraction=0.1, message="epoch 1/2")]
    restarted = [event("resumed", step=7)]
    ended = [*restarted, event("finished", uri="artifact://model/x")]
    cluster = Cluster([None, None, None, "Complete"], [first, first, restarted, ended])
    seen: list[dict[str, Any]] = []
    jobs = TrainJobs(cluster, cluster, sleep=lambda _: None)
    finished = jobs.run(train_job(REQUEST), seen.append)
    assert finished["uri"] == "artifact://model/x"
    assert [e["event"] for e in seen] == ["progress", "resumed", "finished"]
    assert cluster.jobs == {}


def test_failed_job_raises_with_message_and_log_and_is_deleted():
    cluster = Cluster([None, "Failed"], [["CUDA out of memory"]])
    jobs = TrainJobs(cluster, cluster, sleep=lambda _: None)
    with pytest.raises(StepError, match=r"node-1 was lost(.|\n)*CUDA out of memory"):
        jobs.run(train_job(REQUEST), lambda _: None)
    assert cluster.jobs == {}


def test_creating_twice_follows_the_first():
    cluster = Cluster(["Complete"], [[event("finished", uri="u")]])
    jobs = TrainJobs(cluster, cluster, sleep=lambda _: None)
    jobs.create(train_job(REQUEST))
    assert jobs.run(train_job(REQUEST), lambda _: None)["uri"] == "u"
