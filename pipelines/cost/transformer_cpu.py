"""Seconds of a transformer's forward or training step on a CPU, from measured or tabled rates.

Products run at a rate that grows with the tokens they handle at once; what is between them is
bound by memory traffic (activations of a small batch stay in cache), the optimiser by reading and
writing its states, and small batches by the framework's dispatch of operators.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.machine import Machine
from pipelines.cost.shapes import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Fitted to WNUT-17 step reports on 2 vCPU AMD EPYC (Zen 4), see benchmarks/here_accuracy.py.

    `share` is the part of the large-product rate that a model's own products reach; `half_tokens`
    the tokens at which half of that is reached; `traffic` bytes moved by elementwise work a token,
    layer and hidden element; `operators` dispatched a layer and pass.
    """

    share: dict[str, float]
    half_tokens: float
    traffic: dict[str, float]
    operators: float
    attention_share: float
    optimiser_bytes: float


TORCH = Constants(
    share={"fp32": 0.85, "bf16": 0.65},
    half_tokens=64.0,
    traffic={"fp32": 190.0, "bf16": 150.0},
    operators=45.0,
    attention_share=0.3,
    optimiser_bytes=36.0,
)
# ONNX Runtime with fused attention and normalisation.
ONNX = Constants(
    share={"fp32": 0.85, "int8": 0.35, "bf16": 0.65},
    half_tokens=24.0,
    traffic={"fp32": 60.0, "int8": 70.0, "bf16": 60.0},
    operators=9.0,
    attention_share=0.4,
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
    traffic = elements * constants.traffic[kind]
    dispatch = shape.num_layers * constants.operators * machine.operator_seconds
    return (
        products / rate
        + attention / score_rate
        + traffic / (machine.bandwidth_bytes_per_second * max(used, 0.5))
        + dispatch
    )


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
    """Seconds of one training step: forward, backward (twice the forward; the weights' half of it
    is skipped where they are frozen) and the optimiser's pass over its states."""
    forward = pass_seconds(
        machine, shape, rows=rows, length=length, precision=precision, constants=TORCH
    )
    frozen = trained_parameters < 0.5 * shape.parameters
    passes = (2.0 if frozen else 3.0) + (1.0 if checkpointing else 0.0)
    optimiser = trained_parameters * TORCH.optimiser_bytes / machine.bandwidth_bytes_per_second
    return passes * forward + optimiser
