"""Every task of the compiled pipeline carries what the plan decided."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from components.contract import canonical_json
from pipelines.dag import IMAGE_OF, compile_manifest, compile_pipeline, step_config
from pipelines.plan import plan_from_json
from tests.golden_files import check_golden
from tests.plans import sample_plan
from tests.support import REPOSITORY

PLAN = sample_plan()


@pytest.fixture(scope="module")
def compiled() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline spec and the Kubernetes platform spec."""
    pipeline, platform = yaml.safe_load_all(compile_pipeline(PLAN, queue="research"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return pipeline, executors


def tasks(pipeline: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Task by display name: the component's executor, container and task."""
    found = {}
    graphs = [pipeline["root"], *pipeline["components"].values()]
    for graph in graphs:
        for task in graph.get("dag", {}).get("tasks", {}).values():
            component = pipeline["components"][task["componentRef"]["name"]]
            label = component.get("executorLabel")
            if label:
                executor = pipeline["deploymentSpec"]["executors"][label]
                found[task["taskInfo"]["name"]] = {
                    "label": label, "container": executor["container"], "task": task,
                }  # fmt: skip
    return found


def test_same_plan_same_bytes() -> None:
    assert compile_pipeline(PLAN) == compile_pipeline(
        plan_from_json(json.loads(canonical_json(PLAN.to_json())))
    )


def test_plan_round_trips_and_its_hash_names_it() -> None:
    again = plan_from_json(json.loads(json.dumps(PLAN.to_json())))
    assert again == PLAN
    assert again.hash == PLAN.hash
    assert sample_plan(variants=("fp32",)).hash != PLAN.hash


def test_every_step_is_a_task_with_its_requests(compiled: Any) -> None:
    pipeline, executors = compiled
    found = tasks(pipeline)
    assert set(found) == {step.step for step in PLAN.steps}
    for step in PLAN.steps:
        entry = found[step.step]
        resources = entry["container"]["resources"]
        assert resources["cpuRequest"] == pytest.approx(step.resources.cpu_millicores / 1000)
        mebibytes = -(-step.resources.memory_bytes // (1 << 20))
        assert resources["resourceMemoryRequest"] == f"{mebibytes}Mi"
        assert resources["resourceMemoryLimit"] == f"{mebibytes}Mi"
        assert "cpuLimit" not in resources
        accelerator = resources.get("accelerator", {})
        assert int(accelerator.get("resourceCount", 0)) == step.resources.gpu_count
        assert entry["container"]["image"] == f"suanli/{IMAGE_OF[step.kind]}:0.1.0"
        pod = executors[entry["label"]]
        assert pod["activeDeadlineSeconds"] == str(step.timeout_s)
        assert pod["nodeSelector"]["labels"] == step.node_selector
        assert len(pod.get("tolerations", [])) == len(step.tolerations)
        mounts = {mount["mountPath"]: mount for mount in pod["emptyDirMounts"]}
        assert ("/dev/shm" in mounts) == bool(step.resources.shm_bytes)
        assert mounts["/tmp"]["sizeLimit"].endswith("Mi")
        assert pod["securityContext"]["runAsNonRoot"] is True
        labels = pod["podMetadata"]["labels"]
        assert labels["suanli.dev/step"] == step.step
        assert labels["kueue.x-k8s.io/queue-name"] == "research"


def test_no_pip_runs_when_a_step_starts(compiled: Any) -> None:
    pipeline, _ = compiled
    assert "pip install" not in yaml.safe_dump(pipeline)


def test_credentials_are_named_never_carried(compiled: Any) -> None:
    _, executors = compiled
    for pod in executors.values():
        for secret in pod["secretAsEnv"]:
            assert secret["secretName"] == "object-store"
            assert secret["optional"] is True


def test_the_receipt_is_the_exit_handler(compiled: Any) -> None:
    pipeline, _ = compiled
    root = pipeline["root"]["dag"]["tasks"]
    report = root["report"]
    assert report["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert report["dependentTasks"] == ["exit-handler-1"]


def test_decide_gates_training(compiled: Any) -> None:
    pipeline, _ = compiled
    inner = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert "decide" in inner["place"]["dependentTasks"]
    assert "place" in inner["train"]["dependentTasks"]
    config = json.loads(step_config(PLAN, "decide"))["arguments"]
    assert config["on_profile_change"] == "stop"
    assert config["here"] is False


def test_golden_pipeline() -> None:
    check_golden("pipeline.yaml", compile_pipeline(PLAN, queue="research"))


def test_golden_manifest() -> None:
    text = compile_manifest(PLAN, namespace="suanli", version="newsroom-ner-1")
    check_golden("pipeline-manifest.yaml", text)
    kinds = [document["kind"] for document in yaml.safe_load_all(text)]
    assert sorted(kinds) == ["Pipeline", "PipelineVersion"]


def test_compiling_leaves_torch_out() -> None:
    code = (
        "import sys; from tests.plans import sample_plan;"
        "from pipelines.dag import compile_pipeline;"
        "compile_pipeline(sample_plan());"
        "loaded = {'torch', 'transformers', 'onnxruntime', 'datasets'} & set(sys.modules);"
        "sys.exit(','.join(loaded) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_packages_resolve_inside_this_repository() -> None:
    import components
    import pipelines

    for package in (components, pipelines):
        assert str(REPOSITORY) in str(package.__path__[0])
