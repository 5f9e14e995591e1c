"""The nodes that a compiled pipeline may choose from, with the prices its reviewer saw.

A pipeline runs in one cluster, so its node set is every machine of the catalogue in the decided
places: other sizes and GPUs of the same cloud and region, or the owner's own machines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from components.contract import InfeasiblePlanError
from pipelines.control.pods import in_trainjob
from pipelines.cost.calibration import Calibration
from pipelines.cost.catalog import Catalog, Instance, Rule, catalog_hash, load_catalog
from pipelines.plan import Plan

REGION_LABEL = "topology.kubernetes.io/region"
COLUMNS = tuple(field.name for field in dataclasses.fields(Instance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What a plan was made from, and is made from again in the cluster."""

    catalog: Catalog = field(default_factory=load_catalog)
    calibration: Calibration | None = None

    @property
    def shipped(self) -> bool:
        """Whether the images have this catalogue."""
        return self.catalog.hash == load_catalog().hash


def node_set(plan: Plan, catalog: Catalog) -> dict[str, Any]:
    """Return ``{columns, rows, discounts, quotas}``: a catalogue of the plan's places, as JSON.

    Training compiled for one node gets a quota of one machine: several nodes would need a TrainJob.

    Raises:
        InfeasiblePlanError: the plan is for the machine that compiles.
    """
    places = set()
    for step in plan.steps:
        region = step.node_selector.get(REGION_LABEL)
        places |= {
            (instance.cloud, instance.region)
            for instance in catalog.instances
            if instance.name == step.node and region in (None, instance.region)
        }
    if not places:
        raise InfeasiblePlanError(
            "dynamic requests need nodes to choose from; this plan runs on "
            f"{plan.step('train').node!r}, which is not in the catalogue",
            remedy="set objective.hardware to any, or pass the nodes with --catalog",
        )
    rows = [
        [getattr(instance, name) for name in COLUMNS]
        for instance in catalog.instances
        if (instance.cloud, instance.region) in places
    ]
    one = () if in_trainjob(plan) else (Rule(limit=1),)
    return {
        "columns": list(COLUMNS),
        "rows": sorted(rows, key=lambda row: row[:3]),
        "discounts": [dataclasses.asdict(rule) for rule in catalog.discounts],
        "quotas": [dataclasses.asdict(rule) for rule in (*catalog.quotas, *one)],
    }


def catalog_of(document: dict[str, Any]) -> Catalog:
    """Return the catalogue that a node set is; storage and network prices are the image's own."""
    made = dataclasses.replace(
        load_catalog(),
        instances=tuple(
            Instance(**dict(zip(document["columns"], row, strict=True))) for row in document["rows"]
        ),
        discounts=tuple(Rule(**rule) for rule in document["discounts"]),
        quotas=tuple(Rule(**rule) for rule in document["quotas"]),
    )
    return dataclasses.replace(made, hash=catalog_hash(made))
