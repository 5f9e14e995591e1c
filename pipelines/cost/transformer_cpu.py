"""Seconds of a transformer's forward or training step on a CPU, from measured or tabled rates.

Products run at a rate that grows with the tokens they handle at once. What is between them
(dropout, softmax, norms, activations) is bound by the cores, not by memory, for the widths of
encoders; the optimiser by memory traffic; tiny batches by the framework's dispatch of operators.

Rates are the machine's (`pipelines.cost.here` measures it once, the catalogue has a table); how
much of them a pass reaches is in data/cpu_steps.json, which benchmarks/fit_here.py writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.cost.machine import Machine
from pipelines.cost.shapes import ModelShape

DATA = Path(__file__).parent / "data/cpu_steps.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """How a runtime uses a CPU.

    `share` is the part of the large-product rate that a model's own products reach; `half_tokens`
    the tokens a core at which half of that is reached; `element_s` core-seconds of everything else
    for one token, layer and hidden element; `operators` dispatched a layer; `attention_share` the
    part of the fp32 rate that scores reach; `serial` what one thread does while others wait (Amdahl
    1967); `wake` operators' worth of waking more than one thread; `backward` a backward's time over
    its forward's; `optimiser_bytes` moved for each trained parameter.
    """

    share: dict[str, float]
    half_tokens: dict[str, float]
    element_s: dict[str, float]
    operators: float
    attention_share: float
    serial: dict[str, float] = field(default_factory=dict)
    wake: float = 0.0
    backward: dict[str, float] = field(default_factory=dict)
    optimiser_bytes: float = 0.0


def _constants(name: str) -> Constants:
    values = json.loads(DATA.read_text())[name]
    return Constants(**{key: value for key, value in values.items() if key != "evidence"})


# A LeViT in PyTorch beside a stack of as many equal layers (pipelines.cost.levit): its convolutions
# and the batch normalisation after every product cost about as much again, and it is made of many
# small operators and tensors. Receipt of examples/hand-images.yaml, 2 vCPU AMD EPYC (Zen 5),
# 2026-11-26: 8.0 ms forward, 11.1 ms backward, 2.6 ms of the optimiser for 32 images of 64 pixels.
LEVIT_WORK, LEVIT_OPERATORS, LEVIT_UPDATES = 1.9, 500.0, 400.0

# Training, the same without dropout and without keeping activations, and ONNX Runtime's graphs with
# fused attention and normalisation.
TORCH = _constants("torch")
TORCH_EVALUATION = _constants("torch_evaluation")
ONNX = _constants("onnx")


def pass_seconds(
    machine: Machine,
    shape: ModelShape,
    *,
    rows: float,
    length: float,
    precision: str,
    constants: Constants,
    span: float | None = None,
    kept: float = 1.0,
    threads: float | None = None,
) -> float:
    """Seconds of one forward pass of `rows` sequences of `length` tokens.

    Args:
        span: tokens that a token attends to; `length` by default. Packed rows of several lengths
            have a longer span than their mean length.
        kept: share of the layers' parameters that compression left.
        threads: cores used; all by default.
    """
    kind = precision if precision in constants.share else "fp32"
    used = machine.cores if threads is None else min(machine.cores, threads)
    worth = used / (1.0 + constants.serial.get(kind, 0.0) * max(used - 1.0, 0.0))
    part = worth / machine.cores
    tokens = rows * length
    products = 2.0 * tokens * shape.matmul_parameters * kept
    attention = 4.0 * tokens * (span or length) * shape.query_size * shape.num_layers * kept
    rate = machine.gemm_flops[kind] * part * constants.share[kind]
    rate *= tokens / (tokens + constants.half_tokens[kind] * used)
    score_rate = machine.gemm_flops["fp32"] * part * constants.attention_share
    elements = tokens * shape.hidden_size * shape.num_layers * kept
    others = elements * constants.element_s[kind] / (worth * machine.core_speed)
    operators = constants.operators + (constants.wake if used > 1 else 0.0)
    if shape.family == "levit" and constants is not ONNX:
        operators, more = LEVIT_OPERATORS, LEVIT_WORK
    else:
        more = 1.0
    dispatch = shape.num_layers * operators * machine.operator_seconds
    return more * (products / rate + attention / score_rate + others) + dispatch


def optimiser_seconds(machine: Machine, parameters: float, bytes_each: float) -> float:
    """Seconds of an optimiser's pass over `parameters`."""
    return parameters * bytes_each / machine.bandwidth_bytes_per_second


def step_seconds(
    machine: Machine,
    shape: ModelShape,
    *,
    rows: float,
    length: float,
    span: float | None = None,
    precision: str,
    trained_parameters: float,
    checkpointing: bool = False,
) -> float:
    """Seconds of one training step: forward, backward (its half for the weights is skipped where
    they are frozen), a second forward under checkpointing, and the optimiser's pass over its
    states."""
    forward = pass_seconds(
        machine, shape, rows=rows, length=length, span=span, precision=precision, constants=TORCH
    )  # fmt: skip
    backward = TORCH.backward[precision]
    if trained_parameters < 0.5 * shape.layer_parameters * shape.num_layers:
        backward *= 0.5
    optimiser = optimiser_seconds(machine, trained_parameters, TORCH.optimiser_bytes)
    if shape.family == "levit":
        optimiser += shape.num_layers * LEVIT_UPDATES * machine.operator_seconds
    return (1.0 + backward + checkpointing) * forward + optimiser
