"""The seed's first-order formula with its units put right, as a yardstick beside the full model.

``T_total = D / (B n) * T_batch + P / (S n)``: D samples, B samples a batch and worker, n workers,
T_batch seconds a batch, P bytes of parameters moved, S bytes/s of storage bandwidth a worker. The
published example (D = 1 TB, T_batch = 1 s, n = 8, result 0.125 s) divides bytes by a count and by
seconds; with D in samples every term is in seconds.
"""

from __future__ import annotations

from typing import Any

from pipelines.cost.chain import dataset_bytes, weights_bytes
from pipelines.cost.job import Job
from pipelines.cost.way import Way


def first_order(job: Job, way: Way, *, batch_seconds: float) -> dict[str, Any]:
    """Evaluate the formula for the chosen way.

    Args:
        batch_seconds: T_batch, one micro-batch of one worker.

    Returns:
        ``{terms, seconds, usd, text}``; `usd` is None without a price.
    """
    training = way.training
    workers = training.nodes * training.processes
    samples = float(job.profile["train"].rows * job.spec.training.epochs)
    batch = float(training.micro_batch)
    moved = 2.0 * weights_bytes(job) + job.checkpoint_bytes + dataset_bytes(job)
    bandwidth = training.placement.machine.store_bytes_per_second
    compute = samples / (batch * workers) * batch_seconds
    transfer = moved / (bandwidth * workers)
    price = training.placement.usd_per_hour
    seconds = compute + transfer
    text = (
        "T_total = D / (B n) * T_batch + P / (S n)\n"
        f"D = {samples:,.0f} samples (rows x epochs), B = {batch:g} samples a batch and worker, "
        f"n = {workers} workers\n"
        f"T_batch = {batch_seconds:.4g} s, P = {moved / 1e6:,.1f} MB, "
        f"S = {bandwidth / 1e6:,.0f} MB/s a worker\n"
        f"T_total = {compute:,.1f} s + {transfer:,.1f} s = {seconds:,.1f} s"
    )
    return {
        "terms": {
            "samples": samples,
            "batch": batch,
            "workers": workers,
            "batch_seconds": batch_seconds,
            "parameter_bytes": moved,
            "bytes_per_second": bandwidth,
            "compute_seconds": compute,
            "transfer_seconds": transfer,
        },
        "seconds": seconds,
        "usd": None if price is None else price * training.nodes * seconds / 3600.0,
        "text": text,
    }
