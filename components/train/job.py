"""What one training run is: the plan's arguments with their defaults, checked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import TASKS, SpecError

METHODS = ("full", "lora", "adalora")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SHARDINGS = ("none", "ddp", "fsdp")
PACKINGS = ("auto", "bucket", "packed")
# A head that starts at random among layers that do not has further to go (rates by layer: Howard
# and Ruder 2018). What it is worth on WNUT-17: docs/training.md.
FRESH_FACTOR = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run, as the file that every rank reads.

    `dataset`, `checkpoints` and `output` are folders that every rank sees. `global_batch` counts
    sequences an optimiser step, over all ranks; `micro_batch` the most of them in one forward on
    one rank, `token_budget` the most tokens in one forward. `fresh_factor` multiplies the
    learning rate of a head without pretrained weights. `search` > 0 spends that many short runs on
    the learning rate. `peak_flops` (of a rank) is what MFU is a share of, by default the
    device's own figure. `stop_after_steps` ends early (tests, searches). With `streamed` the first
    epoch takes the dataset's shards as they arrive.
    """

    task: str
    model: dict[str, Any]
    dataset: str
    checkpoints: str
    output: str
    method: str = "full"
    lora: dict[str, Any] = field(default_factory=dict)
    epochs: int = 3
    max_length: int = 128
    global_batch: int = 32
    micro_batch: int = 32
    token_budget: int | None = None
    precision: str = "auto"
    optimizer: str = "auto"
    learning_rate: float | None = None
    search: int = 0
    weight_decay: float = 0.01
    fresh_factor: float = FRESH_FACTOR
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0
    early_stopping: int | None = None
    class_weights: str | None = None
    augment: dict[str, Any] | None = None
    seed: int = 0
    sharding: str = "none"
    activation_checkpointing: bool = False
    checkpoint_interval_s: float = 300.0
    packing: str = "auto"
    listwise: bool = False
    dropout: float | None = None
    compile: bool = False
    threads: int | None = None
    peak_flops: float | None = None
    usd_per_hour: float | None = None
    stop_after_steps: int | None = None
    streamed: bool = False
    tracking: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any], **folders: str) -> Job:
        """Build a job from a step's arguments.

        Raises:
            SpecError: a value is outside what training knows.
        """
        training = {k: v for k, v in arguments.get("training", {}).items() if v is not None}
        rate = training.pop("learning_rate", "auto")
        patience = training.pop("early_stopping", None)
        names = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: v for k, v in training.items() if k in names}
        values["early_stopping"] = patience.get("patience") if patience else None
        values["search"] = int(rate["search"]) if isinstance(rate, dict) else 0
        values["learning_rate"] = float(rate) if isinstance(rate, (int, float)) else None
        values.setdefault("micro_batch", values.get("global_batch", 32))
        # Numbers inside KFP parameters arrive as floats.
        for name in ("epochs", "global_batch", "micro_batch", "seed", "max_length", "token_budget"):
            if values.get(name) is not None:
                values[name] = int(values[name])
        job = cls(
            task=arguments["task"],
            model=arguments["model"],
            tracking=arguments.get("tracking") or {},
            **values,
            **folders,
        )
        job.check()
        return job

    def check(self) -> None:
        """Raise SpecError for a value that no run could use."""
        for name, allowed in (
            ("task", TASKS),
            ("method", METHODS),
            ("precision", PRECISIONS),
            ("sharding", SHARDINGS),
            ("packing", PACKINGS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise SpecError(
                    f"training.{name}: {value!r} is unknown", remedy=f"one of {', '.join(allowed)}"
                )
        for name in ("epochs", "global_batch", "micro_batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"training.{name}: {getattr(self, name)} is not at least 1")
        rate = self.learning_rate
        if rate is not None and not 0 < rate < 1:
            raise SpecError(
                f"training.learning_rate: {rate} is not between 0 and 1", remedy="use auto"
            )

    def write(self, path: Path) -> None:
        """Save the job for the ranks to read."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Load what `write` saved."""
        return cls(**json.loads(path.read_bytes()))

    def identity(self, dataset: dict[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint must share with this job to be continued by it."""
        own = (
            "task", "model", "method", "lora", "epochs", "global_batch", "optimizer", "seed",
            "learning_rate", "fresh_factor", "weight_decay", "packing", "class_weights",
            "precision", "augment",
        )  # fmt: skip
        shards = [s["sha256"] for split in dataset["splits"].values() for s in split["shards"]]
        order = {"streamed": self.streamed or None}  # None: as before there was streaming
        return {name: getattr(self, name) for name in own} | {"shards": shards} | order
