"""The Job that submits a run, the CronJob that looks for changed data, and their options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from components.contract import SpecError, content_hash
from pipelines.plan import Plan
from pipelines.submission import Submission
from pipelines.submit import RUNNER_ACCOUNT

# Kubernetes limits names of Jobs to 63 characters (their pods carry the name as a label), of
# CronJobs to 52 (a time stamp is added).
NAME_LENGTH = 63
CRON_NAME_LENGTH = 52
CONFIG_NAME_LENGTH = 40
HASH_LENGTH = 10
SUBMIT_ACCOUNT = "suanli-submit"
FOLDER_IN_POD = "/etc/suanli"
CALIBRATION_FILE = "schedule-calibration.yaml"
CATALOG_FILE = "schedule-catalog-{number}{suffix}"
TOKEN_FOLDER = "/var/run/secrets/kubeflow/pipelines"
TOKEN_AUDIENCE = "pipelines.kubeflow.org"
TOKEN_SECONDS = 7200
USER_ID = 65532  # "nonroot" in the images
# Peak resident memory measured on the wnut17 spec (2026-11-23): submitting a rendered folder
# 30 MiB, planning and compiling 240 MiB. Roomy: a killed pod costs more than idle memory.
SUBMIT_MEMORY = "256Mi"
PLANNING_MEMORY = "1Gi"
# The steps' claim and where they mount it (`dag.PodOptions.claim`, `dag.MOUNT`).
CLAIM = "suanli-store"
CLAIM_FOLDER = "/var/lib/suanli"

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{LABEL_NAME}")
LABEL_VALUE = re.compile(rf"({LABEL_NAME})?")
CRON_FIELD = re.compile(r"[0-9A-Za-z*/,-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How the run is started on the cluster.

    `data_image` runs the submitting Job. `labels` go on the Job and its pod (cost centres that
    OpenCost and Kubecost group by). `schedule` adds a CronJob that looks for changed data.
    `planning_files` are the texts, by name, of what the plan was made from (own catalogues, a
    calibration; `render.planning_files`): the CronJob plans again with them. `manifest` is the text
    of Pipeline and PipelineVersion objects for an API server that stores pipelines in Kubernetes.
    """

    host: str = "http://ml-pipeline.kubeflow:8888"
    namespace: str = "suanli"
    experiment: str | None = None
    data_image: str = "suanli/data:0.1.0"
    wait: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    schedule: str | None = None
    planning_files: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    queue: str | None = None
    pushgateway: str | None = None
    requests: str = "static"
    manifest: str | None = None
    data: Any = None


def check_options(options: RenderOptions) -> None:
    """Check everything that ends up in names, labels and arguments.

    Raises:
        SpecError: naming the option and its form.
    """
    for option in ("namespace", "experiment", "queue"):
        value = getattr(options, option)
        if value is not None and not DNS_LABEL.fullmatch(value):
            raise SpecError(
                f"--{option} {value!r} is not a DNS label",
                remedy="at most 63 lower-case letters, digits and '-', starting with a letter",
            )
    parts = urlsplit(options.host)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SpecError(f"--host {options.host!r} is not a URL", remedy="write http(s)://…")
    if parts.username or parts.password or parts.query:
        raise SpecError(
            f"--host {parts.hostname}: credentials don't belong in a URL",
            remedy="the Job uses its service account's token",
        )
    check_labels(options.labels)
    if options.schedule is not None:
        fields = options.schedule.split()
        if len(fields) != 5 or not all(CRON_FIELD.fullmatch(part) for part in fields):
            raise SpecError(
                f"--schedule {options.schedule!r} is not a cron schedule",
                remedy="five fields in UTC, such as '30 2 * * *'",
            )


def check_labels(labels: dict[str, str]) -> None:
    """Check labels that end up on pods.

    Raises:
        SpecError: one is not a Kubernetes label.
    """
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            raise SpecError(
                f"--label {key}={value} is not a Kubernetes label",
                remedy="at most 63 letters, digits, '-', '_' and '.'",
            )


