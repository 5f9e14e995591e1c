"""Every task of the compiled pipeline carries what the plan decided."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.contract import StepError, canonical_json
from components.runtime import StepContext
from components.storage import Store, Tiers
from pipelines.control.train_nodes import step as train_nodes
from pipelines.dag import (
    IMAGE_OF,
    compile_manifest,
    compile_pipeline,
    pod_options,
    step_config,
)
from pipelines.plan import Plan, plan_from_json
from pipelines.trainjob import TrainJobs
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


def test_decide_reads_a_model_folder_where_the_spec_meant_it() -> None:
    """A step has no folder of the spec that a relative path could start from."""
    spec = {**PLAN.spec, "model": {"id": "base-model", "config": None}}
    steps = tuple(
        replace(step, arguments={**step.arguments, "model": {"id": "/specs/base-model"}})
        if step.step == "train"
        else step
        for step in PLAN.steps
    )
    plan = replace(PLAN, spec=spec, steps=steps)
    config = json.loads(step_config(plan, "decide"))["arguments"]
    assert config["spec"]["model"] == {"id": "/specs/base-model", "config": None}


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


def many_nodes() -> Plan:
    """The sample plan with training on two nodes of one GPU each."""
    steps = tuple(
        replace(step, nodes=2, processes_per_node=1) if step.step == "train" else step
        for step in PLAN.steps
    )
    return replace(PLAN, steps=steps)


def test_training_on_several_nodes_is_a_trainjob_of_the_planned_pods() -> None:
    pipeline, _ = yaml.safe_load_all(compile_pipeline(many_nodes(), queue="research"))
    train = tasks(pipeline)["train"]
    assert "accelerator" not in train["container"]["resources"]
    assert train["container"]["image"] == "suanli/data:0.1.0"
    constant = train["task"]["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
    launch = json.loads(constant)["arguments"]["launch"]
    planned = PLAN.step("train").resources
    assert launch["nodes"] == 2
    assert launch["image"] == "suanli/train:0.1.0"
    assert launch["queue"] == "research"
    assert launch["resources"]["limits"]["nvidia.com/gpu"] == planned.gpu_count
    assert launch["resources"]["requests"]["cpu"] == f"{planned.cpu_millicores}m"


class FakeCluster(TrainJobs):
    """Runs no pods: remembers the job and answers with two events."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {}

    def run(
        self, job: dict[str, Any], on_event: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        self.job = job
        on_event({"event": "progress", "fraction": 0.5, "message": "epoch 1", "loss": 0.7})
        return {"event": "finished", "uri": f"artifact://model/{'0' * 64}"}


def test_the_trainjob_is_followed_to_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = tmp_path / "namespace"
    namespace.write_text("research")
    monkeypatch.setattr(train_nodes, "NAMESPACE_FILE", namespace)
    plan = many_nodes()
    config = json.loads(step_config(plan, "train", pod_options(plan)))
    context = StepContext(
        step="train", kind="train", arguments=config["arguments"], inputs={"dataset": "d"},
        store=Store(Tiers.under(tmp_path)), run_id="run-1", plan_hash=plan.hash, requested={},
        scratch=tmp_path,
    )  # fmt: skip
    cluster = FakeCluster()
    assert train_nodes.run(context, cluster) == f"artifact://model/{'0' * 64}"
    assert cluster.job["metadata"]["namespace"] == "research"
    assert cluster.job["spec"]["trainer"]["numNodes"] == 2
    assert "launch" not in json.dumps(cluster.job["spec"]["trainer"]["args"])
    events = (tmp_path / "hot" / "runs" / "run-1" / "events.jsonl").read_text()
    assert json.loads(events)["loss"] == 0.7


def test_several_nodes_need_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_nodes, "NAMESPACE_FILE", tmp_path / "none")
    with pytest.raises(StepError, match="needs a cluster"):
        train_nodes.namespace()
