"""Measure this machine once: ``python -m components.lib.machine_probe`` prints one JSON object.

The planner runs it in a child process, so that the author's side never loads torch. About 6 s on
2 cores, most of it imports.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Products C[m,n] = A[m,k] B[k,n] as encoders have them: m tokens against small and base widths.
TOKENS = (32, 256, 1024)
WIDTHS = ((384, 384), (384, 1536), (1536, 384), (768, 3072))
BLOCK_BYTES = 64 << 20
SMALL_BLOCK_BYTES = 1 << 20


def fastest(work: Callable[[], Any], *, seconds: float = 0.05, least: int = 3) -> float:
    """Return the shortest of repeated runs of `work`, in seconds: what the machine can do when
    nobody else takes its cores."""
    work()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < least or spent < seconds:
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best


def gemm_torch(precision: str) -> dict[str, float]:
    """Return FLOP/s of torch's products by ``m,k,n``."""
    import torch

    from components.lib import linear

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    ways: list[Callable[..., Any]] = [torch.nn.functional.linear]
    if precision == "fp32" and linear.worthwhile():
        ways.append(lambda a, b: linear.OneDnnLinear.apply(a, b, None))
    found = {}
    for m in TOKENS:
        for k, n in WIDTHS:
            left, right = torch.randn(m, k, dtype=kind), torch.randn(n, k, dtype=kind)
            seconds = min(fastest(lambda a=left, b=right, way=way: way(a, b)) for way in ways)
            found[f"{m},{k},{n}"] = 2.0 * m * k * n / seconds
    return found


def gemm_int8() -> float:
    """Return OP/s of ONNX Runtime's integer product of 1024 x 768 x 3072."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    m, k, n = 1024, 768, 3072
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    graph = helper.make_graph(
        [node],
        "product",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, [m, k]),
            helper.make_tensor_value_info("b", TensorProto.INT8, [k, n]),
        ],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [m, n])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    feed = {
        "a": random.integers(0, 255, (m, k), dtype=np.uint8),
        "b": random.integers(-127, 127, (k, n), dtype=np.int8),
    }
    return 2.0 * m * k * n / fastest(lambda: session.run(None, feed), seconds=0.3)


def memory_rates() -> dict[str, float]:
    """Return bytes/s of an elementwise sum (two reads, one write) from memory and from cache, and
    seconds of one operator on a tiny tensor."""
    import torch

    rates = {}
    for name, size in (("bandwidth", BLOCK_BYTES), ("cache_bandwidth", SMALL_BLOCK_BYTES)):
        a, b = torch.randn(size // 4), torch.randn(size // 4)
        out = torch.empty_like(a)
        rates[name] = (
            3.0 * size / fastest(lambda a=a, b=b, out=out: torch.add(a, b, out=out), seconds=0.3)
        )
    tiny = torch.zeros(8)

    def thousand() -> None:
        for _ in range(1000):
            torch.add(tiny, tiny)

    rates["operator_seconds"] = fastest(thousand) / 1000
    return rates


def disk_rate(folder: str) -> float:
    """Return bytes/s of writing 64 MiB through to `folder`."""
    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=folder) as stream:
        start = time.perf_counter()
        for _ in range(64):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
        return 64 * len(block) / (time.perf_counter() - start)


def busy_seconds() -> tuple[float, float]:
    """Return CPU seconds that this process's cores have worked for anyone, and for this process;
    zeros where the system does not say."""
    own = os.times()
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in lines if line.split(maxsplit=1)[0] in mine]
    # user nice system idle iowait irq softirq steal
    busy = sum(sum(int(row[i]) for i in (1, 2, 3, 6, 7, 8)) for row in rows)
    return busy / os.sysconf("SC_CLK_TCK"), own.user + own.system


def main() -> None:
    start = time.perf_counter()
    busy, own = busy_seconds()
    import torch

    imported = time.perf_counter() - start
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with torch.inference_mode():
        gemm = {precision: gemm_torch(precision) for precision in ("fp32", "bf16")}
        rates = memory_rates()
    result = {
        "gemm": gemm,
        "int8": gemm_int8(),
        **rates,
        "disk": disk_rate(str(Path.cwd())),
        "import_torch_seconds": imported,
    }
    after, mine = busy_seconds()
    spent = (time.perf_counter() - start) * len(os.sched_getaffinity(0))
    # Others' work meanwhile: rates measured beside it are too low.
    result["others"] = round(max(0.0, after - busy - (mine - own)) / spent, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
