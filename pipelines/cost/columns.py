"""Workloads as columns: one numpy array a field, so that the model runs over many at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.cost.hardware import GB, GIB, Cpu, Gpu, find_gpu
from pipelines.cost.workload import HERE_CPU, Workload

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]
T = TypeVar("T")

# A GEMM on a CPU behaves like one on a "GPU" of one SM per core.
_NO_LINK = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Equal-length arrays; see `Workload`, `ModelShape` and `Gpu` for meanings and units."""

    size: int
    values: dict[str, Floats]
    flags: dict[str, Bools]
    names: dict[str, Names]
    masks: dict[tuple[str, ...], Bools] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, key: str) -> Floats:
        return self.values[key]

    def is_(self, column: str, *options: str) -> Bools:
        """Where the text column equals one of `options`."""
        key = (column, *options)
        if key not in self.masks:
            self.masks[key] = np.isin(self.names[column].astype(str), options)
        return self.masks[key]

    def take(self, index: npt.NDArray[Any]) -> Columns:
        """Return the rows of a boolean mask or an index array."""
        values = {k: v[index] for k, v in self.values.items()}
        size = len(next(iter(values.values())))
        return Columns(
            size=size,
            values=values,
            flags={k: v[index] for k, v in self.flags.items()},
            names={k: v[index] for k, v in self.names.items()},
        )


_SHAPE = (
    *("hidden_size", "num_layers", "num_heads", "head_dim", "ffn_size", "vocab_size"),
    *("query_size", "kv_size", "sliding_window", "global_every", "num_kv_heads"),
    *("layer_parameters", "embedding_parameters", "backbone_parameters", "matmul_parameters"),
    *("lm_head_parameters", "embedding_size", "image_tokens"),
)
_WORKLOAD = (
    *("n_gpus", "nodes", "seq_len", "micro_batch", "grad_accum", "tp", "pp", "cp", "vp"),
    *("fsdp_degree", "peft_rank", "trainable_parameters", "fill", "data_parallel"),
)
_FLAGS = (
    *("packing", "compiled", "sparse", "pure_precision", "serving", "generator", "chunked_loss"),
    *("optimizer_in_backward", "offload_activations", "offload_states", "generation"),
)
_NAMES = (
    *("kind", "task", "precision", "runtime", "framework", "optimizer", "sharding"),
    *("checkpointing", "attention", "quantization", "head", "lora_targets", "recipe"),
)


def columns_of(workloads: Sequence[Workload]) -> Columns:
    """Lay `workloads` out as columns.

    Raises:
        KeyError: a GPU name that `find_gpu` does not know (callers check names first).
    """
    # Thousands of layouts share a shape and a device: read each of those once.
    shapes, shape_of = _distinct([w.shape for w in workloads], id)
    devices, device_of = _distinct(
        list(workloads), lambda w: (w.gpu, w.precision, id(w.cpu) if w.cpu else None)
    )
    values: dict[str, Floats] = {
        key: np.array([getattr(s, key) for s in shapes], dtype=float)[shape_of] for key in _SHAPE
    }
    for key in _WORKLOAD:
        values[key] = np.array([getattr(w, key) for w in workloads], dtype=float)
    flags = {key: np.array([getattr(w, key) for w in workloads], dtype=bool) for key in _FLAGS}
    flags["causal"] = np.array([s.causal for s in shapes], dtype=bool)[shape_of]
    flags["gated_mlp"] = np.array([s.gated_mlp for s in shapes], dtype=bool)[shape_of]
    flags["tied"] = np.array([s.tied_embeddings for s in shapes], dtype=bool)[shape_of]
    names = {key: np.array([getattr(w, key) for w in workloads], dtype=object) for key in _NAMES}
    names["family"] = np.array([s.family for s in shapes], dtype=object)[shape_of]
    found = [_device(w) for w in devices]
    for key in found[0] if found else ():
        column = [device[key] for device in found]
        if isinstance(column[0], str):
            names[key] = np.array(column, dtype=object)[device_of]
        elif isinstance(column[0], bool):
            flags[key] = np.array(column, dtype=bool)[device_of]
        else:
            values[key] = np.array(column, dtype=float)[device_of]
    return Columns(size=len(workloads), values=values, flags=flags, names=names)


def _distinct(items: list[T], key: Callable[[T], Hashable]) -> tuple[list[T], npt.NDArray[np.intp]]:
    """Return the items with distinct keys, and for each item the place of its like among them."""
    place: dict[Hashable, int] = {}
    found: list[T] = []
    where = np.empty(len(items), dtype=np.intp)
    for i, item in enumerate(items):
        name = key(item)
        if name not in place:
            place[name] = len(found)
            found.append(item)
        where[i] = place[name]
    return found, where


def _device(workload: Workload) -> dict[str, Any]:
    if workload.gpu == HERE_CPU and workload.cpu is not None:
        return _cpu_columns(workload.cpu, workload.precision)
    gpu = find_gpu(workload.gpu)
    if gpu is None:
        raise KeyError(workload.gpu)
    return _gpu_columns(gpu, workload.precision)


_cache: dict[tuple[str, bool, str], dict[str, Any]] = {}


def _gpu_columns(gpu: Gpu, precision: str) -> dict[str, Any]:
    key = (gpu.name, gpu.ambiguous, precision)
    if key not in _cache:
        _cache[key] = {
            "device": gpu.name,
            "arch": gpu.arch,
            "is_cpu": False,
            "ambiguous": gpu.ambiguous,
            "native": gpu.supports(precision),
            "peak": gpu.peak_flops(precision),
            "half_peak": gpu.peak_flops("fp16"),
            "vector_peak": gpu.peak_flops("fp32"),
            "bandwidth": gpu.bandwidth_bytes_per_second,
            "sms": float(gpu.sms),
            "link": gpu.link_bytes_per_second or _NO_LINK,
            "pcie": gpu.pcie_bytes_per_second,
            "watts": gpu.tdp_watts,
            "memory": gpu.memory_bytes,
            "usable": gpu.usable_bytes,
        }
    return _cache[key]


def _cpu_columns(cpu: Cpu, precision: str) -> dict[str, Any]:
    kind = {"tf32": "fp32", "fp16": "fp32", "fp8": "bf16", "fp4": "bf16"}.get(precision, precision)
    peak = cpu.gemm_flops[kind]
    return {
        "device": cpu.name,
        "arch": "cpu",
        "is_cpu": True,
        "ambiguous": False,
        "native": True,
        "peak": peak,
        "half_peak": cpu.gemm_flops["bf16"],
        "vector_peak": cpu.gemm_flops["fp32"],
        "bandwidth": cpu.bandwidth_bytes_per_second,
        "sms": float(cpu.cores),
        "link": _NO_LINK,
        "pcie": 12.0 * GB,
        "watts": 1e6,
        "memory": cpu.memory_bytes,
        "usable": cpu.memory_bytes - 0.5 * GIB,
    }
