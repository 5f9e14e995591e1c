"""``learning_rate: {search: n}``: n short trainings, the best on validation wins."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.lib import modelling, optim
from components.train import report
from components.train.job import Job
from components.train.setup import Data
from components.train.world import World

# Candidates lie between a fourth and four times the rule's rate, evenly on a log scale.
RANGE_FACTOR = 4.0
# All short runs together cost at most this share of the run itself, each at least MINIMUM_STEPS.
BUDGET_SHARE = 0.5
MINIMUM_STEPS = 10


def candidates(centre: float, count: int) -> list[float]:
    """Return `count` rates around `centre`, ascending."""
    exponents = [2.0 * i / (count - 1) - 1.0 for i in range(count)]
    return [centre * RANGE_FACTOR**exponent for exponent in exponents]


def search_learning_rate(
    job: Job, world: World, data: Data, train: Callable[[Job, World, Data], Any]
) -> Job:
    """Return `job` with the learning rate that did best in a short run with its own full schedule.

    The result is kept beside the checkpoints, so a restart does not search again.
    """
    folder = Path(job.checkpoints)
    kept = folder / "search.json"
    if kept.is_file():
        return dataclasses.replace(job, learning_rate=json.loads(kept.read_text())["rate"])
    steps = job.epochs * -(-len(data.task.units(data.train)) // job.global_batch)
    short = max(MINIMUM_STEPS, int(steps * BUDGET_SHARE / job.search))
    tried = []
    for rate in candidates(rule(job), job.search):
        trial = dataclasses.replace(
            job,
            learning_rate=rate,
            stop_after_steps=short,
            checkpoints=str(folder / f"search-{len(tried)}"),
            checkpoint_interval_s=1e9,
            tracking={},
        )
        run = train(trial, world, data)
        tried.append((run.history.best_metric, -run.history.losses[-1], rate))
    best = max(tried)
    if world.rank == 0:
        result = {"rate": best[2], "tried": [{"rate": r, "metric": m} for m, _, r in tried]}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result))
        report.emit("searched", **result)
    return dataclasses.replace(job, learning_rate=best[2])


def rule(job: Job) -> float:
    """Return what ``auto`` would be for this job."""
    scratch = bool(job.model.get("config"))
    shapes = {} if scratch else modelling.saved_shapes(modelling.resolve_model(job.model))
    size = max(1, sum(math.prod(shape) for shape in shapes.values()))
    return optim.learning_rate_rule(
        method=job.method, parameters=size, global_batch=job.global_batch, from_scratch=scratch
    )
