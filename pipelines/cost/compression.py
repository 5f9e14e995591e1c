"""What the compress step may spend, and on what: the plan's side of components/compress.

A search for a cut gets a budget of seconds and uses it up, so its price is known before it starts:
the epochs that `components.compress.recommend` counts, at this machine's seconds for an epoch. The
step receives the budget with the share of every candidate, and its report sets its own times beside
them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from components.compress.recommend import KEEP_BYTES, Search, searches, unlabelled_rows
from components.compress.variant import parse
from pipelines.cost.chain import (
    PYTHON_BYTES,
    TORCH_BYTES,
    StepCost,
    cost,
    cpu_step_time,
    cpu_train_memory,
    start_seconds,
    validation_seconds,
    weights_bytes,
)
from pipelines.cost.estimate import Estimate
from pipelines.cost.job import Job
from pipelines.cost.machine import Machine
from pipelines.cost.profile import UNLABELLED, SplitProfile

# All searches of `variants: auto` together, so that the whole job stays within a quarter of an hour
# on two cores with MiniLM; a listed variant gets as many epochs as the tuning.
AUTO_SEARCH_S = 360.0
# A step that trains until its budget is used ends when it said; what is left is start and writing.
BUDGET_SPREAD = 1.15
# Epochs of training with 8-bit rounding, and what rounding adds to a step.
ROUNDING_EPOCHS = 2.0
ROUNDING_SHARE = 1.5
# A step of this training over one of the tuning: rows are padded instead of packed and a teacher's
# answers are followed layer by layer (benchmarks/results/compress-2026-11-26.json: 0.13 s with half
# of the encoder on banking77, where the tuning takes 0.10 s with all of it).
STEP_SHARE = 2.0
# What looking at it costs, in validations of the training loop: padded rows, stock kernels, and
# rounding that reads and writes every operand again.
CHECK_PASSES = 4.8
# Share of the deadline that it may take, for each of the two or three 8-bit variants.
ROUNDING_DEADLINE = 0.05
LEAST_BUDGET_S = 10.0


def precision_of(job: Job, machine: Machine) -> str:
    """What the step computes in: bf16 where the CPU multiplies it and it is faster."""
    wanted = job.spec.training.precision
    if wanted == "fp32" or not machine.native_bf16:
        return "fp32"
    if wanted == "bf16":
        return "bf16"
    faster = cpu_step_time(job, machine, "bf16") < cpu_step_time(job, machine, "fp32")
    return "bf16" if faster else "fp32"


def _texts(job: Job) -> SplitProfile | None:
    return job.profile.get(UNLABELLED)


def unlabelled_of(job: Job) -> tuple[int, float]:
    """Rows and tokens of the texts without labels that an epoch has beside the labelled rows."""
    texts = _texts(job)
    if texts is None:
        return 0, 0.0
    rows = unlabelled_rows(job.profile["train"].tokens, texts.rows, texts.tokens)
    return rows, rows * texts.mean_length


def steps_per_epoch(job: Job) -> int:
    """Steps in which the step sees every labelled row once, and its share of the others."""
    return math.ceil((job.profile["train"].rows + unlabelled_of(job)[0]) / job.global_batch)


def epoch_seconds(job: Job, machine: Machine) -> float:
    """Seconds of an epoch of the whole model on this machine, as the step would train it."""
    step = STEP_SHARE * cpu_step_time(job, machine, precision_of(job, machine))
    more = unlabelled_of(job)[1] / max(job.profile["train"].tokens, 1)
    return job.steps_per_epoch * step * (1.0 + more)


def unlabelled_memory(job: Job) -> float:
    """Bytes of the texts without labels: ids and labels, twice while they are joined to the others,
    and the teacher's answers to them as far as these are kept."""
    texts = _texts(job)
    if texts is None:
        return 0.0
    answers = 4.0 * (job.shape.num_layers + 1) * job.shape.hidden_size * texts.tokens
    return 32.0 * texts.tokens + min(answers, KEEP_BYTES)


def searches_of(job: Job, variant: str) -> tuple[Search, ...]:
    """The search of each cut of `variant`, in epochs."""
    return searches(
        variant, layers=job.shape.num_layers, epochs=float(job.spec.training.epochs),
        steps_per_epoch=steps_per_epoch(job),
    )  # fmt: skip


def search_arguments(job: Job, machine: Machine, variant: str) -> list[dict[str, Any]]:
    """Return for each cut of `variant` its candidates and their seconds, as the step gets them."""
    found = searches_of(job, variant)
    unit = epoch_seconds(job, machine) * _scale(job, machine, variant)
    return [
        {
            "cut": search.cut,
            "ways": search.ways,
            "scoring_s": round(search.scoring * unit, 2),
            "round_s": [round(epochs * unit, 2) for epochs in search.rounds],
            "finish_s": round(search.finish * unit, 2),
        }
        for search in found
    ]


