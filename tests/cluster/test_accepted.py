"""A real API server takes every overlay and example without a warning, and enforces the rules."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from components.contract import InfeasiblePlanError, SpecError
from pipelines.dag import Requests, compile_manifest, compile_pipeline
from pipelines.jobs import RenderOptions
from pipelines.preflight import check_cluster
from pipelines.render import render
from pipelines.runs import kubernetes_client
from pipelines.serving import inference_service
from pipelines.trainjob import train_job
from tests.cluster.conftest import Cluster
from tests.kubernetes_schemas import kustomize
from tests.plans import sample_market, sample_plan
from tests.support import REPOSITORY
from tests.unit.test_manifests_rbac import TRAIN_REQUEST
from tests.unit.test_serving import MODEL

pytestmark = pytest.mark.cluster

MANIFESTS = REPOSITORY / "manifests"
CLUSTER_SCOPED = ("ClusterQueue", "ResourceFlavor", "ClusterTrainingRuntime")
PLAN = sample_plan()


def assert_silent(done: Any) -> None:
    assert "Warning" not in done.stderr, done.stderr


def apply_twice(cluster: Cluster, items: list[dict[str, Any]]) -> None:
    """Dry run, apply, apply again: accepted without a warning, and the second changes nothing."""
    assert_silent(cluster.apply(items, "--dry-run=server"))
    own = [item for item in items if item["kind"] not in CLUSTER_SCOPED]
    assert_silent(cluster.apply(own))
    versions = resource_versions(cluster, own)
    assert_silent(cluster.apply(own))
    assert resource_versions(cluster, own) == versions


def resource_versions(cluster: Cluster, items: list[dict[str, Any]]) -> dict[str, str]:
    """Generation, or the data's own version, of each object: what an apply would raise."""
    found = {}
    for item in items:
        kind, name = item["kind"], item["metadata"]["name"]
        path = "{.metadata.uid} {.metadata.generation} {.spec} {.rules} {.data}"
        group = item["apiVersion"].partition("/")[0] if "/" in item["apiVersion"] else ""
        resource = f"{kind}.{group}" if group else kind
        found[f"{kind}/{name}"] = cluster.kubectl(
            "get", resource, name, "-o", f"jsonpath={path}"
        ).stdout
    return found


@pytest.mark.parametrize("overlay", ["laptop", "dev", "prod"])
def test_overlay(cluster: Cluster, overlay: str) -> None:
    items = cluster.here(kustomize(MANIFESTS / "overlays" / overlay))
    claim = [item for item in items if item["kind"] == "PersistentVolumeClaim"]
    others = [item for item in items if item["kind"] != "PersistentVolumeClaim"]
    apply_twice(cluster, others)
    # Claims can't shrink or change their access mode, so each overlay's is made anew.
    cluster.kubectl("delete", "pvc", "--all", "--wait=true")
    apply_twice(cluster, claim)
    cluster.kubectl("delete", "pvc", "--all", "--wait=true")


@pytest.mark.parametrize("requests", ["static", "dynamic"])
@pytest.mark.parametrize("native", [False, True], ids=["plain", "kubernetes-native"])
def test_rendered_folder(
    cluster: Cluster, tmp_path: Path, native: bool, requests: Requests
) -> None:
    how: dict[str, Any] = {"requests": requests, "market": sample_market()}
    version = f"v1-{requests}"
    manifest = None
    if native:
        manifest = compile_manifest(PLAN, namespace="suanli", version=version, **how)
    options = RenderOptions(
        namespace=cluster.namespace, schedule="30 2 * * 1", queue="suanli", manifest=manifest
    )
    render(PLAN, compile_pipeline(PLAN, queue="suanli", **how), tmp_path, options=options)
    items = kustomize(tmp_path)
    for item in items:  # accepted as it is, but nothing starts here
        if item["kind"] == "Job":
            item["spec"]["suspend"] = True
    apply_twice(cluster, cluster.here(items))


@pytest.mark.parametrize("example", ["argocd", "flux"])
def test_gitops_example(cluster: Cluster, example: str) -> None:
    items = cluster.here(kustomize(MANIFESTS / "gitops" / example))
    assert_silent(cluster.apply(items, "--dry-run=server"))


@pytest.mark.parametrize("gpu", [False, True])
def test_inference_service(cluster: Cluster, gpu: bool) -> None:
    model = dataclasses.replace(MODEL, gpu=gpu)
    item = inference_service(model, requests_per_second=20.0, namespace=cluster.namespace)
    assert_silent(cluster.apply([item], "--dry-run=server"))


def test_train_job(cluster: Cluster, runtime: str) -> None:
    request = dataclasses.replace(
        TRAIN_REQUEST,
        namespace=cluster.namespace,
        runtime=runtime,
        node_selector={"node.kubernetes.io/instance-type": "p5.48xlarge"},
        tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    )
    item = train_job(request)
    assert_silent(cluster.apply([item], "--dry-run=server"))


