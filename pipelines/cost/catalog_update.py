"""Rows for a catalogue from elsewhere: a cluster's own nodes, and public price files.

What is found is written to a file for review, with source and date; the shipped tables never change
behind anyone's back.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from components.contract import SpecError
from pipelines.cost.catalog import INSTANCE_COLUMNS, instance_from_row
from pipelines.cost.hardware import find_gpu

Row = dict[str, Any]
MIB = 1 << 20
SUFFIXES = {
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 1e3, "M": 1e6, "G": 1e9,
    "T": 1e12, "m": 1e-3, "": 1.0,
}  # fmt: skip
QUANTITY = re.compile(r"([0-9.]+)(Ki|Mi|Gi|Ti|k|M|G|T|m)?")
# Column names of price files people have, by ours: SkyPilot's catalogs, gpuhunt's, our own.
ALIASES = {
    "instance": ("instance", "InstanceType", "instance_name", "instance_type"),
    "region": ("region", "Region", "location"),
    "cloud": ("cloud", "provider", "Cloud"),
    "vcpus": ("vcpus", "vCPUs", "cpu"),
    "memory_gib": ("MemoryGiB", "memory", "memory_gib"),
    "memory_mib": ("memory_mib",),
    "gpu": ("gpu", "AcceleratorName", "gpu_name"),
    "gpu_count": ("gpu_count", "AcceleratorCount"),
    "on_demand_usd_h": ("on_demand_usd_h", "Price", "price", "price_ondemand_usd_h"),
    "spot_usd_h": ("spot_usd_h", "SpotPrice", "price_spot_usd_h"),
    "date": ("date", "price_date"),
    "source": ("source",),
}


def quantity(text: str) -> float:
    """Read a Kubernetes quantity (``3920m``, ``14481Mi``, ``8``).

    Raises:
        SpecError: another form.
    """
    match = QUANTITY.fullmatch(text)
    if not match:
        raise SpecError(f"{text!r} is not a Kubernetes quantity")
    return float(match[1]) * SUFFIXES[match[2] or ""]


def rows_from_nodes(nodes: Iterable[Mapping[str, Any]], *, today: date) -> list[Row]:
    """Return one row for each kind of node of a cluster, from Node objects as JSON.

    Prices are unknown (empty): their owner adds them. GPU names come from the labels of NVIDIA's
    GPU feature discovery; a MIG slice counts as its own resource and is left out.
    """
    found: dict[tuple[str, str], Row] = {}
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        status = node["status"]
        offered = status["allocatable"]
        product = labels.get("nvidia.com/gpu.product", "")
        known = find_gpu(product.replace("NVIDIA-", "")) if product else None
        gpus = int(quantity(str(offered.get("nvidia.com/gpu", "0"))))
        name = labels.get("node.kubernetes.io/instance-type") or node["metadata"]["name"]
        region = labels.get("topology.kubernetes.io/region", "on-premises")
        found[name, region] = {
            "cloud": "own",
            "region": region,
            "instance": name,
            "vcpus": int(quantity(str(status["capacity"]["cpu"]))),
            "memory_mib": int(quantity(str(status["capacity"]["memory"])) / MIB),
            "gpu": known.name if known and gpus else "",
            "gpu_count": gpus if known else 0,
            "alloc_cpu_m": int(quantity(str(offered["cpu"])) * 1000),
            "alloc_memory_mib": int(quantity(str(offered["memory"])) / MIB),
            "alloc_ephemeral_mib": int(
                quantity(str(offered.get("ephemeral-storage", "17Gi"))) / MIB
            ),
            "date": today.isoformat(),
            "source": f"node {node['metadata']['name']}",
        }
    return [found[key] for key in sorted(found)]


def cluster_rows(today: date) -> list[Row]:
    """Return the rows of the cluster that KUBECONFIG (or the pod's service account) points at.

    Raises:
        SpecError: no cluster is configured or it refuses.
    """
    from kubernetes import client, config

    try:
        config.load_config()
        nodes = client.CoreV1Api().list_node(_request_timeout=20).items
    except Exception as error:  # the client raises its own, urllib3's and configuration errors
        raise SpecError(
            f"catalog: the cluster's nodes cannot be read: {type(error).__name__}: {error}",
            remedy="check KUBECONFIG and the right to list nodes",
        ) from None
    plain = client.ApiClient().sanitize_for_serialization(nodes)
    return rows_from_nodes(plain, today=today)


def rows_from_file(path: Path, *, cloud: str, today: date) -> list[Row]:
    """Return the rows of a public price file (SkyPilot's or gpuhunt's CSV, or ours).

    Args:
        path: the file.
        cloud: the cloud, where the file has no such column.
        today: the date of prices without one.

    Raises:
        SpecError: unreadable, no instance column, or a row that `instance_from_row` refuses.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            header = list(reader.fieldnames or ())
            raw = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path}: {error}", remedy="give a readable UTF-8 CSV") from None
    names = {
        ours: next((n for n in theirs if n in header), None) for ours, theirs in ALIASES.items()
    }
    if names["instance"] is None or names["vcpus"] is None:
        raise SpecError(
            f"{path}:1: no column for instance and vCPUs",
            remedy="known layouts: SkyPilot catalogs, gpuhunt, this project's instances.csv",
        )
    rows: dict[tuple[str, str, str], Row] = {}
    for line, cells in enumerate(raw, start=2):
        row = _row({k: cells.get(n) or "" for k, n in names.items() if n}, cloud, today, path.name)
        if row is None:
            continue
        instance_from_row(row, where=f"{path}:{line}")
        rows.setdefault((row["cloud"], row["region"], row["instance"]), row)
    return [rows[key] for key in sorted(rows)]


def _row(cells: dict[str, str], cloud: str, today: date, source: str) -> Row | None:
    """Translate a row; None where it has no price, or an accelerator the cost model lacks."""
    if not cells.get("on_demand_usd_h") and not cells.get("spot_usd_h"):
        return None
    gpu = cells.get("gpu", "")
    known = find_gpu(gpu) if gpu else None
    if gpu and known is None:
        return None
    memory = cells.get("memory_mib") or str(float(cells.get("memory_gib") or 0) * 1024)
    return {
        "cloud": cells.get("cloud") or cloud,
        "region": cells.get("region") or "unknown",
        "instance": cells["instance"],
        "vcpus": cells["vcpus"],
        "memory_mib": memory,
        "gpu": known.name if known else "",
        "gpu_count": int(float(cells.get("gpu_count") or 0)) if known else 0,
        "on_demand_usd_h": cells.get("on_demand_usd_h", ""),
        "spot_usd_h": cells.get("spot_usd_h", ""),
        "date": cells.get("date") or today.isoformat(),
        "source": cells.get("source") or source,
    }


def render_csv(rows: Iterable[Row]) -> str:
    """Return `rows` as the text of a catalogue file."""
    lines = [",".join(INSTANCE_COLUMNS)]
    for row in rows:
        cells = [str(row.get(name, "")) for name in INSTANCE_COLUMNS]
        lines.append(",".join(f'"{c}"' if "," in c else c for c in cells))
    return "\n".join(lines) + "\n"
