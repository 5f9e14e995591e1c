"""Catalogue rows from Kubernetes nodes and from public price files."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from components.contract import SpecError
from pipelines.cost.catalog import load_catalog
from pipelines.cost.catalog_update import quantity, render_csv, rows_from_file, rows_from_nodes

TODAY = date(2026, 11, 23)
NODE = {
    "metadata": {
        "name": "gpu-1",
        "labels": {
            "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
            "topology.kubernetes.io/region": "cellar",
        },
    },
    "status": {
        "capacity": {"cpu": "64", "memory": "528251024Ki"},
        "allocatable": {
            "cpu": "63770m", "memory": "515000000Ki", "nvidia.com/gpu": "4",
            "ephemeral-storage": "94477937300",
        },
    },
}  # fmt: skip


def test_quantities() -> None:
    assert quantity("3920m") == pytest.approx(3.92)
    assert quantity("14481Mi") == 14481 * 2**20
    assert quantity("8") == 8
    with pytest.raises(SpecError, match="lots"):
        quantity("lots")


def test_nodes_become_rows_that_load(tmp_path: Path) -> None:
    rows = rows_from_nodes([NODE, NODE], today=TODAY)
    assert len(rows) == 1
    path = tmp_path / "cluster.csv"
    path.write_text(render_csv(rows))
    node = next(i for i in load_catalog([path]).instances if i.name == "gpu-1")
    assert (node.gpu, node.gpu_count, node.owned) == ("A100-SXM4-80GB", 4, True)
    assert node.alloc_cpu_millicores == 63770
    assert node.on_demand_usd_per_hour is None
    assert node.alloc_ephemeral_bytes == pytest.approx(94477937300, rel=1e-4)


SKYPILOT = """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,SpotPrice
g5.xlarge,A10G,1.0,4.0,16.0,1.006,us-east-1,0.42
m6i.large,,,2.0,8.0,0.096,us-east-1,0.04
x.mystery,TPUv9,1.0,4.0,16.0,1.0,us-east-1,
p5e.48xlarge,H200-SXM-141GB,8,192,2048,,us-east-1,
"""


def test_skypilot_catalogs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "aws.csv"
    path.write_text(SKYPILOT)
    rows = rows_from_file(path, cloud="aws", today=TODAY)
    # An accelerator the cost model lacks and a row without any price are left out.
    assert [row["instance"] for row in rows] == ["g5.xlarge", "m6i.large"]
    assert rows[0]["gpu"] == "A10G"
    assert rows[0]["date"] == "2026-11-23"
    out = tmp_path / "rows.csv"
    out.write_text(render_csv(rows))
    priced = {i.name: i for i in load_catalog([out]).instances if i.region == "us-east-1"}
    assert priced["g5.xlarge"].spot_usd_per_hour == 0.42


def test_bad_price_files_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "aws.csv"
    path.write_text(SKYPILOT.replace("0.096", "0"))
    with pytest.raises(SpecError, match=r"aws\.csv:3: on_demand_usd_h '0'"):
        rows_from_file(path, cloud="aws", today=TODAY)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match=r"aws\.csv:1: no column for instance"):
        rows_from_file(path, cloud="aws", today=TODAY)