def job(submission: Submission, files: dict[str, str], options: RenderOptions) -> dict[str, Any]:
    """Return the Job that submits the run and, unless told otherwise, follows it to its end."""
    arguments = ["submit", FOLDER_IN_POD, *_connection_arguments(options)]
    if options.wait:
        arguments.append("--wait")
    spec = {
        "backoffLimit": 3,
        # Bad input, an infeasible plan and a failed gate stay so: only a crash is tried again.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "submit", "operator": "In", "values": [2, 3, 4],
                    },
                }
            ]
        },
        "template": _pod_template(arguments, run_config_name(submission.name), options),
    }  # fmt: skip
    digest = content_hash([files["pipeline.yaml"], files["run.json"], spec])[:HASH_LENGTH]
    name = f"{_short(submission.name, NAME_LENGTH - HASH_LENGTH - 1)}-{digest}"
    annotations = {
        "suanli.dev/fingerprint": submission.fingerprint,
        "suanli.dev/plan": submission.plan_hash,
        "suanli.dev/predicted-seconds": f"{submission.predicted_seconds:.0f}",
        "suanli.dev/predicted-usd": _money(submission.predicted_usd),
        "suanli.dev/budget-usd": _money(submission.budget_usd),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": _labels(options), "annotations": annotations},
        "spec": spec,
    }


def cron_job(plan: Plan, options: RenderOptions) -> dict[str, Any]:
    """Return the CronJob that plans again on schedule and submits when data, spec or images have
    changed."""
    arguments = [
        "submit", f"{FOLDER_IN_POD}/spec.yaml", *_connection_arguments(options), "--if-changed",
    ]  # fmt: skip
    for family, image in sorted(options.images.items()):
        arguments += ["--image", f"{family}={image}"]
    if options.queue:
        arguments += ["--queue", options.queue]
    if options.pushgateway:
        arguments += ["--pushgateway", options.pushgateway]
    if options.requests != "static":
        arguments += ["--requests", options.requests]
    for key, value in sorted(options.labels.items()):
        arguments += ["--label", f"{key}={value}"]
    for file in options.planning_files:  # later catalogues win, so their order stays
        option = "--calibration" if file == CALIBRATION_FILE else "--catalog"
        arguments += [option, f"{FOLDER_IN_POD}/{file}"]
    template = _pod_template(
        arguments, spec_config_name(plan.name), options, memory=PLANNING_MEMORY
    )
    credentials = plan.spec["storage"]["credentials"]
    if credentials:
        # Looking at the data's identity needs the right to read it.
        container = template["spec"]["containers"][0]
        container["envFrom"] = [{"secretRef": {"name": credentials["secret"]}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": _short(plan.name, CRON_NAME_LENGTH), "labels": _labels(options)},
        "spec": {
            "schedule": options.schedule,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": {"backoffLimit": 1, "template": template}},
        },
    }


def _pod_template(
    arguments: list[str], config_map: str, options: RenderOptions, *, memory: str = SUBMIT_MEMORY
) -> dict[str, Any]:
    """A "restricted" pod of the data image with the KFP token and the rendered files."""
    container = {
        "name": "submit",
        "image": options.data_image,
        "command": ["suanli"],
        "args": arguments,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {
            "requests": {"cpu": "200m", "memory": memory, "ephemeral-storage": "256Mi"},
            "limits": {"memory": memory, "ephemeral-storage": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "rendered", "mountPath": FOLDER_IN_POD, "readOnly": True},
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "store", "mountPath": CLAIM_FOLDER, "readOnly": True},
        ],
    }
    token = {
        "path": "token",
        "audience": TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    }
    return {
        "metadata": {
            "labels": _labels(options),
            # Behind Istio a sidecar would keep the Job's pod alive after its work is done.
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "serviceAccountName": SUBMIT_ACCOUNT,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                # KFP can't give the steps' pods an fsGroup. This pod comes first and mounts their
                # claim, so that kubelet makes a fresh volume writable for the steps' group; it
                # also reads a failed step's own error there.
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "rendered", "configMap": {"name": config_map}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
                {"name": "store", "persistentVolumeClaim": {"claimName": CLAIM}},
            ],
        },
    }


def _connection_arguments(options: RenderOptions) -> list[str]:
    arguments = ["--host", options.host, "--namespace", options.namespace]
    if options.experiment:
        arguments += ["--experiment", options.experiment]
    return [*arguments, "--service-account", RUNNER_ACCOUNT]


def _labels(options: RenderOptions) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "suanli", **dict(sorted(options.labels.items()))}


def run_config_name(name: str) -> str:
    """Name of the ConfigMap with the compiled pipeline, before kustomize adds its hash."""
    return f"{_short(name, CONFIG_NAME_LENGTH)}-run"


def spec_config_name(name: str) -> str:
    """Name of the ConfigMap with the spec, before kustomize adds its hash."""
    return f"{_short(name, CONFIG_NAME_LENGTH)}-spec"


def _short(name: str, length: int) -> str:
    return name[:length].rstrip("-")


def _money(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:.4f}"