def budget_seconds(job: Job, machine: Machine, variant: str) -> float:
    """Seconds that the step may use, without its start: 0 where nothing is searched or trained."""
    total = sum(search.total for search in searches_of(job, variant))
    if not total:
        return 0.0
    training = total * epoch_seconds(job, machine) * _scale(job, machine, variant)
    return max(LEAST_BUDGET_S, training + _besides(job, machine))


def _besides(job: Job, machine: Machine) -> float:
    """Seconds of a search that train nothing: validation of the tuned model, and of the winner
    before and after its training."""
    return 4.5 * validation_seconds(job, machine, precision_of(job, machine))


def _scale(job: Job, machine: Machine, variant: str) -> float:
    """Share of the wanted epochs that the limit on ``auto`` leaves."""
    if job.spec.compression.variants != "auto":
        return 1.0
    cut = sum(bool(searches_of(job, other)) for other in job.variants)
    wanted = sum(search.total for search in searches_of(job, variant)) * epoch_seconds(job, machine)
    room = AUTO_SEARCH_S / max(cut, 1) - _besides(job, machine)
    return min(1.0, max(room, LEAST_BUDGET_S) / wanted)


def rounding_is_checked(job: Job, variant: str) -> bool:
    """Whether the step looks at what 8-bit rounding costs, to train it away where that is too much
    (components.compress.round8). Not for plain int8 beside int8-static: that one is as small and
    faster, so training is spent on it alone."""
    from components.compress.recommend import trains_rounding

    def precision(name: str) -> str:
        recipe = parse(name, job.target)
        return "" if recipe.cuts else recipe.precision

    own = precision(variant)
    trainable = trains_rounding(job.shape.family, int(job.parameters))
    if not trainable or not own.startswith("int8"):
        return False
    return own == "int8-static" or all(precision(o) != "int8-static" for o in job.variants)


def check_seconds(job: Job, machine: Machine) -> float:
    """Seconds of two validations, one of them with every product's operands rounded."""
    return CHECK_PASSES * validation_seconds(job, machine, "fp32")


def rounding_budget(job: Job, machine: Machine) -> float:
    """Seconds that training with 8-bit rounding may use, should it be needed: a rescue that is
    rarely called must not cost a plan its deadline."""
    epochs = min(ROUNDING_EPOCHS, float(job.spec.training.epochs))
    wanted = ROUNDING_SHARE * epochs * epoch_seconds(job, machine)
    deadline = job.spec.objective.deadline_s
    room = AUTO_SEARCH_S if deadline is None else min(AUTO_SEARCH_S, ROUNDING_DEADLINE * deadline)
    return min(wanted, room)


def compress_cost(job: Job, machine: Machine, variant: str) -> StepCost:
    """Cost of the compress step of `variant`."""
    size = weights_bytes(job)
    moved = {"moved": 3 * size, "disk": 4 * size, "bytes_in": size, "bytes_out": size}
    budget = budget_seconds(job, machine, variant)
    if budget:
        seconds = start_seconds(machine, "compress") + budget
        # Several students, each with its states (WNUT-17: 4.5 GB where training takes 1.6).
        longer = texts.lengths.max() / job.longest if (texts := _texts(job)) else 0.0
        memory = TORCH_BYTES + cpu_train_memory(job) * 2.1 * max(1.0, float(longer))
        memory += unlabelled_memory(job)
        return cost(job, machine, seconds, memory, spread=BUDGET_SPREAD, **moved)
    if not rounding_is_checked(job, variant):
        seconds = start_seconds(machine, "data")
        return cost(job, machine, seconds, PYTHON_BYTES, spread=1.6, **moved)
    # Validations with and without rounding; training with it is the exception.
    seconds = start_seconds(machine, "compress") + check_seconds(job, machine)
    memory = TORCH_BYTES + 27.0 * job.parameters + unlabelled_memory(job)
    found = cost(job, machine, seconds, memory, spread=1.6, **moved)
    usual = found.seconds
    high = usual.high + rounding_budget(job, machine)
    return replace(found, seconds=Estimate(value=usual.value, low=usual.low, high=high))


def compress_arguments(job: Job, machine: Machine, variant: str) -> dict[str, Any]:
    """What the step gets besides the training section: how long it may take, and on what."""
    made: dict[str, Any] = {"precision": precision_of(job, machine)}
    budget = budget_seconds(job, machine, variant)
    if budget:
        return made | {
            "budget_s": round(budget, 1),
            "search": search_arguments(job, machine, variant),
        }
    if rounding_is_checked(job, variant):
        checks = check_seconds(job, machine)
        return made | {
            "max_quality_drop": job.spec.compression.max_quality_drop,
            "budget_s": round(checks + rounding_budget(job, machine), 1),
        }
    return made
