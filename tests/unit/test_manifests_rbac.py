"""Least privilege: each role grants what the code calls, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from pipelines import kfp_api, trainjob
from pipelines.jobs import SUBMIT_ACCOUNT
from pipelines.submit import RUNNER_ACCOUNT
from tests.kubernetes_schemas import problems
from tests.support import REPOSITORY, needs_shared

BASE = REPOSITORY / "manifests" / "base"
TRAINER = REPOSITORY / "manifests" / "components" / "trainer"
TRAIN_REQUEST = trainjob.TrainJobRequest(
    name="newsroom-ner-train",
    namespace="suanli",
    image="suanli/train:0.1.0",
    nodes=2,
    processes_per_node=1,
    resources={"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
    config="{}",
    dataset="artifact://dataset/" + "0" * 64,
    store="{}",
    run_id="run-1",
    checkpoint_claim="suanli-store",
    timeout_s=3600,
    queue="suanli",
    secret="object-store",
    service_account="suanli-runner",
)


def role(name: str) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load((BASE / f"role-{name}.yaml").read_text())["rules"]
    return rules


def granted(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def called_api_methods(source: Path) -> set[str]:
    """Names of the generated KFP API methods that the file refers to."""
    import kfp_server_api

    apis = [getattr(kfp_server_api, n) for n in dir(kfp_server_api) if n.endswith("ServiceApi")]
    methods = {name for api in apis for name in dir(api) if not name.startswith("_")}
    tree = ast.parse(source.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in used & methods if name != "api_client"}


def test_submit_role_is_what_the_api_client_calls() -> None:
    called = called_api_methods(Path(kfp_api.__file__)) - {"healthz_service_get_healthz"}
    assert called == set(kfp_api.PERMISSIONS)
    needed = {("pipelines.kubeflow.org", *right) for right in kfp_api.PERMISSIONS.values()}
    assert granted(role("submit")) == needed


def test_no_other_module_calls_the_kfp_api() -> None:
    callers = {
        path.name
        for path in (REPOSITORY / "pipelines").rglob("*.py")
        if called_api_methods(path) & set(kfp_api.PERMISSIONS)
    }
    assert callers == {"kfp_api.py"}


def test_runner_role_without_trainer_is_what_kfp_and_argo_need() -> None:
    # KFP 2.17: launcher_v2.go (own pod), config/env.go (kfp-launcher), objectstore (its secret);
    # Argo's emissary executor: workflowtaskresults.
    assert granted(role("runner")) == {
        ("argoproj.io", "workflowtaskresults", "create"),
        ("argoproj.io", "workflowtaskresults", "patch"),
        ("", "configmaps", "get"),
        ("", "secrets", "get"),
        ("", "pods", "get"),
    }
    by_name = {rule["resources"][0]: rule.get("resourceNames") for rule in role("runner")}
    assert by_name["secrets"] == ["mlpipeline-minio-artifact"]
    assert by_name["configmaps"] == ["kfp-launcher"]


def test_accounts_in_the_code_are_the_accounts_in_the_manifests() -> None:
    accounts = {
        yaml.safe_load(path.read_text())["metadata"]["name"]
        for path in BASE.glob("serviceaccount-*.yaml")
    }
    assert accounts == {SUBMIT_ACCOUNT, RUNNER_ACCOUNT}


def test_trainer_component_grants_what_the_train_step_calls() -> None:
    """Verbs of the generated client methods that pods call, against the trainer component."""
    sources = [*(REPOSITORY / "components").rglob("*.py"), Path(trainjob.__file__)]
    needed = {
        KUBERNETES_CALLS[node.attr]
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in KUBERNETES_CALLS
    }
    patch = yaml.safe_load((TRAINER / "role-runner-trainjobs.yaml").read_text())
    assert granted([operation["value"] for operation in patch]) == needed


def test_runtime_has_the_names_that_train_jobs_patch() -> None:
    runtime = yaml.safe_load((TRAINER / "clustertrainingruntime.yaml").read_text())
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert runtime["metadata"]["name"] == trainjob.RUNTIME_NAME
    assert (job["name"], container["name"]) == (trainjob.REPLICATED_JOB, trainjob.CONTAINER)


@needs_shared
def test_train_job_is_valid() -> None:
    assert problems(trainjob.train_job(TRAIN_REQUEST)) == []


TRAIN_JOBS = ("trainer.kubeflow.org", "trainjobs")
KUBERNETES_CALLS = {
    "create_namespaced_custom_object": (*TRAIN_JOBS, "create"),
    "get_namespaced_custom_object": (*TRAIN_JOBS, "get"),
    "delete_namespaced_custom_object": (*TRAIN_JOBS, "delete"),
    "list_namespaced_pod": ("", "pods", "list"),
    "read_namespaced_pod_log": ("", "pods/log", "get"),
}
