"""Training on several nodes: a Kubeflow Trainer v2 TrainJob, built as a pure function, then
created, followed and cleaned up.

A lost node fails its pod; the runtime's failure policy starts the job set again and training
continues from the newest whole checkpoint on the shared claim: resuming is the training program's,
not Kubernetes'. The ClusterTrainingRuntime (/dev/shm, failure policy) is in
manifests/components/trainer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from components.contract import StepError
from components.train import report

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME_NAME = "suanli-torch"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# Names the Trainer's torch plugin looks for in a runtime.
REPLICATED_JOB, CONTAINER = "node", "node"
CHECKPOINTS = "/checkpoints"
RUNTIME_MANAGER = "suanli.dev/pipelines"
POLL_S = 5.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJobRequest:
    """What a many-node training run needs from the cluster.

    `config`, `dataset`, `store` and `run_id` are what the train step's face receives; the job's
    name follows from the run, so creating it twice finds the first. `resources` are requests and
    limits of one node. `checkpoint_claim` is a ReadWriteMany volume claim.
    """

    name: str
    namespace: str
    image: str
    nodes: int
    processes_per_node: int
    resources: Json
    config: str
    dataset: str
    store: str
    run_id: str
    checkpoint_claim: str
    timeout_s: int
    queue: str | None = None
    runtime: str = RUNTIME_NAME
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()
    service_account: str | None = None
    secret: str | None = None


def train_job(request: TrainJobRequest) -> Json:
    """Return the TrainJob object."""
    metadata: Json = {
        "name": request.name,
        "namespace": request.namespace,
        "labels": {"app.kubernetes.io/part-of": "suanli", "suanli.dev/run": request.run_id},
    }
    if request.queue:
        metadata["labels"][QUEUE_LABEL] = request.queue
    arguments = {
        "config": request.config,
        "dataset": request.dataset,
        "store": request.store,
        "run_id": request.run_id,
        "checkpoints": f"{CHECKPOINTS}/{request.name}",
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": "ClusterTrainingRuntime",
                "name": request.runtime,
            },
            # Kueue admits a suspended job and wakes it.
            "suspend": request.queue is not None,
            "activeDeadlineSeconds": request.timeout_s,
            "trainer": {
                "image": request.image,
                "command": ["torchrun", "--max-restarts=0", "-m", "components.train.node"],
                "args": [json.dumps(arguments, sort_keys=True)],
                "numNodes": request.nodes,
                "numProcPerNode": request.processes_per_node,
                "resourcesPerNode": request.resources,
                "env": _environment(request),
            },
            "runtimePatches": [_patch(request)],
        },
    }


def _environment(request: TrainJobRequest) -> list[Json]:
    """Here, not in the patch: Trainer's webhook refuses patches of the node container's env."""
    environment: list[Json] = [{"name": "PYTHONSAFEPATH", "value": "1"}]
    if request.secret:
        # Credentials by name only; obstore and fsspec read these variables.
        environment += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": request.secret, "key": name,
                                                          "optional": True}}}
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                         "AWS_ENDPOINT_URL", "AWS_REGION")
        ]  # fmt: skip
    return environment


def _patch(request: TrainJobRequest) -> Json:
    """What this run changes in the runtime's pods."""
    container = {
        "name": CONTAINER,
        "volumeMounts": [{"name": "checkpoints", "mountPath": CHECKPOINTS}],
    }
    pod: Json = {
        "containers": [container],
        "volumes": [
            {
                "name": "checkpoints",
                "persistentVolumeClaim": {"claimName": request.checkpoint_claim},
            }
        ],
    }
    if request.node_selector:
        pod["nodeSelector"] = request.node_selector
    if request.tolerations:
        pod["tolerations"] = list(request.tolerations)
    if request.service_account:
        pod["serviceAccountName"] = request.service_account
    job = {"name": REPLICATED_JOB, "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "manager": RUNTIME_MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }


class TrainJobs:
    """The cluster's side. `custom` and `core` are kubernetes.client.CustomObjectsApi and CoreV1Api
    (or what behaves like them)."""

    def __init__(
        self, custom: Any, core: Any, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._custom = custom
        self._core = core
        self._sleep = sleep

    @classmethod
    def here(cls) -> TrainJobs:
        """Connect with the pod's service account, or the user's kubeconfig."""
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
        return cls(client.CustomObjectsApi(), client.CoreV1Api())

    def create(self, job: Json) -> None:
        """Create `job`; one of that name that is there already is kept (a restarted step)."""
        namespace = job["metadata"]["namespace"]
        try:
            self._custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, job)
        except Exception as error:
            if getattr(error, "status", None) != 409:
                raise

    def follow(self, namespace: str, name: str) -> Iterator[Json]:
        """Yield the training program's events (see components.train.report) until the job ends.

        Raises:
            StepError: the job failed or vanished; its message and the last log lines are told.
        """
        told = 0
        tail: list[str] = []
        while True:
            job = self._get(namespace, name)
            lines = self._log(namespace, name)
            if len(lines) < told:  # a restarted pod begins a new log
                told = 0
            for line in lines[told:]:
                event = report.parse(line)
                if event is not None:
                    yield event
                else:
                    tail = [*tail[-19:], line]
            told = len(lines)
            state, message = condition(job)
            if state == "Complete":
                return
            if state == "Failed":
                raise StepError(
                    f"TrainJob {namespace}/{name} failed: {message}\n" + "\n".join(tail),
                    remedy="fix the cause and run again: it continues from the last checkpoint",
                )
            self._sleep(POLL_S)

    def delete(self, namespace: str, name: str) -> None:
        """Delete the job with its pods; none there is fine."""
        try:
            self._custom.delete_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, propagation_policy="Foreground"
            )
        except Exception as error:
            if getattr(error, "status", None) != 404:
                raise

    def run(self, job: Json, on_event: Callable[[Json], None]) -> Json:
        """Create, follow to the end, clean up; returns the ``finished`` event.

        Raises:
            StepError: the job failed, or ended without saying that it finished.
        """
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        self.create(job)
        finished: Json | None = None
        try:
            for event in self.follow(namespace, name):
                if event["event"] == "finished":
                    finished = event
                on_event(event)
        finally:
            self.delete(namespace, name)
        if finished is None:
            raise StepError(f"TrainJob {namespace}/{name} ended without a result")
        return finished

    def _get(self, namespace: str, name: str) -> Json:
        try:
            job: Json = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name
            )
        except Exception as error:
            if getattr(error, "status", None) == 404:
                raise StepError(f"TrainJob {namespace}/{name} is gone") from error
            raise
        return job

    def _log(self, namespace: str, name: str) -> list[str]:
        """Lines of rank 0's pod, as far as there is one."""
        selector = (
            f"jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
        )
        pods = self._core.list_namespaced_pod(namespace, label_selector=selector).items
        if not pods:
            return []
        newest = max(pods, key=lambda pod: str(pod.metadata.creation_timestamp))
        try:
            text = self._core.read_namespaced_pod_log(newest.metadata.name, namespace)
        except Exception as error:
            if getattr(error, "status", None) in (400, 404):  # the container is not there yet
                return []
            raise
        return str(text).splitlines()


def condition(job: Json) -> tuple[str | None, str]:
    """Return ``Complete``, ``Failed`` or None, with the message that goes with it."""
    for entry in job.get("status", {}).get("conditions", []):
        if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
            return entry["type"], entry.get("message", "")
    return None, ""
