"""What can be bought or is owned: instances, storage, network, regions, with source and date."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from components.contract import content_hash
from pipelines.cost.catalog_rows import (
    INSTANCE_COLUMNS,
    STALE_AFTER_DAYS,
    Catalog,
    CpuKind,
    Instance,
    Rule,
    StorageClass,
    catalog_hash,
    instance_from_row,
)
from pipelines.cost.own_catalog import extend

__all__ = [
    "INSTANCE_COLUMNS", "STALE_AFTER_DAYS", "Catalog", "CpuKind", "Instance", "Rule",
    "StorageClass", "catalog_hash", "instance_from_row", "load_catalog", "shipped_rows",
    "shipped_text",
]  # fmt: skip


def load_catalog(extra: Iterable[Path] = ()) -> Catalog:
    """Return the shipped catalogue with the rows, discounts and quotas of `extra` files.

    Raises:
        SpecError: a file is malformed; names file, line and field.
    """
    catalog = _shipped()
    for path in extra:
        catalog = extend(catalog, path)
    return catalog


def shipped_rows(name: str) -> list[dict[str, str]]:
    """Rows of a shipped table."""
    text = resources.files("pipelines.catalog").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def _shipped() -> Catalog:
    rows = shipped_rows("instances.csv")
    return Catalog(
        instances=tuple(
            instance_from_row(row, where=f"instances.csv:{line}")
            for line, row in enumerate(rows, start=2)
        ),
        storage=tuple(_storage(row) for row in shipped_rows("storage.csv")),
        network={(r["cloud"], r["scope"]): float(r["usd_gb"]) for r in shipped_rows("network.csv")},
        places={
            r["region"]: (float(r["latitude"]), float(r["longitude"]))
            for r in shipped_rows("regions.csv")
        },
        cpus={row["kind"]: _cpu(row) for row in shipped_rows("cpus.csv")},
        hash=content_hash(
            [shipped_text(n) for n in ("instances.csv", "storage.csv", "network.csv", "cpus.csv")]
        ),
    )


def shipped_text(name: str) -> str:
    return resources.files("pipelines.catalog").joinpath(name).read_text(encoding="utf-8")


def _storage(row: dict[str, str]) -> StorageClass:
    return StorageClass(
        cloud=row["cloud"],
        name=row["class"],
        usd_per_gb_month=float(row["usd_gb_month"]),
        put_usd_per_1000=float(row["put_usd_1k"]),
        get_usd_per_1000=float(row["get_usd_1k"]),
        retrieval_usd_per_gb=float(row["retrieval_usd_gb"]),
        min_days=float(row["min_days"]),
        min_object_bytes=float(row["min_object_kib"]) * 1024,
    )


def _cpu(row: dict[str, str]) -> CpuKind:
    return CpuKind(
        kind=row["kind"],
        gemm_flops={
            "fp32": float(row["fp32_gflops_per_vcpu"]) * 1e9,
            "bf16": float(row["bf16_gflops_per_vcpu"]) * 1e9,
            "int8": float(row["int8_gops_per_vcpu"]) * 1e9,
        },
        bandwidth_bytes_per_second=float(row["memory_gbs_per_vcpu"]) * 1e9,
        core_speed=float(row["core_speed"]),
        native_bf16=row["native_bf16"] == "1",
    )
