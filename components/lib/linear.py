"""fp32 linear layers on CPUs whose vendor MKL does not favour.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 unused on anything but Intel's own
processors: 210 GFLOP/s on two cores of an AMD EPYC, where oneDNN, which torch carries too, reaches
460 (1000 x 384 x 1536). Both are fp32 throughout; only the order of additions differs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

# Below this many inputs or outputs (a classifier of few labels) there is nothing to gain.
SMALLEST_SIDE = 64


class OneDnnLinear(torch.autograd.Function):
    """``apply(x, weight, bias)``: x (rows, inputs), weight (outputs, inputs), bias or None."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        dx = _product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None
        dw, db = torch.ops.aten.mkldnn_linear_backward_weights(
            gradient.to_mkldnn(), x.to_mkldnn(), weight, ctx.has_bias
        )
        return dx, dw, db if ctx.has_bias else None


class FastLinear(torch.nn.Linear):
    """nn.Linear that multiplies with oneDNN; the same parameters under the same names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32 or self.weight.dtype != torch.float32 or not x.numel():
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        y: torch.Tensor = OneDnnLinear.apply(rows, self.weight, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


def use_fast_linear(model: torch.nn.Module) -> None:
    """Let the model's large linear layers multiply with oneDNN where that is the faster one."""
    if not worthwhile():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and min(module.weight.shape) >= SMALLEST_SIDE:
            module.__class__ = FastLinear


@functools.cache
def worthwhile() -> bool:
    """Whether this CPU has AVX-512 and is not Intel's: known from its name, not from a stopwatch,
    since a run that is resumed has to add in the same order."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and _vendor() not in ("", "GenuineIntel")


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
