"""The KServe object beside a published model is one that KServe can run."""

from __future__ import annotations

import yaml

from components.publish import layout
from pipelines import serving


def test_runtime_is_pinned_and_the_same_as_rendered() -> None:
    text = layout.inference_service("ner", 3, {"target": "cpu", "size_bytes": 22_000_000})
    document = yaml.safe_load(text)
    model = document["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "onnx"}
    assert model["runtime"] == serving.RUNTIME
    assert model["runtimeVersion"] == layout.TRITON_VERSION == serving.TRITON_VERSION
    assert document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert "nvidia.com/gpu" not in model["resources"]["limits"]


def test_gpu_models_ask_for_one() -> None:
    text = layout.inference_service("ner", 1, {"target": "gpu", "size_bytes": 1})
    model = yaml.safe_load(text)["spec"]["predictor"]["model"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
