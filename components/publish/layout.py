"""Serving layouts beside the model folder: a Triton model repository and a KServe object."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TRITON_TYPES = {
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
}
# Requests that wait this long for others are batched on the server (microseconds).
TRITON_QUEUE_DELAY_US = 500
TRITON_MAX_BATCH = 64
# KServe's own default (23.05) knows no opset above 18; 25.08 carries ONNX Runtime 1.22. The same
# as pipelines.serving renders.
TRITON_VERSION = "25.08-py3"


def write(folder: Path, name: str, version: int, model: Path, selection: dict[str, Any]) -> None:
    """Write ``triton/<name>`` and ``kserve/`` below `folder`."""
    export = json.loads((model / "export.json").read_text())
    labels = json.loads((model / "labels.json").read_text())
    triton = folder / "triton" / name
    (triton / "1").mkdir(parents=True)
    for path in sorted(model.glob("model.onnx*")):
        shutil.copyfile(path, triton / "1" / path.name)
    (triton / "config.pbtxt").write_text(triton_config(name, export, len(labels)))
    kserve = folder / "kserve"
    kserve.mkdir()
    (kserve / "inferenceservice.yaml").write_text(inference_service(name, version, export))


def triton_config(name: str, export: dict[str, Any], labels: int) -> str:
    """Return config.pbtxt for Triton's onnxruntime backend: dynamic batches, -1 for length."""
    if export.get("image_size"):
        size = export["image_size"]
        dims = f"[ 3, {size}, {size} ]"
    else:
        dims = "[ -1 ]"
    inputs = ",\n".join(
        f'  {{ name: "{item["name"]}", data_type: {TRITON_TYPES[item["dtype"]]}, dims: {dims} }}'
        for item in export["inputs"]
    )
    width = labels if labels else -1
    shape = f"[ -1, {width} ]" if export["output"] == "token" else f"[ {max(width, 1)} ]"
    kind = "KIND_GPU" if export["target"] == "gpu" else "KIND_CPU"
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {TRITON_MAX_BATCH}
input [
{inputs}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: {shape} }}
]
instance_group [ {{ kind: {kind}, count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {TRITON_QUEUE_DELAY_US} }}
"""


def inference_service(name: str, version: int, export: dict[str, Any]) -> str:
    """Return a KServe InferenceService that serves the Triton repository from a claim.

    The claim ``suanli-published`` holds the published folder; replace `storageUri` for an object
    store.
    """
    gpu = '\n          nvidia.com/gpu: "1"' if export["target"] == "gpu" else ""
    memory = f"{max(1, -(-export['size_bytes'] * 4 // 2**30))}Gi"
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
  annotations:
    serving.kserve.io/deploymentMode: Standard
  labels:
    suanli.dev/version: "{version}"
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      runtime: kserve-tritonserver
      runtimeVersion: "{TRITON_VERSION}"
      storageUri: pvc://suanli-published/triton
      resources:
        requests:
          cpu: "2"
          memory: {memory}
        limits:
          memory: {memory}{gpu}
"""
