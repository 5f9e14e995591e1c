"""Open ONNX Runtime sessions on the provider that was asked for, and on nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import DataError, StepError
from components.lib import onnx_graph

EXPORT_VERSION = 1
PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32,
          "tensor(float16)": np.float16}  # fmt: skip


def open_session(path: Path, *, provider: str, threads: int, options: dict[str, Any] | None = None):  # noqa: ANN201
    """Open the graph at `path` on `provider` and on nothing else.

    Raises:
        DataError: the file is missing, corrupted, or needs a newer runtime.
        StepError: the provider does not start here.
    """
    import onnxruntime as ort

    if provider == PROVIDERS["gpu"]:
        _preload_cuda(ort)
    if provider not in ort.get_available_providers():
        raise StepError(
            f"{provider} is not in this onnxruntime ({', '.join(ort.get_available_providers())})",
            remedy="install onnxruntime-gpu, alone, or evaluate on the CPU",
        )
    if not path.is_file():
        raise DataError(f"{path}: no ONNX file", remedy="run export again")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    if provider != PROVIDERS["cpu"]:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(path), settings, providers=[(provider, options or {})])
    except Exception as error:  # onnxruntime has a class a status code, all bare Exceptions
        raise _explain(path, provider, error) from error
    if session.get_providers()[0] != provider:
        raise StepError(
            f"asked for {provider}, got {session.get_providers()[0]}",
            remedy="check the GPU driver, CUDA 13 and cuDNN 9, or evaluate on the CPU",
        )
    return session


def _preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from the nvidia wheels, if they are there (onnxruntime does not search
    them by itself)."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _explain(path: Path, provider: str, error: Exception) -> Exception:
    text = str(error).splitlines()[0]
    if "opset" in text.lower() or "Unsupported model IR version" in text:
        import onnxruntime as ort

        return DataError(
            f"{path}: onnxruntime {ort.__version__} is too old for this graph: {text}",
            remedy=f"upgrade onnxruntime, or export with opset {onnx_graph.OPSET}",
        )
    if "is not a registered function/op" in text or "No Op registered" in text:
        return DataError(
            f"{path}: this runtime lacks an operator of the graph: {text}",
            remedy="serve with the onnxruntime that exported it",
        )
    if provider == PROVIDERS["cpu"]:
        return DataError(f"{path}: corrupted ONNX file: {text}", remedy="run export again")
    return StepError(f"{path}: cannot run on {provider}: {text}", remedy="export for this device")


def read_export(folder: Path) -> dict[str, Any]:
    """Return export.json of an exported or published model.

    Raises:
        DataError: missing, not JSON or of another version.
    """
    path = folder / "export.json"
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an exported model: {error}") from error
    if document.get("schema_version") != EXPORT_VERSION:
        raise DataError(f"{path}: schema_version {document.get('schema_version')!r} is unknown")
    return document
