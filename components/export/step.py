"""Turn a PyTorch model into the fastest ONNX graph that provably computes the same.

Graphs are tried from most to least fused. One that fails to build, to load or to agree with eager
PyTorch on real batches is dropped, and the artifact says so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from components.contract import StepError, SuanliError
from components.export import encoder, graphs, parity
from components.export.job import TOKEN_TASKS, Job, real_feeds
from components.lib import onnx_graph
from components.lib.dataset import read_manifest
from components.lib.modelling import load_model, read_info
from components.lib.references import TOKENIZER_FILES, pad_token_id
from components.lib.runner import PACKED_FILE
from components.lib.sessions import EXPORT_VERSION, PROVIDERS, open_session
from components.runtime import StepContext


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
        table_bits=int(info.get("table_bits", 8)),
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
    if job.target == "gpu" and level == "encoder":
        graphs.write_packed(job, folder / PACKED_FILE)
        document["packed"] = True
    (folder / "export.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    context.notes += [*job.fallbacks, *job.unproven]
    context.metrics.update(
        fusion=level, size_bytes=document["size_bytes"], parity=document["parity"]
    )
    context.workload.update(
        parameters=info.get("parameters"), precision=precision, bytes=document["size_bytes"]
    )
    context.progress(1.0, f"{level} graph, {document['size_bytes'] / 1e6:.1f} MB")
    return context.put(folder, kind="onnx")


def best_graph(job: Job) -> tuple[Path, str, list[parity.Parity]]:
    """Return the most fused graph that passes, its level, and its checks (fp32, then final).

    When no graph survives the reduction to the wanted precision, the most fused fp32 graph is
    taken, and the job's precision and fallbacks say so.

    Raises:
        StepError: not even the plain fp32 graph agrees with PyTorch.
        DataError: the exporter cannot express the model.
    """
    exact: tuple[Path, str, list[parity.Parity]] | None = None
    for level, build in graphs.levels(job):
        try:
            graph = build(job)
            whole = check(job, graph, "fp32")
            if not whole.passed:
                job.fallbacks.append(f"{level} graph dropped: {whole.fault}")
                continue
            exact = exact or (graph, level, [whole])
            if job.precision == "fp32":
                return exact
            job.context.progress(0.6, f"{job.precision} of the {level} graph")
            with job.context.phase("quantise"):
                graph = graphs.reduce_precision(job, graph, level)
            small = check(job, graph, job.precision)
            if small.passed:
                return graph, level, [whole, small]
            job.fallbacks.append(f"{job.precision} of the {level} graph dropped: {small.fault}")
        except encoder.UnknownArchitectureError as error:
            job.fallbacks.append(f"{level} graph dropped: {error.message}")
        except (SuanliError, OSError):
            raise  # what a person must mend: no other graph mends it
        except Exception as error:  # the optimizer and the quantizers raise what they stumble over
            if level == "none" and exact is None:
                raise
            job.fallbacks.append(f"{level} graph dropped: {type(error).__name__}: {error}")
    if exact is None:
        raise StepError(
            "no graph agrees with PyTorch: " + "; ".join(job.fallbacks),
            remedy="report the model's architecture",
        )
    job.fallbacks.append(f"{job.precision} given up: this is the fp32 graph")
    job.precision = "fp32"
    return exact


def check(job: Job, graph: Path, precision: str) -> parity.Parity:
    """Compare the graph with eager PyTorch on the job's batches, on the device it is for when that
    is here."""
    with job.context.phase("parity"):
        device = "gpu" if job.target == "gpu" and cuda_is_here() else "cpu"
        if device == "cpu" and job.target == "gpu" and precision == "fp16":
            job.unproven.append("no CUDA device here: fp16 checked with fp16 weights in fp32")
            raised = graph.with_name(f"{graph.stem}-raised.onnx")
            onnx_graph.save(onnx_graph.as_fp32(onnx_graph.load(graph)), raised)
            graph = raised
        session = open_session(graph, provider=PROVIDERS[device], threads=2)
        found = parity.session_logits(session, job.feeds, job.per_token)
        masks = [feed["attention_mask"] for feed in job.feeds if "attention_mask" in feed]
        lengths = np.concatenate([mask.sum(axis=1) for mask in masks] or [np.empty(0, int)])
        return parity.compare(job.reference, found, lengths, precision)


def cuda_is_here() -> bool:
    """True when PyTorch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


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
        "notes": job.unproven,
    }
