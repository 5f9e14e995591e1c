"""What a device can multiply at best, for the share of it that training uses (MFU)."""

from __future__ import annotations

import time

import torch

from components.lib.linear import use_fast_linear

# Dense 16-bit tensor FLOP/s by a part of the device's name, from NVIDIA's data sheets; longer names
# first. A GPU that is not listed gets no MFU instead of a guessed one.
GPU_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}
SIDE = 1024
REPEATS = 5


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return FLOP/s of `device` in `precision`; None when not known.

    A CPU is asked: the fastest of a few products of 1024 x 1024 matrices on this process's threads,
    by the library that training uses. A GPU's figure is its data sheet's.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((value for part, value in GPU_PEAKS.items() if part in name), None)
        return known if precision != "fp32" else None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layer = torch.nn.Linear(SIDE, SIDE, bias=False).to(dtype)
    use_fast_linear(layer)
    x = torch.randn(SIDE, SIDE).to(dtype)
    best = float("inf")
    with torch.no_grad():
        for _ in range(REPEATS):
            start = time.perf_counter()
            layer(x)
            best = min(best, time.perf_counter() - start)
    return 2.0 * SIDE**3 / best
