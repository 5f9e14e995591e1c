"""What every task's pod gets beside its plan: image, volumes, placement, identity, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl
from kfp import kubernetes as pod

from pipelines.control.pods import mebibytes
from pipelines.plan import Plan, StepPlan

# Which image family a step's pod runs (see images/).
IMAGE_OF = {
    "ingest": "data",
    "decide": "data",
    "place": "data",
    "train": "train",
    "compress": "train",
    "export": "train",
    "evaluate": "infer",
    "select": "infer",
    "publish": "data",
    "report": "data",
}
DEFAULT_IMAGES = {family: f"suanli/{family}:0.1.0" for family in ("data", "train", "infer")}
MOUNT = "/var/lib/suanli"
USER_ID = 65532  # "nonroot" in the images


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """What every pod gets beside its planned resources."""

    images: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_IMAGES))
    claim: str = "suanli-store"  # the volume claim that holds the local tiers (manifests/base)
    queue: str | None = None  # Kueue LocalQueue
    secret: str | None = None  # secret with object-store credentials, read as environment
    labels: dict[str, str] = field(default_factory=dict)  # cost centres, for OpenCost and Kubecost
    pushgateway: str | None = None  # where steps push their metrics


# Names of the environment variables that object-store clients read, and so the keys of the secret.
SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "HF_TOKEN",
)


def request(
    task: dsl.PipelineTask,
    step: StepPlan,
    options: PodOptions,
    *,
    granted: Mapping[str, Any] | None = None,
) -> None:
    """Write the step's requests, placement, time-out and volumes on its task.

    Args:
        granted: what a dynamic pipeline's decide task hands to this kind of step (``cpu, memory,
            gpu, gpus, selector, tolerations``), in place of the planned requests and placement.
    """
    resources = step.resources
    task.set_container_image(options.images[IMAGE_OF[step.kind]])
    if granted is None:
        _planned(task, step)
    else:
        _granted(task, granted)
    if resources.shm_bytes:
        pod.empty_dir_mount(
            task, "dshm", "/dev/shm", medium="Memory", size_limit=mebibytes(resources.shm_bytes)
        )
    # The images' root file system is read-only; what a step writes aside goes here.
    pod.empty_dir_mount(task, "tmp", "/tmp", size_limit=mebibytes(resources.ephemeral_bytes))
    pod.mount_pvc(task, options.claim, MOUNT)
    pod.set_timeout(task, step.timeout_s)
    pod.set_security_context(task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True)
    pod.add_pod_label(task, "suanli.dev/step", step.step)
    pod.add_pod_label(task, "suanli.dev/kind", step.kind)
    for key, value in sorted(options.labels.items()):
        pod.add_pod_label(task, key, value)
    if options.pushgateway:
        task.set_env_variable("SUANLI_PUSHGATEWAY", options.pushgateway)
    if options.queue:
        pod.add_pod_label(task, "kueue.x-k8s.io/queue-name", options.queue)
    if options.secret:
        keys = {key: key for key in SECRET_KEYS}
        pod.use_secret_as_env(task, options.secret, keys, optional=True)


def _planned(task: dsl.PipelineTask, step: StepPlan) -> None:
    resources = step.resources
    task.set_cpu_request(f"{resources.cpu_millicores}m")
    # Request = limit for memory (no overcommit); no CPU limit (throttling helps nobody).
    memory = mebibytes(resources.memory_bytes)
    task.set_memory_request(memory)
    task.set_memory_limit(memory)
    if resources.gpu_count:
        task.set_accelerator_type(resources.gpu_resource)
        task.set_accelerator_limit(resources.gpu_count)
    for key, value in sorted(step.node_selector.items()):
        pod.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        pod.add_toleration(task, **toleration)


def _granted(task: dsl.PipelineTask, granted: Mapping[str, Any]) -> None:
    task.set_cpu_request(granted["cpu"])
    task.set_memory_request(granted["memory"])
    task.set_memory_limit(granted["memory"])
    task.set_accelerator_type(granted["gpu"])
    task.set_accelerator_limit(granted["gpus"])
    pod.add_node_selector_json(task, granted["selector"])
    pod.add_toleration_json(task, granted["tolerations"])


def pod_options(
    plan: Plan,
    *,
    images: dict[str, str] | None = None,
    queue: str | None = None,
    labels: dict[str, str] | None = None,
    pushgateway: str | None = None,
) -> PodOptions:
    """Return the pod settings that the plan's spec asks for."""
    credentials = plan.spec["storage"]["credentials"]
    return PodOptions(
        images={**DEFAULT_IMAGES, **(images or {})},
        queue=queue,
        secret=credentials["secret"] if credentials else None,
        labels={"suanli.dev/pipeline": plan.name, **(labels or {})},
        pushgateway=pushgateway,
    )
