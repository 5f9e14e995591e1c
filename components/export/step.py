"""Turn a PyTorch model into the fastest ONNX graph that provably computes the same.

Graphs are tried from most to least fused. One that fails to build, to load or to agree with eager
PyTorch on real batches is dropped, and the artifact says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import DataError, StepError, SuanliError
from components.export import encoder, parity, quantise, torchscript
from components.lib import calibrate, fusion, onnx_graph
from components.lib.dataset import load_split, read_manifest
from components.lib.modelling import load_model, read_info
from components.lib.references import TOKENIZER_FILES, pad_token_id
from components.lib.runner import EXPORT_VERSION, PROVIDERS, Sequences, open_session
from components.runtime import StepContext

TOKEN_TASKS = ("token-classification", "causal-lm")


@dataclass(slots=True, kw_only=True)
class Job:
    """One model on its way to a graph."""

    context: StepContext
    model: Any
    task: str
    precision: str
    target: str
    max_length: int
    pad_token_id: int
    dataset: Path
    work: Path
    feeds: list[dict[str, np.ndarray]]
    reference: list[np.ndarray]
    fallbacks: list[str] = field(default_factory=list)

    @property
    def per_token(self) -> bool:
        return self.task in TOKEN_TASKS


def run(context: StepContext) -> str:
    """Export, check and store; returns the onnx artifact's URI."""
    arguments = context.arguments
    source = context.fetch(context.inputs["model"])
    dataset = context.fetch(context.inputs["dataset"])
    info, manifest = read_info(source), read_manifest(dataset)
    task = arguments.get("task", info.get("task"))
    precision = info.get("onnx_precision") or arguments.get("precision_hint", "fp32")
    context.progress(0.05, f"loading {task} model")
    with context.phase("load"):
        model = load_model(source, task, attention="eager").eval()
    pad = pad_token_id(source) if (source / "tokenizer.json").is_file() else 0
    with context.phase("parity"):
        feeds = real_feeds(dataset, pad, task, model)
        reference = parity.torch_logits(model, feeds, task in TOKEN_TASKS)
    job = Job(
        context=context,
        model=model,
        task=task,
        precision=precision,
        target=arguments.get("target", "cpu"),
        max_length=int(arguments.get("max_length") or manifest["max_length"]),
        pad_token_id=pad,
        dataset=dataset,
        work=context.folder("work"),
        feeds=feeds,
        reference=reference,
    )
    graph, level, checks = best_graph(job)
    folder = context.folder("onnx")
    with context.phase("write"):
        document = write_artifact(job, folder, graph, source)
    variant = arguments.get("variant") or info.get("variant") or precision
    document |= {
        "variant": variant,
        "fusion": level,
        "parity": checks[-1].to_json(),
        "parity_fused_fp32": checks[0].to_json(),
        "parameters": info.get("parameters"),
    }
    (folder / "export.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    context.notes += job.fallbacks
    context.metrics.update(
        fusion=level, size_bytes=document["size_bytes"], parity=document["parity"]
    )
    context.workload.update(
        parameters=info.get("parameters"), precision=precision, bytes=document["size_bytes"]
    )
    context.progress(1.0, f"{level} graph, {document['size_bytes'] / 1e6:.1f} MB")
    return context.put(folder, kind="onnx")


def real_feeds(dataset: Path, pad: int, task: str, model: Any) -> list[dict[str, np.ndarray]]:
    """Return padded batches of validation rows that span all lengths.

    Raises:
        DataError: the split is empty.
    """
    split = load_split(dataset, "validation")
    if not split.rows:
        raise DataError("validation split is empty", remedy="parity needs real sequences")
    if task == "image-classification":
        from components.lib.images import pixels

        rows = np.arange(min(split.rows, parity.BATCHES * parity.ROWS))
        size = model.config.image_size
        return [
            {"pixel_values": pixels(split, part, size)}
            for part in np.array_split(rows, -(-len(rows) // parity.ROWS))
        ]
    batch, names = Sequences.of(split), torchscript.input_names(model, task)
    feeds = []
    for rows in parity.sample_rows(split.lengths):
        arrays = batch.padded(rows, pad)
        feeds.append({name: arrays[name].astype(np.int64) for name in names})
    return feeds


Build = Callable[[Job], Path]


def best_graph(job: Job) -> tuple[Path, str, list[parity.Parity]]:
    """Return the most fused graph that passes, its level, and its checks (fp32, then final).

    Raises:
        StepError: not even the plain graph agrees with PyTorch.
        DataError: the exporter cannot express the model.
    """
    for level, build in levels(job):
        try:
            graph = build(job)
            checks = [check(job, graph, "fp32")]
            if checks[-1].passed and job.precision != "fp32":
                job.context.progress(0.6, f"{job.precision} of the {level} graph")
                with job.context.phase("quantise"):
                    graph = reduce_precision(job, graph)
                checks.append(check(job, graph, job.precision))
            if checks[-1].passed:
                return graph, level, checks
            failed = checks[-1]
            job.fallbacks.append(
                f"{level} graph dropped: logits differ by {failed.max_abs_diff:.2e} (allowed "
                f"{failed.tolerance:.2e}), equal predictions {failed.equal_predictions:.4f}"
            )
        except SuanliError as error:
            if level == "none":
                raise
            job.fallbacks.append(f"{level} graph dropped: {error.message}")
        except (KeyError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
            # ONNX Runtime's optimizer and quantizers raise whatever they stumble over.
            if level == "none":
                raise
            job.fallbacks.append(f"{level} graph dropped: {type(error).__name__}: {error}")
    raise StepError(
        "no graph agrees with PyTorch: " + "; ".join(job.fallbacks),
        remedy="try another precision, or report the model's architecture",
    )


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
    with job.context.phase("convert"):
        onnx_graph.save(encoder.build(job.model, job.task, job.max_length), path)
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
            heads=int(getattr(config, "num_attention_heads", 0)),
            hidden=int(getattr(config, "hidden_size", 0)),
            gpu=job.target == "gpu",
            half=False,
        )
    return path


def reduce_precision(job: Job, graph: Path) -> Path:
    """Return the graph in the job's precision."""
    target = graph.with_name(f"{graph.stem}-{job.precision}.onnx")
    match job.precision:
        case "int8":
            onnx_graph.save(quantise.int8(onnx_graph.load(graph)), target)
        case "int8-static":
            model = onnx_graph.load(graph)
            ranges = calibrate.ranges(model, quantise.activations(model), training_feeds(job))
            onnx_graph.save(quantise.int8(model, ranges), target)
        case "int4":
            quantise.int4_weights(graph, target)
        case _:
            raise DataError(f"precision {job.precision!r} is unknown")
    return target


def training_feeds(job: Job) -> list[dict[str, np.ndarray]]:
    """Return padded batches of training rows, never of rows that anything is scored on."""
    split = load_split(job.dataset, "train")
    batch = Sequences.of(split)
    rows = calibrate.calibration_rows(split.lengths)
    rows = rows[np.argsort(split.lengths[rows], kind="stable")]
    names = list(job.feeds[0])
    feeds = []
    for part in np.array_split(rows, -(-len(rows) // 16)):
        arrays = batch.padded(part, job.pad_token_id)
        feeds.append({name: arrays[name].astype(np.int64) for name in names})
    return feeds


def check(job: Job, graph: Path, precision: str) -> parity.Parity:
    """Compare the graph with eager PyTorch on the job's batches."""
    with job.context.phase("parity"):
        session = open_session(graph, provider=PROVIDERS["cpu"], threads=2)
        found = parity.session_logits(session, job.feeds, job.per_token)
        lengths = np.concatenate(
            [f["attention_mask"].sum(axis=1) for f in job.feeds if "attention_mask" in f] or [[]]
        )
        return parity.compare(job.reference, found, lengths, precision)


def write_artifact(job: Job, folder: Path, graph: Path, source: Path) -> dict[str, Any]:
    """Fill the artifact's folder and return the facts of export.json known here."""
    model = onnx_graph.load(graph)
    model.producer_name = "suanli"
    onnx_graph.save(model, folder / "model.onnx")
    for name in (*TOKENIZER_FILES, "labels.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    kinds = {1: "float32", 6: "int32", 7: "int64", 10: "float16"}
    return {
        "schema_version": EXPORT_VERSION,
        "task": job.task,
        "precision": job.precision,
        "target": job.target,
        "opset": onnx_graph.opset(model),
        "operators": onnx_graph.operators(model),
        "inputs": [
            {"name": i.name, "dtype": kinds[i.type.tensor_type.elem_type]}
            for i in model.graph.input
        ],
        "output": "token" if job.per_token else "sequence",
        "max_length": job.max_length,
        "image_size": getattr(job.model.config, "image_size", None),
        "pad_token_id": job.pad_token_id,
        "size_bytes": onnx_graph.size_bytes(folder),
        "fallbacks": job.fallbacks,
        "notes": [],
    }
