"""Least privilege: each role grants what the code calls, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from pipelines import kfp_api
from pipelines.jobs import SUBMIT_ACCOUNT
from pipelines.submit import RUNNER_ACCOUNT
from tests.support import REPOSITORY

BASE = REPOSITORY / "manifests" / "base"


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


def test_steps_call_the_kubernetes_api_only_for_train_jobs() -> None:
    """Verbs that `components` use, by generated client method, against the trainer component."""
    calls = {}
    for path in (REPOSITORY / "components").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in KUBERNETES_CALLS:
                calls[node.attr] = KUBERNETES_CALLS[node.attr]
    patch = yaml.safe_load(
        (REPOSITORY / "manifests/components/trainer/role-runner-trainjobs.yaml").read_text()
    )
    extra = granted([operation["value"] for operation in patch])
    needed = set(calls.values())
    if needed:
        assert needed <= extra, needed - extra
    assert extra <= set(KUBERNETES_CALLS.values())


TRAIN_JOBS = ("trainer.kubeflow.org", "trainjobs")
KUBERNETES_CALLS = {
    "create_namespaced_custom_object": (*TRAIN_JOBS, "create"),
    "get_namespaced_custom_object": (*TRAIN_JOBS, "get"),
    "delete_namespaced_custom_object": (*TRAIN_JOBS, "delete"),
    "list_namespaced_pod": ("", "pods", "list"),
    "read_namespaced_pod_log": ("", "pods/log", "get"),
}
