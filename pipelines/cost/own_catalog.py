"""A user's own rows, discounts and quotas on top of the shipped catalogue.

A CSV file holds instance rows with the columns of `INSTANCE_COLUMNS` (any subset that has instance,
vcpus and memory_mib; a column ``currency`` must say USD). A YAML file is a mapping::

    only: true            # plan with the rows of this file alone
    nodes: [{instance: rack-3, vcpus: 32, memory_mib: 131072, gpu: A10, gpu_count: 1,
             on_demand_usd_h: 0.6, date: 2026-11-01, source: finance}]
    discounts: [{cloud: aws, percent: 12}]
    quotas: [{gpu: A100-SXM4-40GB, limit: 8}]
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.contract import SpecError
from pipelines.cost.catalog_rows import (
    INSTANCE_COLUMNS,
    Catalog,
    Instance,
    Rule,
    catalog_hash,
    instance_from_row,
)

YAML_KEYS = ("only", "nodes", "discounts", "quotas", "keep")
RULE_KEYS = tuple(f.name for f in dataclasses.fields(Rule))
EXTRA_COLUMNS = ("currency",)


def extend(catalog: Catalog, path: Path) -> Catalog:
    """Return `catalog` with the content of the file at `path`; its rows replace shipped ones of
    the same cloud, region and name.

    Raises:
        SpecError: not readable, malformed, duplicate rows; names file and line.
    """
    text = _read(path)
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        rows, rules, only, keep = _from_yaml(text, path)
    else:
        rows, rules, only, keep = list(_from_csv(text, path)), {}, False, None
    new = _unique([(instance_from_row(row, where=where), where) for row, where in rows])
    names = {_key(instance) for instance in new}
    kept = () if only else tuple(i for i in catalog.instances if _key(i) not in names)
    instances = (*kept, *new)
    if keep is not None:
        unknown = sorted(set(keep) - {i.name for i in instances})
        if unknown:
            raise SpecError(f"{path}: keep: no instance is called {unknown[0]!r}")
        instances = tuple(i for i in instances if i.name in keep)
    if not instances:
        raise SpecError(f"{path}: no instance is left to plan with")
    made = dataclasses.replace(
        catalog,
        instances=instances,
        discounts=(*catalog.discounts, *rules.get("discounts", ())),
        quotas=(*catalog.quotas, *rules.get("quotas", ())),
    )
    return dataclasses.replace(made, hash=catalog_hash(made))


def _key(instance: Instance) -> tuple[str, str, str]:
    return instance.cloud, instance.region, instance.name


def _unique(found: list[tuple[Instance, str]]) -> list[Instance]:
    seen: dict[tuple[str, str, str], str] = {}
    for instance, where in found:
        key = _key(instance)
        if key in seen:
            raise SpecError(
                f"{where}: {instance.name} in {instance.cloud}/{instance.region} is also given at "
                f"{seen[key]}",
                remedy="keep one of the two rows",
            )
        seen[key] = where
    return [instance for instance, _ in found]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: {error}", remedy="give a readable UTF-8 file") from None


Rows = list[tuple[Mapping[str, Any], str]]


def _from_csv(text: str, path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    lines = text.splitlines()
    reader = csv.DictReader(lines)
    header = [name or "" for name in reader.fieldnames or ()]
    unknown = [name for name in header if name not in (*INSTANCE_COLUMNS, *EXTRA_COLUMNS)]
    if not header or unknown or "instance" not in header:
        what = f"unknown column {unknown[0]!r}" if unknown else "no column 'instance'"
        raise SpecError(
            f"{path}:1: {what}", remedy=f"columns: {', '.join((*INSTANCE_COLUMNS, *EXTRA_COLUMNS))}"
        )
    if len(set(header)) != len(header):
        raise SpecError(f"{path}:1: a column is named twice")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            have = len([v for v in row.values() if v is not None]) + len(row.get(None) or [])
            raise SpecError(f"{where}: {have} cells where the header has {len(header)}")
        yield row, where


def _from_yaml(text: str, path: Path) -> tuple[Rows, dict[str, list[Rule]], bool, list[str] | None]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path}: a catalogue is a mapping with {', '.join(YAML_KEYS)}")
    unknown = [key for key in document if key not in YAML_KEYS]
    if unknown:
        raise SpecError(
            f"{path}: unknown key {unknown[0]!r}", remedy=f"keys: {', '.join(YAML_KEYS)}"
        )
    lines = _item_lines(root)
    sections: dict[str, Rows] = {}
    for key in ("nodes", "discounts", "quotas"):
        items = document.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SpecError(f"{path}: {key} is not a list of mappings")
        sections[key] = [(item, f"{path}:{lines.get((key, n), 1)}") for n, item in enumerate(items)]
    rules = {key: [_rule(*item, key) for item in sections[key]] for key in ("discounts", "quotas")}
    for row, where in sections["nodes"]:
        strange = [k for k in row if k not in (*INSTANCE_COLUMNS, *EXTRA_COLUMNS)]
        if strange:
            raise SpecError(f"{where}: unknown field {strange[0]!r}")
    keep = document.get("keep")
    return sections["nodes"], rules, bool(document.get("only", False)), keep


def _rule(item: Mapping[str, Any], where: str, key: str) -> Rule:
    unknown = [k for k in item if k not in RULE_KEYS]
    if unknown:
        raise SpecError(
            f"{where}: unknown field {unknown[0]!r}", remedy=f"fields: {', '.join(RULE_KEYS)}"
        )
    needed = "percent" if key == "discounts" else "limit"
    value = item.get(needed)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise SpecError(f"{where}: {needed} {value!r} is not a number of at least 0")
    if needed == "percent" and value >= 100:
        raise SpecError(f"{where}: percent {value!r} is not below 100")
    fields = {k: str(v) for k, v in item.items() if k not in ("percent", "limit")}
    if needed == "limit":
        return Rule(**fields, limit=int(value))  # type: ignore[arg-type]
    return Rule(**fields, percent=float(value))  # type: ignore[arg-type]


def _item_lines(root: yaml.Node | None) -> dict[tuple[str, int], int]:
    """Line of each item of each list, for messages."""
    lines: dict[tuple[str, int], int] = {}
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if isinstance(value, yaml.SequenceNode):
                for n, item in enumerate(value.value):
                    lines[key.value, n] = item.start_mark.line + 1
    return lines
