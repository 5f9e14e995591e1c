"""One way to run: which node trains, which node does the rest, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.cost.catalog import Instance
from pipelines.cost.chain import StepCost
from pipelines.cost.estimate import Estimate
from pipelines.cost.machine import Machine

HERE = "here"
ON_DEMAND = "on-demand"
SPOT = "spot"
# Steps of one variant.
VARIANT_KINDS = ("compress", "export", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A node for some of the steps. `instance` is None for this machine; `usd_per_hour` None
    where nobody stated it."""

    machine: Machine
    instance: Instance | None
    capacity: str
    usd_per_hour: float | None

    @property
    def name(self) -> str:
        return self.instance.name if self.instance else HERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the model is trained; what the train step's arguments and requests follow from."""

    placement: Placement
    nodes: int
    processes: int  # a node
    gpus: int  # a node
    precision: str
    micro_batch: int
    grad_accum: int
    checkpointing: bool
    optimizer: str
    sharding: str
    checkpoint_interval_s: float
    cost: StepCost
    why: str
    # Where `cost` is the search's, with waits, interruptions and what receipts taught: seconds of
    # the container alone without receipts, with them, and what they multiplied them by.
    bare_seconds: float | None = None
    container: Estimate | None = None
    learnt_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Placements of everything: training, the other CPU steps, and GPU steps for a GPU target."""

    training: Training
    light: Placement
    serving: Placement
