"""From seconds on nodes to money: billing granularity, cold start, transfer between regions."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.cost.catalog import Catalog, Instance

# AWS, Google Cloud and Azure bill Linux machines by the second, a minute at least.
LEAST_BILLED_S = 60.0
GB = 1e9

# From "pod is pending" to "node is ready" when an autoscaler has to make the node (Karpenter's own
# figures: about 45 s; GPU nodes load drivers and the device plugin).
NODE_BOOT_S = {"cpu": 60.0, "gpu": 120.0}
# From a ready node to the step's first line, image present.
POD_START_S = 6.0
# Compressed images (images/Dockerfile) and what a node pulls and unpacks a second.
IMAGE_BYTES = {
    "data": 0.45e9,
    "train-cpu": 1.1e9,
    "train-gpu": 5.5e9,
    "infer": 0.9e9,
    "infer-gpu": 3.0e9,
}
PULL_BYTES_PER_SECOND = 90e6


def billed_seconds(seconds: Any, instance: Instance | None = None) -> Any:
    """Seconds that are paid for: whole seconds, a minute at least; owned machines by the second."""
    if instance is not None and instance.owned:
        return seconds
    return np.maximum(LEAST_BILLED_S, np.ceil(seconds))


def node_usd(usd_per_hour: Any, seconds: Any, instance: Instance | None = None) -> Any:
    """Money of one node kept for `seconds`."""
    return usd_per_hour * billed_seconds(seconds, instance) / 3600.0


def cold_start_seconds(instance: Instance, images: tuple[str, ...]) -> float:
    """Seconds to get a node and pull `images`; an owned node runs already and only pulls."""
    pull = min(PULL_BYTES_PER_SECOND, instance.network_bytes_per_second)
    boot = 0.0 if instance.owned else NODE_BOOT_S["gpu" if instance.gpu else "cpu"]
    return boot + sum(IMAGE_BYTES[name] for name in images) / pull


def transfer_usd(
    catalog: Catalog, size_bytes: float, *, source: tuple[str, str], target: tuple[str, str]
) -> float:
    """Money for moving bytes between (cloud, region) places; nothing leaves a region for free.

    Data on somebody's own machine costs nothing to send in; between clouds the sender's internet
    price applies; an unknown region of the same cloud is taken to be the target's.
    """
    cloud, region = source
    if not cloud or cloud == "own" or (cloud == target[0] and region in ("", target[1])):
        return 0.0
    scope = "region" if cloud == target[0] else "internet"
    return size_bytes / GB * catalog.network.get((cloud, scope), 0.0)
