"""Build the shipped catalogue from public price tables: python -m benchmarks.build_catalog FOLDER

FOLDER holds the tables that are read below (as ../shared/catalog). Only instance types that a plan
would take are kept: x86, priced, CPU up to 32 vCPU, GPUs that the cost model knows.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.cost.catalog import INSTANCE_COLUMNS
from pipelines.cost.hardware import find_gpu

TARGET = Path(__file__).parents[1] / "pipelines" / "catalog"
Row = dict[str, Any]
MAX_CPU_VCPUS = 32

AWS_CPU = re.compile(r"(c6i|c6a|c7i|c7a|m6i|m6a|m7i|m7a|r6i|r6a|r7i)\.(large|xlarge|[248]xlarge)")
AWS_GPU = re.compile(r"(g4dn|g5|g6|g6e|gr6|g7e|p3dn|p4d|p4de|p5|p5en|p6-b200)\.\w+")
AWS_GPU_NAMES = {
    "t4": "T4", "a10g": "A10G", "l4": "L4", "l40s": "L40S", "v100": "V100-SXM2-32GB",
    "h100": "H100-SXM5-80GB", "h200": "H200-SXM-141GB", "b200": "B200",
    "rtx-pro-server-6000": "RTXPRO6000",
}  # fmt: skip
CPU_OF_FAMILY = {
    **dict.fromkeys(("c6i", "m6i", "r6i", "c7i", "m7i", "r7i"), ""),
    "c6i": "icelake", "m6i": "icelake", "r6i": "icelake",
    "c7i": "sapphire-rapids", "m7i": "sapphire-rapids", "r7i": "sapphire-rapids",
    "c6a": "zen3", "m6a": "zen3", "r6a": "zen3", "c7a": "zen4", "m7a": "zen4",
    "g4dn": "cascadelake", "p3dn": "skylake", "p4d": "cascadelake", "p4de": "cascadelake",
    "g5": "zen2", "g6": "zen3", "g6e": "zen3", "gr6": "zen3", "g7e": "sapphire-rapids",
    "p5": "zen3", "p5en": "sapphire-rapids", "p6-b200": "sapphire-rapids",
}  # fmt: skip

GCP_CPU = re.compile(
    r"(e2-standard|e2-highmem|n2-standard|n2d-standard|n2d-highmem|c3-standard|c3d-standard"
    r"|c3d-highmem|c2d-standard|c2d-highmem|c4d-standard)-(2|4|8|16|22|30|32)"
)
GCP_GPU_NAMES = {
    "a100": "A100-SXM4-40GB", "a100-80gb": "A100-SXM4-80GB", "h100-80gb": "H100-SXM5-80GB",
    "h100-80gb-mega": "H100-SXM5-80GB", "l4": "L4", "rtx6000": "RTXPRO6000",
}  # fmt: skip
GCP_CPU_KIND = {
    "e2": "skylake", "n2": "icelake", "n2d": "zen3", "c3": "sapphire-rapids", "c3d": "zen4-smt",
    "c2d": "zen3", "c4d": "zen4-smt", "a2": "cascadelake", "a3": "sapphire-rapids",
    "g2": "cascadelake", "g4": "zen4-smt",
}  # fmt: skip

# Azure's price table has no sizes; these are from the size tables of learn.microsoft.com
# (virtual-machines/sizes): vCPU, GiB, GPU, GPUs, local disk GiB, network Gbit/s, CPU.
AZURE_GPU = {
    "Standard_NC4as_T4_v3": (4, 28, "T4", 1, 176, 8, "zen2"),
    "Standard_NC8as_T4_v3": (8, 56, "T4", 1, 352, 8, "zen2"),
    "Standard_NC16as_T4_v3": (16, 110, "T4", 1, 352, 8, "zen2"),
    "Standard_NC64as_T4_v3": (64, 440, "T4", 4, 2816, 32, "zen2"),
    "Standard_NC6s_v3": (6, 112, "V100-PCIe-16GB", 1, 736, 10, "skylake"),
    "Standard_NC12s_v3": (12, 224, "V100-PCIe-16GB", 2, 1474, 10, "skylake"),
    "Standard_NC24s_v3": (24, 448, "V100-PCIe-16GB", 4, 2948, 10, "skylake"),
    "Standard_NC24ads_A100_v4": (24, 220, "A100-PCIe-80GB", 1, 960, 20, "zen3"),
    "Standard_NC48ads_A100_v4": (48, 440, "A100-PCIe-80GB", 2, 1920, 40, "zen3"),
    "Standard_NC96ads_A100_v4": (96, 880, "A100-PCIe-80GB", 4, 3840, 80, "zen3"),
    "Standard_NV36ads_A10_v5": (36, 440, "A10", 1, 1440, 40, "zen3"),
    "Standard_NV72ads_A10_v5": (72, 880, "A10", 2, 2880, 80, "zen3"),
    "Standard_NC40ads_H100_v5": (40, 320, "H100-NVL-94GB", 1, 3576, 40, "zen4-smt"),
    "Standard_NC80adis_H100_v5": (80, 640, "H100-NVL-94GB", 2, 7152, 80, "zen4-smt"),
    "Standard_ND96asr_v4": (96, 900, "A100-SXM4-40GB", 8, 6000, 200, "zen2"),
    "Standard_ND96amsr_A100_v4": (96, 1900, "A100-SXM4-80GB", 8, 6400, 200, "zen2"),
    "Standard_ND96isr_H100_v5": (96, 1900, "H100-SXM5-80GB", 8, 28000, 400, "sapphire-rapids"),
    "Standard_ND96isr_H200_v5": (96, 1850, "H200-SXM-141GB", 8, 28000, 400, "sapphire-rapids"),
}  # fmt: skip
AZURE_CPU = re.compile(r"Standard_(D|E|F)(2|4|8|16|32)(s_v5|as_v5|ads_v5|s_v2)")
AZURE_GIB_PER_VCPU = {"D": 4, "E": 8, "F": 2}


def gke_allocatable(vcpus: float, memory_mib: float) -> tuple[int, int]:
    """Return (millicores, MiB) that a kubelet offers on GKE and, nearly, on AKS: the reserved
    shares of cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes, the 100 MiB
    eviction threshold, and 2.5 % of memory that the kernel and firmware keep."""
    reserved_cpu = 60.0 * min(vcpus, 1) + 10.0 * max(0.0, min(vcpus, 2) - 1)
    reserved_cpu += 5.0 * max(0.0, min(vcpus, 4) - 2) + 2.5 * max(0.0, vcpus - 4)
    gib = memory_mib / 1024
    reserved, below = 0.0, 0.0
    for limit, share in ((4, 0.25), (8, 0.20), (16, 0.10), (128, 0.06), (math.inf, 0.02)):
        reserved += share * max(0.0, min(gib, limit) - below)
        below = limit
    free = memory_mib * 0.975 - reserved * 1024 - 100
    return int(vcpus * 1000 - reserved_cpu - 100), int(free)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        yield from csv.DictReader(handle)


def quantity(text: str) -> float:
    """Read a Kubernetes quantity: ``3920m`` cores, ``14481Mi``, ``17Gi`` in MiB."""
    for suffix, factor in (("m", 1.0), ("Mi", 1.0), ("Gi", 1024.0)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text) * 1000


def aws(folder: Path) -> Iterator[Row]:
    advisor = {
        row["instance_type"]: row
        for row in rows_of(folder / "aws_spot_advisor.csv")
        if row["region"] == "us-east-1" and row["os"] == "Linux"
    }
    for row in rows_of(folder / "aws_instances_us-east-1.csv"):
        name = row["instance_type"]
        gpu = AWS_GPU_NAMES.get(row["gpu_name"], "")
        if row["gpu_name"] == "a100":
            gpu = "A100-SXM4-80GB" if name.startswith("p4de") else "A100-SXM4-40GB"
        wanted = AWS_GPU.fullmatch(name) if gpu else AWS_CPU.fullmatch(name)
        if not wanted or not row["price_ondemand_usd_h"] or row["gpu_count"] == "0":
            continue
        price = float(row["price_ondemand_usd_h"])
        spot = advisor.get(name)
        yield {
            "cloud": "aws",
            "region": "us-east-1",
            "instance": name,
            "vcpus": row["vcpus"],
            "memory_mib": row["memory_mib"],
            "cpu": CPU_OF_FAMILY[name.split(".")[0]],
            "gpu": gpu,
            "gpu_count": row["gpu_count"] or 0,
            "local_nvme_gib": row["local_nvme_gb"] or 0,
            "network_gbps": float(row["network_mbps"]) / 1000,
            "alloc_cpu_m": quantity(row["k8s_alloc_cpu"]),
            "alloc_memory_mib": quantity(row["k8s_alloc_memory"]),
            "alloc_ephemeral_mib": quantity(row["k8s_alloc_ephemeral"]),
            "on_demand_usd_h": price,
            "spot_usd_h": (
                round(price * (1 - float(spot["savings_pct_vs_ondemand"]) / 100), 6) if spot else ""
            ),
            "interruption_pct_month": spot["interruption_max_pct_per_month"] if spot else "",
            "date": row["price_date"],
            "spot_date": spot["snapshot"][:10] if spot else "",
            "source": "aws/karpenter-provider-aws@1d927085d"
            + ("; alexei-led/spotinfo@05e9331" if spot else ""),
        }


def gcp(folder: Path) -> Iterator[Row]:
    seen = set()
    paths = ("gcp_instances_5_regions.csv", "gcp_gpu_all_regions.csv")
    regions = {row["region"] for row in rows_of(folder / paths[0])}
    for path in paths:
        for row in rows_of(folder / path):
            name, key = row["instance_type"], (row["region"], row["instance_type"])
            gpus = float(row["gpu_count"] or 0)
            gpu = GCP_GPU_NAMES.get(row["gpu_name"], "") if gpus else ""
            wanted = gpu if gpus else GCP_CPU.fullmatch(name)
            if not wanted or gpus % 1 or key in seen or row["region"] not in regions:
                continue
            if not row["price_ondemand_usd_h"]:
                continue
            seen.add(key)
            vcpus, memory = float(row["vcpus"]), float(row["memory_gib"]) * 1024
            cpu, free = gke_allocatable(vcpus, memory)
            local = float(row["local_ssd_gb"] or 0)
            yield {
                "cloud": "gcp",
                "region": row["region"],
                "instance": name,
                "vcpus": int(vcpus),
                "memory_mib": int(memory),
                "cpu": GCP_CPU_KIND[name.split("-")[0]],
                "gpu": gpu,
                "gpu_count": int(gpus),
                "local_nvme_gib": local,
                # cloud.google.com/compute/docs/network-bandwidth: 2 Gbit/s a vCPU, at least 4.
                "network_gbps": min(32.0, max(4.0, 2.0 * vcpus)) if not gpus else min(
                    200.0, max(10.0, 2.0 * vcpus)),
                "alloc_cpu_m": cpu,
                "alloc_memory_mib": free,
                # 100 GB boot disk of a default node pool, minus what GKE reserves of it.
                "alloc_ephemeral_mib": 47 * 1024,
                "on_demand_usd_h": round(float(row["price_ondemand_usd_h"]), 6),
                "spot_usd_h": round(float(row["price_spot_usd_h"]), 6)
                if row["price_spot_usd_h"] else "",
                "interruption_pct_month": "",
                "date": row["price_date"],
                "spot_date": row["price_date"] if row["price_spot_usd_h"] else "",
                "source": "Cyclenerd/google-cloud-pricing-cost-calculator@fd66b26",
            }  # fmt: skip


def azure(folder: Path) -> Iterator[Row]:
    for row in rows_of(folder / "azure_instances_5_regions.csv"):
        name = row["instance_type"]
        plain = AZURE_CPU.fullmatch(name)
        if name in AZURE_GPU:
            vcpus, gib, gpu, count, local, network, kind = AZURE_GPU[name]
        elif plain and (plain[1] == "F") == (plain[3] == "s_v2"):
            vcpus, gpu, count = int(plain[2]), "", 0
            gib = vcpus * AZURE_GIB_PER_VCPU[plain[1]]
            kind = "zen3" if plain[3].startswith("a") else "icelake"
            local = 37.5 * vcpus if plain[3] == "ads_v5" else 0
            network = 12.5
        else:
            continue
        cpu, free = gke_allocatable(vcpus, gib * 1024)
        yield {
            "cloud": "azure",
            "region": row["region"],
            "instance": name,
            "vcpus": vcpus,
            "memory_mib": gib * 1024,
            "cpu": kind,
            "gpu": gpu,
            "gpu_count": count,
            "local_nvme_gib": local,
            "network_gbps": network,
            "alloc_cpu_m": cpu,
            "alloc_memory_mib": free,
            # 128 GiB managed OS disk of an AKS node, less images and the eviction threshold.
            "alloc_ephemeral_mib": 100 * 1024,
            "on_demand_usd_h": float(row["price_ondemand_usd_h"]),
            "spot_usd_h": "",
            "interruption_pct_month": "",
            "date": row["price_date"],
            "spot_date": "",
            "source": "Azure/karpenter-provider-azure@352646f59; sizes: learn.microsoft.com",
        }


def main() -> None:
    folder = Path(sys.argv[1])
    rows = [*aws(folder), *gcp(folder), *azure(folder)]
    for row in rows:
        assert not row["gpu"] or find_gpu(row["gpu"]), row
    rows.sort(key=lambda r: (r["cloud"], r["region"], r["instance"]))
    TARGET.mkdir(exist_ok=True)
    with (TARGET / "instances.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, INSTANCE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _plain(v) for k, v in row.items()} for row in rows)
    gpus = sum(bool(row["gpu"]) for row in rows)
    print(f"{len(rows)} rows, {gpus} with GPUs, {len({r['region'] for r in rows})} regions")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
