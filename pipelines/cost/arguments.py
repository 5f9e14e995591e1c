"""What each step's `run` receives: the spec's words with every `auto` that the plan decides."""

from __future__ import annotations

from typing import Any

from pipelines.cost.compression import compress_arguments
from pipelines.cost.job import Job
from pipelines.cost.model import model_reference
from pipelines.cost.way import Training, Way

SPLITS = ("train", "validation", "test")


def step_arguments(job: Job, way: Way, kind: str, variant: str | None = None) -> dict[str, Any]:
    """Return the arguments of the step of `kind`."""
    spec = job.spec
    training = way.training
    target = job.target
    threads = max(1, int(way.serving.machine.cores))
    common = {"task": spec.task, "seed": spec.training.seed}
    of_variant = {"variant": variant, "target": target}
    match kind:
        case "ingest":
            return {
                **common,
                "name": spec.name,
                "model": model_reference(spec),
                "data": _data(job),
                "max_length": spec.training.max_length,
                **({"document_context": True} if spec.training.document_context else {}),
            }
        case "place":
            return {"tiers": _tiers(job, way)}
        case "train":
            return {
                "task": spec.task,
                "model": model_reference(spec),
                "training": training_arguments(job, training),
                "tracking": spec.tracking.model_dump(mode="json"),
            }
        case "compress":
            found = compress_arguments(job, way.light.machine, str(variant))
            section = training_arguments(job, training)
            section["precision"] = found.pop("precision")
            return {**common, **of_variant, "training": section, **found}
        case "export":
            return {
                **common,
                **of_variant,
                "max_length": spec.training.max_length,
                "precision_hint": _precision_hint(str(variant), target),
            }
        case "evaluate":
            return {
                **common,
                **of_variant,
                "threads": threads,
                "split": "validation",
                "usd_per_hour": way.serving.usd_per_hour,
                "max_batch": 64,
                "requests_per_second": spec.serving.requests_per_second,
            }
        case "select":
            return {
                **common,
                "variants": list(job.variants),
                "max_quality_drop": spec.compression.max_quality_drop,
                "gate": spec.compression.gate,
                "p99_latency_ms": spec.serving.p99_latency_ms,
                "requests_per_second": spec.serving.requests_per_second,
                "minimize": spec.objective.minimize,
                "target": target,
                "threads": threads,
                "usd_per_hour": way.serving.usd_per_hour,
            }
        case "publish":
            return {
                "name": spec.name,
                "task": spec.task,
                "version": None,
                "spec_name": spec.name,
            }
    return {}


def training_arguments(job: Job, training: Training) -> dict[str, Any]:
    """Return the spec's training section with what the plan resolved."""
    section: dict[str, Any] = job.spec.training.model_dump(mode="json")
    if section["augment"] is None:  # as specs of before it
        del section["augment"]
    return {
        **section,
        "global_batch": job.global_batch,
        "micro_batch": training.micro_batch,
        "grad_accum": training.grad_accum,
        "token_budget": None,
        "precision": training.precision,
        "optimizer": training.optimizer,
        "weight_decay": 0.01,
        "warmup_fraction": 0.1,
        "processes": training.processes,
        "nodes": training.nodes,
        "sharding": training.sharding,
        "activation_checkpointing": training.checkpointing,
        "checkpoint_interval_s": training.checkpoint_interval_s,
        "packing": "auto",
    }


def _data(job: Job) -> dict[str, Any]:
    data = job.spec.data
    document: dict[str, Any] = {}
    for split in SPLITS:
        source = getattr(data, split)
        document[split] = (
            {"uri": job.spec.locate(source.uri)} if source.uri else {"fraction": source.fraction}
        )
    optional = {
        "out_of_scope": data.out_of_scope,
        "revision": data.revision,
        "unlabelled": data.unlabelled
        and {**data.unlabelled.model_dump(), "uri": job.spec.locate(data.unlabelled.uri)},
    }
    return {
        **document,
        "format": data.format,
        "columns": dict(data.columns),
        "redact": data.redact,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _tiers(job: Job, way: Way) -> list[str]:
    """Every reader finds the dataset on the hot tier; the warm copy survives the cluster's volume
    and is where nodes of a multi-node job read."""
    if way.training.placement.instance is None and job.spec.storage.warm is None:
        return ["hot"]
    return ["hot", "warm"]


def _precision_hint(variant: str, target: str) -> str:
    for part in variant.split("+"):
        if part in ("fp32", "fp16", "int8", "int8-static", "int4"):
            return part
    return "fp16" if target == "gpu" else "fp32"
