"""Requests compared with a cluster: what is too large, missing or short is said with figures."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.contract import InfeasiblePlanError, SpecError
from pipelines.dag import compile_pipeline
from pipelines.preflight import check_cluster, quantity, requests_of
from tests.plans import sample_market, sample_plan

PLAN = sample_plan()
IR = compile_pipeline(PLAN)
NAMESPACE = "/api/v1/namespaces/suanli"


def node(
    cpu: str = "64", memory: str = "256Gi", gpus: str = "8", kind: str = "g5.xlarge"
) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus}
    labels = {"node.kubernetes.io/instance-type": kind}
    return {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": allocatable}}


def quota(**hard: str) -> dict[str, Any]:
    used = {"requests.memory": "10Gi", "requests.nvidia.com/gpu": "0"}
    return {
        "metadata": {"name": "team"},
        "spec": {"hard": hard},
        "status": {"hard": hard, "used": used},
    }


class FakeApi:
    """Answers the five reads of the preflight; `status` replaces an answer by an error."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            NAMESPACE: {"metadata": {"name": "suanli"}},
            f"{NAMESPACE}/secrets/object-store": {"metadata": {"name": "object-store"}},
            "/api/v1/nodes": {"items": [node(), node(gpus="0", kind="m6i.large")]},
            f"{NAMESPACE}/resourcequotas": {"items": []},
        }
        self.status: dict[str, int] = {}


@pytest.fixture
def cluster() -> Iterator[tuple[FakeApi, Any]]:
    from kubernetes import client

    fake = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            status = fake.status.get(self.path, 200 if self.path in fake.answers else 404)
            body = json.dumps(fake.answers.get(self.path, {}) if status == 200 else {}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    yield fake, client.ApiClient(configuration)
    server.shutdown()
    server.server_close()


def test_requests_are_read_from_the_compiled_pipeline() -> None:
    found = {request.step: request for request in requests_of(IR)}
    assert set(found) == {step.step for step in PLAN.steps}
    train = found["train"]
    assert train.amounts == {
        "cpu": Decimal("3.8"), "memory": 12289 * 2**20, "nvidia.com/gpu": 1,
    }  # fmt: skip
    assert train.secrets == ("object-store",)


def test_cluster_that_fits_leaves_no_notes(cluster: tuple[FakeApi, Any]) -> None:
    assert check_cluster(IR, cluster[1], namespace="suanli") == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (NAMESPACE, "namespace suanli does not exist"),
        (f"{NAMESPACE}/secrets/object-store", r"secret object-store \(storage.credentials\)"),
    ],
)
def test_what_is_missing_is_named(cluster: tuple[FakeApi, Any], path: str, message: str) -> None:
    cluster[0].status[path] = 404
    with pytest.raises(SpecError, match=message):
        check_cluster(IR, cluster[1], namespace="suanli")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(memory="8Gi")], r"train asks for 12\.00 GiB of memory, .* offers 8\.00 GiB"),
        ([node(cpu="3500m")], r"train asks for 3\.8 of cpu, .* offers 3\.5"),
        ([node(gpus="0")], r"train asks for 1 of nvidia.com/gpu, .* offers 0"),
        (
            [node(cpu="64", gpus="0"), node(cpu="3500m")],
            r"train asks for 3\.8 of cpu, 12\.00 GiB of memory, 1 of nvidia.com/gpu: no node",
        ),
    ],
)
def test_request_larger_than_any_node(
    cluster: tuple[FakeApi, Any], nodes: list[Any], message: str
) -> None:
    cluster[0].answers["/api/v1/nodes"]["items"] = nodes
    with pytest.raises(InfeasiblePlanError, match=message):
        check_cluster(IR, cluster[1], namespace="suanli")


def test_quota_that_is_too_small_says_by_how_much(cluster: tuple[FakeApi, Any]) -> None:
    items = cluster[0].answers[f"{NAMESPACE}/resourcequotas"]["items"]
    items.append(quota(**{"requests.memory": "20Gi"}))
    with pytest.raises(InfeasiblePlanError, match=r"quota team has 10\.00 GiB left of 20Gi: 2\.00"):
        check_cluster(IR, cluster[1], namespace="suanli")
    items[:] = [quota(**{"requests.nvidia.com/gpu": "0"})]
    with pytest.raises(InfeasiblePlanError, match="has 0 left of 0: 1 too little"):
        check_cluster(IR, cluster[1], namespace="suanli")


def test_refused_checks_become_notes(cluster: tuple[FakeApi, Any]) -> None:
    cluster[0].status = {"/api/v1/nodes": 403, f"{NAMESPACE}/secrets/object-store": 403}
    assert check_cluster(IR, cluster[1], namespace="suanli") == [
        "not checked, the cluster refuses get on secrets",
        "not checked, the cluster refuses list on nodes",
    ]


def test_autoscaled_cluster_without_nodes_is_a_note(cluster: tuple[FakeApi, Any]) -> None:
    cluster[0].answers["/api/v1/nodes"]["items"] = []
    (note,) = check_cluster(IR, cluster[1], namespace="suanli")
    assert "has none now" in note


def test_planned_nodes_that_are_not_there_are_a_note(cluster: tuple[FakeApi, Any]) -> None:
    cluster[0].answers["/api/v1/nodes"]["items"] = [node(kind="m6i.large")]
    assert check_cluster(IR, cluster[1], namespace="suanli") == [
        "no node is labelled node.kubernetes.io/instance-type=g5.xlarge now: train wait until an "
        "autoscaler makes one"
    ]


def test_dynamic_pipelines_are_compared_with_their_default_requests(
    cluster: tuple[FakeApi, Any],
) -> None:
    ir = compile_pipeline(PLAN, requests="dynamic", market=sample_market())
    assert {r.step: r.amounts for r in requests_of(ir)} == {
        r.step: {**r.amounts, "memory": r.amounts["memory"] - (2**20 - 1) * (r.step == "train")}
        for r in requests_of(IR)
    }  # the compiled pipeline rounds up to whole MiB
    assert check_cluster(ir, cluster[1], namespace="suanli") == []
    cluster[0].answers["/api/v1/nodes"]["items"] = [node(memory="4Gi")]
    with pytest.raises(InfeasiblePlanError, match=r"train asks for 12\.00 GiB of memory"):
        check_cluster(ir, cluster[1], namespace="suanli")


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", Decimal("0.5")), ("2", 2), ("1.5Gi", Decimal("1610612736")), ("1e3", 1000)],
)
def test_quantities(text: str, value: Any) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gb", "-1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(SpecError, match="is not a Kubernetes quantity"):
        quantity(text)


def test_sample_has_a_gpu_step_to_check() -> None:
    assert dataclasses.asdict(PLAN.step("train").resources)["gpu_count"] == 1
