"""Real pods: the submitting Job against a KFP API, and a step that survives losing its pod."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.dag import MOUNT, USER_ID, compile_pipeline
from pipelines.jobs import CLAIM, RenderOptions
from pipelines.plan import plan_from_json
from pipelines.render import render
from tests.cluster.conftest import Cluster
from tests.kfp_server import KfpServerForTests
from tests.kubernetes_schemas import kustomize
from tests.plans import sample_plan
from tests.support import REPOSITORY, suanli

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PLAN = sample_plan()
WAIT_S = 180.0
SENTENCES = 100_000  # enough tokenising that a pod can be deleted in the middle of it


def wait_for(cluster: Cluster, kind: str, name: str, path: str, wanted: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = cluster.kubectl("get", kind, name, "-o", f"jsonpath={path}", check=False).stdout
        if value == wanted:
            return
        time.sleep(0.5)
    described = cluster.kubectl("describe", kind, name, check=False).stdout[-2000:]
    logs = cluster.kubectl("logs", f"{kind}/{name}", check=False).stdout[-2000:]
    pytest.fail(f"{kind}/{name}: {path} is {value!r}, not {wanted!r}\n{described}\n{logs}")


def test_submit_job_starts_the_run_once(
    prepared: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    with KfpServerForTests("0.0.0.0") as server:
        port = server.url.rpartition(":")[2]
        options = RenderOptions(
            host=f"http://{environment['SUANLI_HOST_ADDRESS']}:{port}",
            namespace=prepared.namespace,
            data_image=environment["SUANLI_DATA_IMAGE"],
        )
        server.state.next_states = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
        render(PLAN, compile_pipeline(PLAN), tmp_path, options=options)
        items = kustomize(tmp_path)
        (name,) = [item["metadata"]["name"] for item in items if item["kind"] == "Job"]
        prepared.apply(items)
        wait_for(prepared, "job", name, "{.status.succeeded}", "1")
        (run,) = server.state.runs.values()
        assert run["namespace"] == prepared.namespace
        assert run["state"] == "SUCCEEDED"
        # Applying again starts nothing; a Job made again finds the run.
        prepared.apply(items)
        prepared.kubectl("delete", "job", name)
        prepared.apply(items)
        wait_for(prepared, "job", name, "{.status.succeeded}", "1")
        assert len(server.state.runs) == 1


def test_submit_job_fails_at_once_on_a_refusal(
    prepared: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    with KfpServerForTests("0.0.0.0") as server:
        server.state.forbidden = {("POST", "/runs")}
        options = RenderOptions(
            host=f"http://{environment['SUANLI_HOST_ADDRESS']}:{server.url.rpartition(':')[2]}",
            namespace=prepared.namespace,
            data_image=environment["SUANLI_DATA_IMAGE"],
        )
        render(PLAN, compile_pipeline(PLAN), tmp_path, options=options)
        items = kustomize(tmp_path)
        (name,) = [item["metadata"]["name"] for item in items if item["kind"] == "Job"]
        prepared.apply(items)
        path = '{.status.conditions[?(@.type=="Failed")].reason}'
        wait_for(prepared, "job", name, path, "PodFailurePolicy")
        logs = prepared.kubectl("logs", f"job/{name}").stdout
        assert "refuses create on runs" in logs


def test_the_schedule_plans_in_its_pod(
    prepared: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    own, out = tmp_path / "own.yaml", tmp_path / "out"
    own.write_text("keep: [m6i.2xlarge]\n")
    with KfpServerForTests("0.0.0.0") as server:
        done = suanli(
            "render", REPOSITORY / "pipelines/examples/newsroom-ner.yaml", "-o", out,
            "--schedule", "0 0 31 2 *", "--catalog", own, "--namespace", prepared.namespace,
            "--image", f"data={environment['SUANLI_DATA_IMAGE']}",
            "--host", f"http://{environment['SUANLI_HOST_ADDRESS']}:{server.url.rpartition(':')[2]}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        items = [item for item in kustomize(out) if item["kind"] != "Job"]
        prepared.apply(items)
        prepared.kubectl("create", "job", "tonight", "--from=cronjob/newsroom-ner")
        wait_for(prepared, "job", "tonight", "{.status.succeeded}", "1")
        (run,) = server.state.runs.values()
    plan = plan_from_json(json.loads((out / "plan.json").read_text()))
    assert plan.hash[:12] in run["description"]


def step_pod(name: str, plan: Any, image: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The pod that KFP would start for ingest: the compiled command, the planned requests, our
    image, and what KFP's driver adds so that it is "restricted"."""
    pipeline = next(iter(yaml.safe_load_all(compile_pipeline(plan, images={"data": image}))))
    container = pipeline["deploymentSpec"]["executors"]["exec-ingest"]["container"]
    executor_input = {
        "inputs": {"parameterValues": arguments},
        "outputs": {
            "parameters": {"Output": {"outputFile": "/tmp/outputs/Output"}},
            "outputFile": "/tmp/outputs/executor_output.json",
        },
    }
    args = [text.replace("{{$}}", json.dumps(executor_input)) for text in container["args"]]
    amounts = {
        "cpu": "200m",
        "memory": container["resources"]["resourceMemoryRequest"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "suanli-runner",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": container["image"],
                    "command": container["command"],
                    "args": args,
                    "resources": {"requests": amounts, "limits": {"memory": amounts["memory"]}},
                    "securityContext": {
                        "runAsUser": USER_ID,
                        "runAsGroup": USER_ID,
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "store", "mountPath": MOUNT},
                    ],
                }
            ],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "store", "persistentVolumeClaim": {"claimName": CLAIM}},
            ],
        },
    }


