"""Ways to build a model's graph, and its reduction to the wanted precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.contract import DataError, SpecError
from components.export import compact, encoder, quantise, smooth, torchscript
from components.export.job import Job, training_feeds
from components.lib import calibrate, fusion, onnx_graph

Build = Callable[[Job], Path]


def levels(job: Job) -> list[tuple[str, Build]]:
    """Ways to build the fp32 graph, most fused first."""
    written = job.model.config.model_type in encoder.FAMILIES
    return ([("encoder", written_graph)] if written else []) + [
        ("optimizer", fused_graph),
        ("none", plain_graph),
    ]


def written_graph(job: Job) -> Path:
    """Write the encoder from its weights."""
    path = job.work / "encoder.onnx"
    gpu = job.target == "gpu"
    with job.context.phase("convert"):
        onnx_graph.save(encoder.build(job.model, job.task, job.max_length, gpu=gpu), path)
    return path


def plain_graph(job: Job) -> Path:
    """Trace the model, once."""
    path = job.work / "plain.onnx"
    if not path.exists():
        job.context.progress(0.2, "tracing")
        with job.context.phase("convert"):
            torchscript.trace(job.model, job.task, path)
            model = onnx_graph.load(path)
            onnx_graph.share_equal_weights(model)
            onnx_graph.save(model, path)
    return path


def fused_graph(job: Job) -> Path:
    """Trace the model and let ONNX Runtime's optimizer fuse it."""
    config, path = job.model.config, job.work / "optimizer.onnx"
    plain = plain_graph(job)
    with job.context.phase("optimise"):
        fusion.fuse(
            plain,
            path,
            model_type=config.model_type,
            heads=_one(config, "num_attention_heads"),
            hidden=_one(config, "hidden_size"),
            gpu=job.target == "gpu",
        )
    return path


def _one(config: Any, name: str) -> int:
    """Return a size that all layers share; 0 where stages differ (LeViT) or there is none."""
    value = getattr(config, name, 0)
    return value if isinstance(value, int) else 0


def reduce_precision(job: Job, graph: Path, level: str) -> Path:
    """Return the graph in the job's precision.

    Raises:
        SpecError: the target has no kernels for it.
    """
    target = graph.with_name(f"{graph.stem}-{job.precision}.onnx")
    gpu = job.target == "gpu"
    if gpu and job.precision.startswith("int8"):
        raise SpecError(
            "int8 on a GPU needs TensorRT: CUDA runs quantised graphs slower than fp16",
            remedy="use fp16 for serving.target: gpu",
        )
    match job.precision:
        case "fp16" if gpu and level == "encoder":
            made = encoder.build(job.model, job.task, job.max_length, gpu=True, half=True)
            onnx_graph.save(made, target)
        case "fp16" if gpu:
            fusion.to_half(graph, target)
        case "fp16":
            onnx_graph.save(compact.compact(onnx_graph.load(graph)), target)
        case "int8" | "int8-static":
            static = job.precision == "int8-static"
            onnx_graph.save(eight_bits(job, onnx_graph.load(graph), static=static), target)
        case "int4":
            quantise.int4_weights(graph, target)
        case _:
            raise DataError(f"precision {job.precision!r} is unknown")
    return target


def eight_bits(job: Job, model: Any, *, static: bool) -> Any:
    """Even out channels with outliers, then quantise; figures come from training rows only.

    Raises:
        DataError: static ranges are wanted and there are no training rows.
    """
    feeds = training_feeds(job, needed=static)
    if feeds:
        model = smooth.smooth(model, calibrate.observe(model, quantise.activations(model), feeds))
    ranges = calibrate.ranges(model, quantise.activations(model), feeds) if static else None
    return quantise.int8(model, ranges, table_bits=job.table_bits)


def write_packed(job: Job, path: Path) -> None:
    """Write the form that computes no padding beside the graph. The runner compares the two on its
    first batch and keeps the padded one if they differ."""
    made = encoder.build(
        job.model,
        job.task,
        job.max_length,
        gpu=True,
        half=job.precision == "fp16",
        packed=True,
    )
    onnx_graph.save(made, path)
