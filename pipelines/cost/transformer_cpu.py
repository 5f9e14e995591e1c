"""Seconds of a transformer's forward or training step on a CPU, from measured or tabled rates.

Products run at a rate that grows with the tokens they handle at once. What is between them
(dropout, softmax, norms, activations) is bound by the cores, not by memory, for the widths of
encoders; the optimiser by memory traffic; tiny batches by the framework's dispatch of operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.machine import Machine
from pipelines.cost.shapes import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Fitted to short runs of MiniLM on 2 vCPU AMD EPYC (Zen 4), 2026-11-23
    (benchmarks/here_accuracy.py prints what they predict).

    `share` is the part of the large-product rate that a model's own products reach; `half_tokens`
    the tokens at which half of that is reached; `element_s` core-seconds of everything else for
    one token, layer and hidden element; `operators` dispatched a layer; `backward` a backward's
    time over its forward's; `optimiser_bytes` moved for each trained parameter.
    """

    share: dict[str, float]
    half_tokens: float
    element_s: dict[str, float]
    operators: float
    attention_share: float
    backward: dict[str, float]
    optimiser_bytes: float


TORCH = Constants(
    share={"fp32": 0.95, "bf16": 0.90},
    half_tokens=198.0,
    element_s={"fp32": 45e-9, "bf16": 49e-9},
    operators=45.0,
    attention_share=0.3,
    backward={"fp32": 1.6, "bf16": 1.29},
    optimiser_bytes=90.0,
)
# The same without dropout and without keeping activations.
TORCH_EVALUATION = Constants(
    share={"fp32": 0.95, "bf16": 0.90},
    half_tokens=100.0,
    element_s={"fp32": 28e-9, "bf16": 26e-9},
    operators=45.0,
    attention_share=0.3,
    backward={},
    optimiser_bytes=0.0,
)
# ONNX Runtime with fused attention and normalisation.
ONNX = Constants(
    share={"fp32": 0.92, "int8": 0.95, "bf16": 0.90},
    half_tokens=20.0,
    element_s={"fp32": 7e-9, "int8": 5e-9, "bf16": 7e-9},
    operators=9.0,
    attention_share=0.4,
    backward={},
    optimiser_bytes=0.0,
)


def pass_seconds(
    machine: Machine,
    shape: ModelShape,
    *,
    rows: float,
    length: float,
    precision: str,
    constants: Constants,
    kept: float = 1.0,
    threads: float | None = None,
) -> float:
    """Seconds of one forward pass of `rows` sequences padded to `length` tokens.

    Args:
        kept: share of the layers' parameters that compression left.
        threads: cores used; all by default.
    """
    used = 1.0 if threads is None else min(1.0, threads / machine.cores)
    tokens = rows * length
    products = 2.0 * tokens * shape.matmul_parameters * kept
    attention = 4.0 * tokens * length * shape.query_size * shape.num_layers * kept
    kind = precision if precision in constants.share else "fp32"
    rate = machine.gemm_flops[kind] * used * constants.share[kind]
    rate *= tokens / (tokens + constants.half_tokens * used)
    score_rate = machine.gemm_flops["fp32"] * used * constants.attention_share
    elements = tokens * shape.hidden_size * shape.num_layers * kept
    others = elements * constants.element_s[kind] / (machine.cores * used * machine.core_speed)
    dispatch = shape.num_layers * constants.operators * machine.operator_seconds
    return products / rate + attention / score_rate + others + dispatch


def step_seconds(
    machine: Machine,
    shape: ModelShape,
    *,
    rows: float,
    length: float,
    precision: str,
    trained_parameters: float,
    checkpointing: bool = False,
) -> float:
    """Seconds of one training step: forward, backward (its half for the weights is skipped where
    they are frozen), a second forward under checkpointing, and the optimiser's pass over its
    states."""
    forward = pass_seconds(
        machine, shape, rows=rows, length=length, precision=precision, constants=TORCH
    )
    backward = TORCH.backward[precision]
    if trained_parameters < 0.5 * shape.layer_parameters * shape.num_layers:
        backward *= 0.5
    optimiser = trained_parameters * TORCH.optimiser_bytes / machine.bandwidth_bytes_per_second
    return (1.0 + backward + checkpointing) * forward + optimiser
