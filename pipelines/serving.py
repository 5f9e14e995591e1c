"""KServe objects for a published model: replicas, requests and scaling from what was measured.

Triton's ONNX backend behind the open inference protocol v2. `promote` (gitops.py) writes the
result into a serving overlay; `components/publish/layout.py` writes the Triton repository.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from components.contract import DataError, SpecError, StepError

# The chart's default (23.05) knows no opset above 18; 25.08 carries ONNX Runtime 1.22.
TRITON_VERSION = "25.08-py3"
RUNTIME = "kserve-tritonserver"
# Head-room: at 60 % of what one replica can do, an M/D/1 queue's mean wait is 3/4 of a service
# time; the replica count is for that load.
TARGET_UTILISATION = 0.6
# Triton's own process (25.08, CPU back end, measured at start by NVIDIA's size calculator).
SERVER_BYTES = 512 << 20
# ONNX Runtime holds weights, an optimised copy while loading, and activations.
MEMORY_PER_MODEL_BYTE = 3.0
MAX_REPLICAS_FACTOR = 4
MIB = 1 << 20
DEFAULT_THREADS = 2  # components.evaluate.step measures with as many unless the plan says otherwise
SMOKE_TIMEOUT_S = 30.0
SMOKE_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A published model and what evaluation measured of it on the planned target.

    `throughput_per_s` is one replica's with `threads` CPU threads (or one GPU);
    `storage_uri` is the Triton repository's place (s3://…, gs://…, pvc://claim/path).
    """

    name: str
    version: int
    digest: str
    storage_uri: str
    size_bytes: int
    throughput_per_s: float
    threads: int
    gpu: bool = False


def replicas(model: Served, requests_per_second: float) -> int:
    """Return how many replicas carry the load at `TARGET_UTILISATION`.

    Raises:
        SpecError: throughput or load is not positive.
    """
    if model.throughput_per_s <= 0 or requests_per_second <= 0:
        raise SpecError(
            f"{model.name}: throughput {model.throughput_per_s} and load {requests_per_second} "
            "must be positive",
            remedy="use the figures of the selected variant in report.json",
        )
    capacity = model.throughput_per_s * TARGET_UTILISATION
    return max(1, math.ceil(requests_per_second / capacity))


def inference_service(
    model: Served, *, requests_per_second: float, namespace: str = "suanli"
) -> dict[str, Any]:
    """Return the InferenceService that carries `requests_per_second`."""
    count = replicas(model, requests_per_second)
    memory = f"{math.ceil((SERVER_BYTES + model.size_bytes * MEMORY_PER_MODEL_BYTE) / MIB)}Mi"
    requests = {"cpu": str(model.threads), "memory": memory}
    limits = {"memory": memory}
    placement: dict[str, Any] = {}
    if model.gpu:
        limits["nvidia.com/gpu"] = "1"
        taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        placement["tolerations"] = [taint]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": model.name,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/part-of": "suanli",
                "suanli.dev/version": str(model.version),
            },
            "annotations": {
                # Plain Deployment and HorizontalPodAutoscaler: no Knative needed.
                "serving.kserve.io/deploymentMode": "Standard",
                "suanli.dev/model-digest": model.digest,
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": count,
                "maxReplicas": max(count + 1, count * MAX_REPLICAS_FACTOR),
                # Inference saturates the CPU, so CPU use is the load.
                "scaleMetric": "cpu",
                "scaleTarget": round(TARGET_UTILISATION * 100),
                **placement,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "runtime": RUNTIME,
                    "runtimeVersion": TRITON_VERSION,
                    "protocolVersion": "v2",
                    "storageUri": model.storage_uri,
                    "resources": {"requests": requests, "limits": limits},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                },
            }
        },
    }


def served_from_report(
    report: dict[str, Any], *, version: int, digest: str, storage_uri: str
) -> Served:
    """Return what report.json says of the selected variant; its threads are the cores that its
    evaluation asked for.

    Raises:
        DataError: the report selects no variant or lacks its figures.
    """
    selected = report.get("selected")
    rows = {row["name"]: row for row in report.get("variants", [])}
    row = rows.get(selected)
    if row is None:
        raise DataError(
            f"report.json selects {selected!r}, which is not among {sorted(rows)}",
            remedy="serve a run that succeeded",
        )
    return Served(
        name=report["spec"]["name"],
        version=version,
        digest=digest,
        storage_uri=storage_uri,
        size_bytes=int(row["size_bytes"]),
        throughput_per_s=float(row["throughput_per_s"]),
        threads=_threads(report, str(selected)),
        gpu="CUDA" in str(row.get("provider")),
    )


def _threads(report: dict[str, Any], variant: str) -> int:
    name = f"evaluate-{variant.replace('+', '-')}"
    for step in report.get("steps", []):
        millicores = int(step["requested"].get("cpu_millicores") or 0)
        if step["name"] == name and millicores:
            return max(1, round(millicores / 1000))
    return DEFAULT_THREADS


def smoke(
    url: str,
    name: str,
    inputs: dict[str, list[list[int]]] | None = None,
    *,
    timeout_s: float = SMOKE_TIMEOUT_S,
) -> dict[str, Any]:
    """Send one request in the open inference protocol v2 and return the outputs by name.

    Args:
        url: the service's address, such as http://newsroom-ner.suanli.example.com.
        inputs: int64 tensors of shape (batch, length) by input name; without, one short row of
            what the model's own metadata asks for.

    Raises:
        StepError: the service is not ready, is unreachable or answers an error.
        DataError: the answer is not of the protocol, or holds no finite logits.
    """
    model = f"{url.rstrip('/')}/v2/models/{name}"
    _get(f"{model}/ready", timeout_s)
    if inputs is None:
        tensors = _one_row(url, _get(model, timeout_s))
    else:
        tensors = [
            _tensor(key, "INT64", [len(rows), len(rows[0])], [v for row in rows for v in row])
            for key, rows in inputs.items()
        ]
    answer = _get(f"{model}/infer", timeout_s, json.dumps({"inputs": tensors}).encode())
    try:
        outputs = {item["name"]: item for item in json.loads(answer)["outputs"]}
        values = outputs["logits"]["data"]
        finite = bool(values) and all(math.isfinite(value) for value in values)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{url}: not an answer of protocol v2: {error}", remedy="check protocolVersion: v2"
        ) from None
    if not finite:
        raise DataError(f"{url}: logits are empty or not finite", remedy="check the model")
    return outputs


def _one_row(url: str, metadata: bytes) -> list[dict[str, Any]]:
    """One row for each input that the model's metadata lists; open dimensions get eight entries.
    Ones: a token that every vocabulary has, a mask that hides nothing."""
    try:
        listed = [
            (item["name"], item["datatype"], [int(size) for size in item["shape"]])
            for item in json.loads(metadata)["inputs"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{url}: not the metadata of a model in protocol v2: {error}",
            remedy="check the address and protocolVersion: v2",
        ) from None
    tensors = []
    for name, datatype, shape in listed:
        row = [1, *(size if size > 0 else SMOKE_LENGTH for size in shape[1:])]
        one = 1.0 if datatype.startswith("FP") else 1
        tensors.append(_tensor(name, datatype, row, [one] * math.prod(row)))
    return tensors


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _get(url: str, timeout_s: float, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")[:200]
        raise StepError(
            f"{url}: {error.code}: {text}", remedy="kubectl describe inferenceservice"
        ) from None
    except OSError as error:
        raise StepError(f"{url}: {error}", remedy="is the service up and exposed?") from None
