"""What a pod asks Kubernetes for: never more than the planned node's kubelet offers."""

from __future__ import annotations

import math

from components.contract import InfeasiblePlanError
from pipelines.cost.catalog import Instance
from pipelines.cost.chain import StepCost
from pipelines.cost.estimate import Estimate, Resources

MIB = 1 << 20
GIB = 1 << 30
# What DaemonSets of a usual cluster take of allocatable (CNI, kube-proxy, metrics, CSI).
DAEMON_MILLICORES = 250
DAEMON_BYTES = 300 * MIB
# Request = limit for memory: the upper estimate and a margin, so that a good prediction never
# ends in an OOM kill; the receipt's rightsizing brings it down.
MEMORY_MARGIN = 1.15
DISK_MARGIN = 1.3
LEAST_MEMORY_BYTES = 256 * MIB
LEAST_DISK_BYTES = 512 * MIB
# Steps that use every core; the others are single processes waiting for disk and network.
PARALLEL_KINDS = ("train", "compress", "export", "evaluate", "select")
LIGHT_MILLICORES = 1000
# activeDeadlineSeconds counts from the pod's start, image pull included.
TIMEOUT_MARGIN = 3.0
TIMEOUT_FLOOR_S = 300
COLD_START_S = 900

GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SPOT_TOLERATIONS = {
    "gcp": {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true",
            "effect": "NoSchedule"},
    "azure": {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal",
              "value": "spot", "effect": "NoSchedule"},
    "aws": {"key": "karpenter.sh/capacity-type", "operator": "Equal", "value": "spot",
            "effect": "NoSchedule"},
}  # fmt: skip
SPOT_SELECTORS = {
    "gcp": {"cloud.google.com/gke-spot": "true"},
    "azure": {"kubernetes.azure.com/scalesetpriority": "spot"},
    "aws": {"karpenter.sh/capacity-type": "spot"},
}


def shm_bytes(processes: int, on_gpu: bool) -> int:
    """/dev/shm: NCCL and gloo exchange through it, 256 MiB a rank is ample (NCCL asks for
    under 70 MiB a pair); one process needs next to none."""
    if processes <= 1 and not on_gpu:
        return 0
    return (256 + 256 * processes) * MIB


def memory_request(estimate: Estimate, shm: int) -> int:
    """Bytes to ask for, in steps of 64 MiB; /dev/shm counts against the limit."""
    wanted = max(LEAST_MEMORY_BYTES, estimate.high * MEMORY_MARGIN + shm)
    return math.ceil(wanted / (64 * MIB)) * 64 * MIB


def disk_request(cost: StepCost) -> int:
    wanted = max(LEAST_DISK_BYTES, cost.disk_bytes * DISK_MARGIN)
    return math.ceil(wanted / (64 * MIB)) * 64 * MIB


def timeout(cost: StepCost) -> int:
    """Seconds after which the step is stopped: three times the upper estimate and a cold start."""
    return (
        math.ceil((TIMEOUT_FLOOR_S + COLD_START_S + TIMEOUT_MARGIN * cost.seconds.high) / 60) * 60
    )


def resources(
    kind: str, cost: StepCost, node: Instance | None, *, cores: float = 0.0, processes: int = 1,
    gpus: int = 0,
) -> Resources:  # fmt: skip
    """Return the requests of a step of `kind` on `node` (None: this machine of `cores`).

    Raises:
        InfeasiblePlanError: the node offers less than the step needs.
    """
    shm = shm_bytes(processes, gpus > 0)
    memory, disk = memory_request(cost.memory_bytes, shm), disk_request(cost)
    if node is None:
        millicores = (
            round(cores * 1000)
            if kind in PARALLEL_KINDS
            else min(LIGHT_MILLICORES, round(cores * 1000))
        )
        return Resources(
            cpu_millicores=millicores, memory_bytes=memory, ephemeral_bytes=disk, shm_bytes=shm,
            gpu_count=gpus,
        )  # fmt: skip
    if memory > offered_memory(node) or disk > offered_disk(node):
        what, need, have = (
            ("memory", memory, offered_memory(node))
            if memory > offered_memory(node)
            else ("ephemeral storage", disk, offered_disk(node))
        )
        raise InfeasiblePlanError(
            f"{kind} needs {need / GIB:.1f} GiB of {what}, {node.name} offers {have / GIB:.1f} GiB",
            remedy="allow a larger instance in objective.hardware",
        )
    free = max(100, node.alloc_cpu_millicores - DAEMON_MILLICORES)
    share = gpus / node.gpu_count if node.gpu_count else 1.0
    if kind not in PARALLEL_KINDS:
        millicores = min(LIGHT_MILLICORES, free)
    else:
        millicores = math.floor(free * share) if gpus else free
    return Resources(
        cpu_millicores=millicores, memory_bytes=memory, ephemeral_bytes=disk, shm_bytes=shm,
        gpu_count=gpus,
    )  # fmt: skip


def offered_memory(node: Instance) -> float:
    return node.alloc_memory_bytes - DAEMON_BYTES


def offered_disk(node: Instance) -> float:
    """Ephemeral storage; a node with local NVMe offers that instead (instance store policy RAID0
    in Karpenter, local SSD node pools on GKE)."""
    return max(node.alloc_ephemeral_bytes, node.local_nvme_bytes * 0.9)


def node_selector(node: Instance | None, capacity: str) -> dict[str, str]:
    """Labels that put the pod on the planned node; nothing for this machine."""
    if node is None or node.owned:
        return {}
    selector = {
        "node.kubernetes.io/instance-type": node.name,
        "topology.kubernetes.io/region": node.region,
    }
    if capacity == "spot":
        selector |= SPOT_SELECTORS.get(node.cloud, {})
    return selector


def tolerations(node: Instance | None, capacity: str, gpus: int) -> tuple[dict[str, str], ...]:
    """Taints that the planned node may carry."""
    found = []
    if gpus:
        found.append(dict(GPU_TOLERATION))
    if capacity == "spot" and node is not None and node.cloud in SPOT_TOLERATIONS:
        found.append(dict(SPOT_TOLERATIONS[node.cloud]))
    return tuple(found)
