"""The shipped catalogue's rows, and a user's own files with what can be wrong in them."""

from __future__ import annotations

import csv
import math
from datetime import date
from pathlib import Path

import pytest

from components.contract import SpecError
from pipelines.cost.catalog import INSTANCE_COLUMNS, load_catalog, shipped_rows
from pipelines.cost.hardware import find_gpu

HEADER = "instance,vcpus,memory_mib,gpu,gpu_count,on_demand_usd_h,date,source\n"
ROW = "rack,16,65536,A10,1,0.4,2026-11-01,finance\n"


def test_every_shipped_row_has_price_source_and_date() -> None:
    seen = set()
    for row in shipped_rows("instances.csv"):
        key = row["cloud"], row["region"], row["instance"]
        assert key not in seen
        seen.add(key)
        assert row["source"]
        assert date.fromisoformat(row["date"]) < date(2027, 1, 1)
        assert float(row["on_demand_usd_h"]) > 0
        assert not row["spot_usd_h"] or row["spot_date"]
        assert not row["gpu"] or find_gpu(row["gpu"]) is not None
    for name in ("storage.csv", "network.csv"):
        assert all(r["source"] and date.fromisoformat(r["date"]) for r in shipped_rows(name))


def test_allocatable_is_below_nominal() -> None:
    for instance in load_catalog().instances:
        assert 0 < instance.alloc_cpu_millicores < instance.vcpus * 1000
        assert 0 < instance.alloc_memory_bytes < instance.memory_bytes


def test_known_prices() -> None:
    rows = {(i.region, i.name): i for i in load_catalog().instances}
    # aws/karpenter-provider-aws@1d927085d, 2026-07-20; kubelet figures of the same source.
    t4 = rows["us-east-1", "g4dn.xlarge"]
    assert (t4.on_demand_usd_per_hour, t4.gpu, t4.gpu_count) == (0.526, "T4", 1)
    assert t4.alloc_cpu_millicores == 3920
    assert t4.alloc_memory_bytes == 14481 * 2**20
    # The advisor's 15-20 % a month and 64 % savings.
    assert t4.spot_usd_per_hour == pytest.approx(0.526 * 0.36)
    assert t4.interruption_per_hour == pytest.approx(-math.log(1 - 0.22) / 730)
    assert rows["us-east-1", "g5.xlarge"].gpu == "A10G"  # not A10


def test_the_shipped_catalogue_is_small() -> None:
    folder = Path(__file__).parents[2] / "pipelines" / "catalog"
    assert sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) < 1_000_000


def write(folder: Path, text: str, name: str = "own.csv") -> list[Path]:
    path = folder / name
    path.write_text(text)
    return [path]


def test_own_rows_discounts_and_quotas(tmp_path: Path) -> None:
    text = """\
nodes:
  - {instance: rack, vcpus: 16, memory_mib: 65536, gpu: A10, gpu_count: 1, on_demand_usd_h: 0.4}
discounts: [{cloud: aws, percent: 25}]
quotas: [{gpu: T4, limit: 2}]
"""
    catalog = load_catalog(write(tmp_path, text, "own.yaml"))
    by_name = {i.name: i for i in catalog.instances}
    assert by_name["rack"].owned
    t4 = by_name["g4dn.xlarge"]
    assert catalog.price(t4, "on-demand") == pytest.approx(0.526 * 0.75)
    assert catalog.quota(t4) == 2
    assert catalog.quota(by_name["g5.xlarge"]) == math.inf
    assert catalog.hash != load_catalog().hash


def test_only_keeps_the_file_alone(tmp_path: Path) -> None:
    text = "only: true\nnodes: [{instance: a, vcpus: 4, memory_mib: 8192, on_demand_usd_h: 0.1}]\n"
    assert [i.name for i in load_catalog(write(tmp_path, text, "o.yaml")).instances] == ["a"]


def test_csv_rows_join_the_shipped_ones(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, HEADER + ROW))
    assert len(catalog.instances) == len(load_catalog().instances) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + ROW + ROW, r"own\.csv:3: rack .* is also given at .*own\.csv:2"),
        (HEADER + ROW.replace("0.4", "0"), r"own\.csv:2: on_demand_usd_h '0' is not a price"),
        (HEADER + ROW.replace("0.4", "-1"), r"own\.csv:2: on_demand_usd_h"),
        (HEADER + ROW.replace("0.4", "nan"), r"own\.csv:2: on_demand_usd_h"),
        (HEADER + ROW.replace("0.4", "€0.40"), r"own\.csv:2: on_demand_usd_h '€0.40'"),
        (HEADER + ROW.replace("0.4", "1e9"), r"own\.csv:2: .* not a price between"),
        (HEADER + ROW.replace("A10", "A1000000"), r"own\.csv:2: gpu 'A1000000'.*unknown GPU"),
        (HEADER + ROW.replace(",A10,", ",,"), r"own\.csv:2: gpu '' with gpu_count 1"),
        (HEADER + ROW.replace("16,", "many,"), r"own\.csv:2: vcpus 'many' is not a number"),
        (HEADER + ROW.replace("65536", "1"), r"own\.csv:2: memory_mib '1'"),
        (HEADER + ROW.replace("2026-11-01", "last week"), r"own\.csv:2: date 'last week'"),
        (HEADER + "rack,16\n", r"own\.csv:2: 2 cells where the header has 8"),
        (HEADER + ROW.replace("rack", ""), r"own\.csv:2: instance is missing"),
        ("instance,colour\nrack,red\n", r"own\.csv:1: unknown column 'colour'"),
        ("", r"own\.csv:1: no column 'instance'"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_catalog(write(tmp_path, text))


def test_other_currencies_are_refused(tmp_path: Path) -> None:
    text = HEADER.replace("source", "source,currency") + ROW.replace("finance", "finance,EUR")
    with pytest.raises(SpecError, match=r"own\.csv:2: on_demand_usd_h '0\.4' is in EUR") as error:
        load_catalog(write(tmp_path, text))
    assert "US dollars" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node: []\n", "unknown key 'node'"),
        ("- a\n", "a catalogue is a mapping"),
        ("nodes: {a: 1}\n", "nodes is not a list"),
        (
            "nodes:\n  - {instance: a, vcpus: 2, memory_mib: 4096, colour: red}\n",
            r"yaml:2: unknown",
        ),
        ("discounts:\n  - {cloud: aws, percent: 120}\n", r"yaml:2: percent 120 is not below"),
        ("quotas:\n  - {gpu: T4}\n", r"yaml:2: limit None"),
        ("keep: [nothing]\n", "no instance is called 'nothing'"),
        ("a: [\n", "not YAML"),
    ],
)
def test_malformed_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_catalog(write(tmp_path, text, "own.yaml"))


def test_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nowhere"):
        load_catalog([tmp_path / "nowhere.csv"])


def test_columns_are_those_of_the_shipped_file() -> None:
    folder = Path(__file__).parents[2] / "pipelines" / "catalog"
    with (folder / "instances.csv").open() as handle:
        assert tuple(next(csv.reader(handle))) == INSTANCE_COLUMNS
