"""Every overlay and example: valid for every supported Kubernetes, restricted, and in one piece."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes_schemas import (
    kubectl,
    kustomize,
    load_all,
    problems,
    unstated_defaults,
)
from tests.support import REPOSITORY, needs_shared

MANIFESTS = REPOSITORY / "manifests"
OVERLAYS = sorted(path.parent for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
EXAMPLES = sorted(
    path.parent for path in MANIFESTS.glob("gitops/**/kustomization.yaml")
)  # built with kustomize too
WORKLOADS = ("Pod", "Job", "CronJob", "Deployment", "ClusterTrainingRuntime", "TrainJob")

needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="needs kubectl (kustomize)")


def names(path: Path) -> str:
    return path.relative_to(MANIFESTS).as_posix()


def pod_specs(value: Any) -> list[dict[str, Any]]:
    """Every mapping with containers, however deep."""
    if isinstance(value, dict):
        own = [value] if isinstance(value.get("containers"), list) else []
        return own + list(itertools.chain(*(pod_specs(item) for item in value.values())))
    if isinstance(value, list):
        return list(itertools.chain(*(pod_specs(item) for item in value)))
    return []


def not_restricted(spec: dict[str, Any]) -> list[str]:
    """What keeps a pod from Pod Security "restricted" (the fields a spec must state itself)."""
    found = []
    pod = spec.get("securityContext", {})
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile is not RuntimeDefault")
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser") == 0:
        found.append("may run as root")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            found.append(key)
    found += ["hostPath" for volume in spec.get("volumes", []) if "hostPath" in volume]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{container['name']} may escalate privileges")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{container['name']} keeps capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{container['name']} may write its root file system")
    return found


@needs_shared
@needs_kubectl
@pytest.mark.parametrize("folder", [*OVERLAYS, *EXAMPLES], ids=names)
def test_every_object_is_valid(folder: Path) -> None:
    items = kustomize(folder)
    assert [text for item in items for text in problems(item)] == []
    assert [text for item in items for text in unstated_defaults(item)] == []


@needs_shared
def test_defaults_inside_lists_are_found() -> None:
    runtime = yaml.safe_load(
        (MANIFESTS / "components/trainer/clustertrainingruntime.yaml").read_text()
    )
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    del job["replicas"]
    (found,) = unstated_defaults(runtime)
    assert found.endswith(".replicatedJobs[0].replicas is not stated (the CRD fills in 1)")


@needs_kubectl
@pytest.mark.parametrize("folder", OVERLAYS, ids=names)
def test_every_pod_is_restricted(folder: Path) -> None:
    specs = [(i["metadata"]["name"], s) for i in kustomize(folder) for s in pod_specs(i)]
    assert {name: not_restricted(spec) for name, spec in specs if not_restricted(spec)} == {}


@needs_kubectl
def test_prod_has_pods_for_the_rule_above_to_look_at() -> None:
    kinds = {item["kind"] for item in kustomize(MANIFESTS / "overlays/prod") if pod_specs(item)}
    assert kinds == {"Deployment", "ClusterTrainingRuntime"}


@needs_kubectl
@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_shared_clusters_get_limits_quota_and_default_deny(overlay: str) -> None:
    items = {
        (i["kind"], i["metadata"]["name"]): i for i in kustomize(MANIFESTS / "overlays" / overlay)
    }
    labels = items["Namespace", "suanli"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    deny = items["NetworkPolicy", "default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert ("ResourceQuota", "suanli") in items
    assert ("LimitRange", "suanli") in items


@needs_kubectl
def test_laptop_leaves_kubeflows_namespace_alone() -> None:
    items = kustomize(MANIFESTS / "overlays/laptop")
    assert {item["kind"] for item in items} == {
        "ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim",
    }  # fmt: skip
    assert {item["metadata"]["namespace"] for item in items} == {"kubeflow"}
    subjects = [s["namespace"] for i in items for s in i.get("subjects", [])]
    assert subjects == ["kubeflow", "kubeflow"]


@needs_kubectl
@pytest.mark.parametrize("folder", [*OVERLAYS, *EXAMPLES], ids=names)
def test_no_secret_and_no_wildcard(folder: Path) -> None:
    for item in kustomize(folder):
        assert item["kind"] != "Secret", item["metadata"]["name"]
        assert item["kind"] not in ("ClusterRole", "ClusterRoleBinding"), item["metadata"]["name"]
        for rule in item.get("rules", []) if item["kind"] == "Role" else []:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


def test_one_resource_a_file_and_every_file_used() -> None:
    for folder in {path.parent for path in MANIFESTS.rglob("kustomization.yaml")}:
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
        used = {
            *listed.get("resources", []),
            *(p["path"] for p in listed.get("patches", []) if "path" in p),
        }
        files = {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert files <= used, f"{names(folder)}: {files - used} is not used"
        for name in listed.get("resources", []):
            if name.endswith(".yaml"):
                assert len(load_all((folder / name).read_text())) == 1, f"{folder}/{name}"