def test_misspelt_field_is_refused(cluster: Cluster) -> None:
    items = cluster.here(kustomize(MANIFESTS / "overlays/prod"))
    (queue,) = [item for item in items if item["kind"] == "LocalQueue"]
    wrong = {**queue, "spec": {"clusterQeue": "suanli"}}
    done = cluster.apply([wrong], "--dry-run=server", check=False)
    assert done.returncode != 0
    assert "clusterQeue" in done.stderr


def test_pod_that_is_not_restricted_is_refused(cluster: Cluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": cluster.namespace},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }
    done = cluster.apply([pod], "--dry-run=server", check=False)
    assert 'violates PodSecurity "restricted' in done.stderr


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("suanli-submit", "create", "runs.pipelines.kubeflow.org", True),
        ("suanli-submit", "terminate", "runs.pipelines.kubeflow.org", True),
        ("suanli-submit", "delete", "runs.pipelines.kubeflow.org", False),
        ("suanli-submit", "get", "secrets", False),
        ("suanli-submit", "create", "pods", False),
        ("suanli-runner", "create", "workflowtaskresults.argoproj.io", True),
        ("suanli-runner", "get", "secrets/mlpipeline-minio-artifact", True),
        ("suanli-runner", "get", "secrets/object-store", False),
        ("suanli-runner", "list", "secrets", False),
        ("suanli-runner", "create", "trainjobs.trainer.kubeflow.org", True),
        ("suanli-runner", "create", "jobs.batch", False),
        ("suanli-runner", "create", "pods/exec", False),
    ],
)
def test_rights(cluster: Cluster, account: str, verb: str, resource: str, allowed: bool) -> None:
    cluster.apply(
        [
            item
            for item in cluster.here(kustomize(MANIFESTS / "overlays/prod"))
            if item["kind"] in ("Role", "RoleBinding", "ServiceAccount")
        ]
    )
    assert may(cluster, account, verb, resource) is allowed


def may(cluster: Cluster, account: str, verb: str, resource: str) -> bool:
    """Ask the way the KFP API server asks: a SubjectAccessReview (its resources are virtual)."""
    resource, _, name = resource.partition("/") if "secrets/" in resource else (resource, "", "")
    resource, _, subresource = resource.partition("/")
    plain, _, group = resource.partition(".")
    attributes = {
        "namespace": cluster.namespace, "verb": verb, "group": group, "resource": plain,
        "name": name, "subresource": subresource,
    }  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{cluster.namespace}:{account}",
            "resourceAttributes": attributes,
        },
    }
    done = cluster.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(review))
    allowed: bool = json.loads(done.stdout)["status"]["allowed"]
    return allowed


# -- preflight against the real API --------------------------------------------------------------


def with_train(gpus: int, memory_gib: int) -> str:
    train = PLAN.step("train")
    resources = dataclasses.replace(
        train.resources, gpu_count=gpus, memory_bytes=memory_gib << 30, cpu_millicores=100
    )
    changed = dataclasses.replace(train, resources=resources)
    steps = tuple(changed if step.step == "train" else step for step in PLAN.steps)
    return compile_pipeline(dataclasses.replace(PLAN, steps=steps))


def test_missing_namespace_and_secret_are_named(cluster: Cluster) -> None:
    api = kubernetes_client()
    ir_yaml = with_train(0, 1)
    with pytest.raises(SpecError, match="namespace no-such-place does not exist"):
        check_cluster(ir_yaml, api, namespace="no-such-place")
    with pytest.raises(SpecError, match=r"secret object-store .* is not in namespace"):
        check_cluster(ir_yaml, api, namespace=cluster.namespace)


def test_request_larger_than_any_node_and_quota(cluster: Cluster) -> None:
    api = kubernetes_client()
    cluster.kubectl("create", "secret", "generic", "object-store", "--from-literal=a=b")
    with pytest.raises(InfeasiblePlanError, match=r"train asks for 9999\.00 GiB of memory, the la"):
        check_cluster(with_train(0, 9999), api, namespace=cluster.namespace)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": cluster.namespace},
        "spec": {"hard": {"requests.memory": "2Gi"}},
    }
    cluster.apply([quota])
    try:
        for _ in itertools.repeat(None, 100):  # the controller fills status.hard
            if cluster.kubectl("get", "quota", "small", "-o", "jsonpath={.status.hard}").stdout:
                break
        short = r"quota small has \d\.\d\d GiB left of 2Gi: \d\.\d\d GiB too little"
        with pytest.raises(InfeasiblePlanError, match=short):
            check_cluster(with_train(0, 1), api, namespace=cluster.namespace)
    finally:
        cluster.kubectl("delete", "quota", "small")
