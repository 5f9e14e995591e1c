"""The InferenceService carries the load that was asked for; the smoke client believes nothing."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.contract import DataError, SpecError, StepError
from pipelines.serving import (
    TARGET_UTILISATION,
    TRITON_VERSION,
    Served,
    inference_service,
    replicas,
    served_from_report,
    smoke,
)
from tests.kubernetes_schemas import problems
from tests.support import needs_shared, suanli

MODEL = Served(
    name="newsroom-ner", version=1, digest="0" * 64, storage_uri="s3://m/triton",
    size_bytes=100 << 20, throughput_per_s=50.0, threads=2,
)  # fmt: skip


@pytest.mark.parametrize(("load", "count"), [(1.0, 1), (30.0, 1), (30.1, 2), (300.0, 10)])
def test_replicas_carry_the_load_at_the_target_utilisation(load: float, count: int) -> None:
    assert replicas(MODEL, load) == count
    assert load / (count * MODEL.throughput_per_s) <= TARGET_UTILISATION + 1e-9


@needs_shared
@pytest.mark.parametrize("gpu", [False, True])
def test_service_is_valid_pinned_and_restricted(gpu: bool) -> None:
    service = inference_service(dataclasses.replace(MODEL, gpu=gpu), requests_per_second=20.0)
    assert problems(service) == []
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    assert (model["runtimeVersion"], model["protocolVersion"]) == (TRITON_VERSION, "v2")
    assert ("nvidia.com/gpu" in model["resources"]["limits"]) is gpu
    assert ("tolerations" in predictor) is gpu
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert model["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"


def test_memory_grows_with_the_model() -> None:
    def memory(size: int) -> int:
        item = inference_service(
            dataclasses.replace(MODEL, size_bytes=size), requests_per_second=1.0
        )
        text = item["spec"]["predictor"]["model"]["resources"]["requests"]["memory"]
        return int(text.removesuffix("Mi"))

    assert memory(100 << 20) == 812
    assert memory(1 << 30) - memory(100 << 20) == 3 * (1024 - 100)


def test_report_without_its_selected_variant_is_refused() -> None:
    row = {"name": "int8", "size_bytes": 9, "throughput_per_s": 5.0, "provider": "CPU"}
    report = {"spec": {"name": "n"}, "selected": "int8", "variants": [row]}
    options: dict[str, Any] = {"version": 1, "digest": "0", "storage_uri": "s3://m"}
    assert served_from_report(report, **options).throughput_per_s == 5.0
    assert served_from_report(report, **options).threads == 2
    step = {"name": "evaluate-int8", "requested": {"cpu_millicores": 3570}}
    assert served_from_report({**report, "steps": [step]}, **options).threads == 4
    with pytest.raises(DataError, match="selects 'fp16'"):
        served_from_report({**report, "selected": "fp16"}, **options)
    with pytest.raises(SpecError, match="must be positive"):
        replicas(dataclasses.replace(MODEL, throughput_per_s=0.0), 1.0)


@contextmanager
def triton(status: int, answer: Any, metadata: Any = None) -> Iterator[tuple[str, list[Any]]]:
    """A server that answers readiness with 200 and inference with `answer`."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            pages = {
                "/v2/models/newsroom-ner/ready": b"",
                "/v2/models/newsroom-ner": json.dumps(metadata).encode(),
            }
            self._send(200 if self.path in pages else 404, pages.get(self.path, b""))

        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._send(status, json.dumps(answer).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def logits(*values: float) -> dict[str, Any]:
    return {"outputs": [{"name": "logits", "datatype": "FP32", "data": list(values)}]}


def test_smoke_sends_protocol_v2_and_returns_outputs() -> None:
    with triton(200, logits(0.5, -1.5)) as (url, seen):
        outputs = smoke(url, "newsroom-ner", {"input_ids": [[101, 7, 102]]})
    assert outputs["logits"]["data"] == [0.5, -1.5]
    (tensor,) = seen[0]["inputs"]
    assert tensor == {
        "name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [101, 7, 102],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "answer", "error", "message"),
    [
        (200, {"outputs": []}, DataError, "not an answer of protocol v2"),
        (200, logits(), DataError, "empty or not finite"),
        (200, logits(float("nan")), DataError, "empty or not finite"),
        (200, ["x"], DataError, "not an answer of protocol v2"),
        (400, {"error": "unexpected shape"}, StepError, "400: .*unexpected shape"),
    ],
)
def test_smoke_fails_on_bad_answers(
    status: int, answer: Any, error: type[Exception], message: str
) -> None:
    with triton(status, answer) as (url, _), pytest.raises(error, match=message):
        smoke(url, "newsroom-ner", {"input_ids": [[1]]})


METADATA = {
    "name": "newsroom-ner",
    "inputs": [
        {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "pixels", "datatype": "FP32", "shape": ["-1", "3", "2", "2"]},
    ],
}


def test_command_asks_the_model_what_it_takes() -> None:
    with triton(200, logits(0.5), METADATA) as (url, seen):
        done = suanli("smoke", url, "newsroom-ner")
    assert done.returncode == 0, done.stderr
    assert "finite logits" in done.stdout
    tokens, pixels = seen[0]["inputs"]
    assert (tokens["shape"], tokens["data"]) == ([1, 8], [1] * 8)
    assert (pixels["shape"], pixels["data"]) == ([1, 3, 2, 2], [1.0] * 12)


@pytest.mark.parametrize("metadata", [None, {}, {"inputs": [{"name": "x"}]}])
def test_smoke_of_what_is_no_model_server(metadata: Any) -> None:
    with (
        triton(200, logits(1.0), metadata) as (url, _),
        pytest.raises(DataError, match="not the metadata of a model"),
    ):
        smoke(url, "newsroom-ner")


def test_smoke_of_a_model_that_is_not_there() -> None:
    with triton(200, logits(1.0)) as (url, _), pytest.raises(StepError, match="404"):
        smoke(url, "other", {"input_ids": [[1]]})