def test_step_runs_in_our_image_and_resumes_after_its_pod_is_deleted(
    prepared: Cluster, environment: dict[str, str]
) -> None:
    folder = Path(environment["SUANLI_STORE_FOLDER"]) / prepared.namespace
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # whatever the umask: the pod's user writes beside the data
    text = "".join(f"In\tO\nParis{number}\tB-location\n.\tO\n\n" for number in range(SENTENCES))
    (folder / "train.conll").write_text(text)
    ingest = PLAN.step("ingest")
    arguments = {
        "task": "token-classification", "name": "newsroom-ner", "max_length": 64, "seed": 0,
        "model": {"id": "minilm-l6"},
        "data": {"train": {"uri": f"{MOUNT}/{prepared.namespace}/train.conll"},
                 "validation": {"fraction": 0.1}, "test": {"fraction": 0.1}, "format": "conll",
                 "columns": {}},
    }  # fmt: skip
    changed = dataclasses.replace(ingest, arguments=arguments)
    plan = dataclasses.replace(PLAN, steps=(changed, *PLAN.steps[1:]))
    config = json.dumps(
        {"step": "ingest", "arguments": arguments, "plan_hash": plan.hash, "requested": {}}
    )
    store = json.dumps({tier: f"{MOUNT}/{prepared.namespace}/{tier}" for tier in
                        ("hot", "warm", "cold")})  # fmt: skip

    def pod(name: str, run_id: str) -> str:
        values = {"config": config, "store": store, "run_id": run_id}
        prepared.apply([step_pod(name, plan, environment["SUANLI_DATA_IMAGE"], values)])
        return name

    root = folder / "hot"
    events = root / "runs/run-1/events.jsonl"
    lost = pod("lost", "run-1")
    deadline = time.monotonic() + WAIT_S
    while not events.exists():
        assert time.monotonic() < deadline, "the step did not start"
        time.sleep(0.05)
    prepared.kubectl("delete", "pod", lost, "--grace-period=0", "--force")
    second = pod("second", "run-1")
    wait_for(prepared, "pod", second, "{.status.phase}", "Succeeded")
    third = pod("third", "run-2")
    wait_for(prepared, "pod", third, "{.status.phase}", "Succeeded")

    told = [json.loads(line)["event"] for line in events.read_text().splitlines()]
    assert told.count("started") == 2, "the first pod finished before it was deleted"
    done = json.loads((root / "runs/run-1/steps/ingest.json").read_text())
    again = json.loads((root / "runs/run-2/steps/ingest.json").read_text())
    assert done["cached"] is False
    assert done["workload"]["rows"] == SENTENCES
    assert again["cached"] is True
    assert again["output"] == done["output"]
    assert done["hardware"]["versions"]["kfp"] == "2.17.0"
