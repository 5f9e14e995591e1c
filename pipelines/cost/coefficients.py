"""Priors of the time model's coefficients: value, spread (log standard deviation), meaning.

The fit starts from these values and is pulled towards them with these spreads, so that what no
measurement tells keeps a physically sensible value.
"""

from __future__ import annotations

from functools import cache

from components.contract import content_hash
from pipelines.cost.kernels import data

_TRAIN = (*("pytorch", "compiled", "tensorflow", "tensorflow1", "paddle", "megatron", "nemo"),)
_INFER = (
    *("pytorch", "tensorflow", "tensorflow1", "paddle", "onnxruntime", "onnxruntime-tensorrt"),
    *("tensorrt", "compiled"),
)


def priors() -> dict[str, tuple[float, float]]:
    """Return name -> (value, log spread)."""
    p: dict[str, tuple[float, float]] = {
        # Share of padded length computed when batches are binned by length (no unit): half of
        # BERT's pre-training data is padding at 512 tokens (arXiv 2107.02027), bins leave some.
        "fill.binned": (0.58, 0.1),
        # Product kernels against the bf16 surface of gemm.csv.
        "gemm.backward": (1.05, 0.1),
        "kernel.fp32": (1.05, 0.1),
        # The tensor cores of half precision, at half their rate.
        "kernel.tf32": (0.95, 0.12),
        "kernel.int8": (1.0, 0.2),
        # On H100 1,175 of 1,979 TFLOP/s by torch._scaled_mm, 1,610 by cuBLASLt (8192 cubed).
        "kernel.fp8": (0.68, 0.15),
        "kernel.fp8_tuned": (0.9, 0.15),
        "kernel.fp4": (0.5, 0.3),
        "kernel.emulated": (0.8, 0.3),
        "kernel.sparse": (1.25, 0.15),
        "arch.Volta.half": (0.85, 0.12),
        "arch.Turing.half": (0.95, 0.12),
        "arch.Volta.int8": (1.0, 0.3),
        "arch.Pascal.fp32": (0.9, 0.2),
        "arch.Volta.fp32": (1.0, 0.15),
        "arch.CDNA.fp32": (0.8, 0.2),
        "arch.CDNA2.fp32": (0.8, 0.2),
        # Picojoule per fp16 FLOP, board power over it bounds sustained speed.
        "energy.12nm": (1.9, 0.15),
        "energy.7nm": (0.9, 0.2),
        "energy.5nm": (0.45, 0.15),
        "energy.fp32": (8.0, 0.3),
        # Attention: share of the product rate, passes over the score matrix.
        "attention.fused": (0.9, 0.2),
        "attention.fused_backward": (1.2, 0.15),
        # Rows of a head's scores that one thread block takes.
        "attention.block": (256.0, 0.5),
        "attention.products": (0.8, 0.3),
        "attention.scores": (8.0, 0.4),
        "attention.scores_backward": (1.5, 0.3),
        # Passes over [tokens, hidden] and [tokens, inner] in a layer's forward.
        "elementwise.hidden": (32.0, 0.3),
        "elementwise.inner": (4.0, 0.4),
        "fused.hidden": (8.0, 0.25),
        "fused.inner": (1.5, 0.4),
        "elementwise.backward": (1.7, 0.2),
        "elementwise.cast": (4.0, 0.5),
        "adapter.bytes": (30.0, 0.5),
        "nf4.bytes": (3.0, 0.5),
        "head.bytes": (6.0, 0.4),
        # Collectives: share of link bandwidth, microseconds a hop.
        "link.nvlink": (0.8, 0.1),
        "link.pcie": (0.35, 0.4),
        "link.network": (0.8, 0.15),
        "link.alpha": (5.0, 0.5),
        "tp.latency": (10.0, 0.5),
        "overlap.ddp": (0.7, 0.3),
        "overlap.fsdp": (0.7, 0.3),
        "fsdp.exposed": (0.15, 0.5),
        "pipeline.bubble": (1.0, 0.1),
        # Bytes an update moves per parameter.
        "optimizer.adam": (30.0, 0.4),
        "optimizer.lamb": (60.0, 0.4),
        # Milliseconds of a request outside the model, generator against discriminator.
        "serving.fixed": (0.5, 0.5),
        "electra.generator": (0.3, 0.4),
    }
    # A class of stacks shares its value; a stack multiplies it by a factor near 1.
    p |= {
        "gemm.train": (0.9, 0.15),
        "gemm.infer": (0.9, 0.15),
        # Microseconds of the host to enqueue a layer's forward: some 40 calls of 7 us when
        # every operator is dispatched, a few when fused, one replay of a graph.
        "launch.eager": (400.0, 0.25),
        "launch.fused": (100.0, 0.5),
        "launch.graph": (20.0, 0.4),
        "wave.train": (0.05, 0.7),
        "wave.infer": (0.05, 0.7),
        "kernel.scaled": (0.9, 0.15),
        # Microseconds of the host for a tensor-parallel collective, doubled ranks each.
        "launch.collective": (40.0, 0.5),
    }
    for arch in ("Hopper", "Blackwell", "Ada", "CDNA3", "CDNA4"):
        p[f"arch.{arch}.fp8"] = (1.0, 0.15)
        p[f"arch.{arch}.half"] = (1.0, 0.1)
    for arch in ("Ampere", "Turing", "Ada", "Hopper"):
        p[f"arch.{arch}.fp32"] = (1.0, 0.1)
        p[f"arch.{arch}.int8"] = (1.0, 0.15)
    for stack in (*(f"{s}.train" for s in _TRAIN), *(f"{s}.infer" for s in _INFER)):
        graph = stack.startswith(("tensorrt", "onnxruntime-t"))
        exported = stack.startswith("onnxruntime-t")
        p[f"gemm.{stack}"] = (1.0, 0.12)
        # Megatron-LM fuses bias-GELU, bias-dropout-add and scale-mask-softmax by default.
        megatron = stack.startswith("megatron")
        p[f"elementwise.{stack}"] = (0.65 if megatron or exported else 1.0, 0.3)
        p[f"scores.{stack}"] = (0.5 if graph or megatron else 1.0, 0.4)
        p[f"launch.{stack}"] = (1.2 if megatron else 1.0, 0.35)
        # Milliseconds a step or a batch apart from the layers.
        p[f"fixed.{stack}"] = (0.1 if graph else 0.5 if stack.endswith("infer") else 3.0, 0.7)
        if stack.endswith("train"):
            # TensorFlow's optimisers are chains of elementary operators, not one kernel.
            p[f"update.{stack}"] = (2.0 if stack.startswith("tensorflow") else 1.0, 0.4)
    return p


@cache
def constants_hash() -> str:
    """Return what names this version's constants: figures learnt against others do not fit them."""
    names = ("coefficients.json", "residuals.json", "gemm_surface.json", "cpu_steps.json")
    return content_hash([data(name) for name in names])[:16]


def default_coefficients() -> dict[str, float]:
    """Return the shipped, fitted coefficients."""
    values: dict[str, float] = data("coefficients.json")["values"]
    return values
