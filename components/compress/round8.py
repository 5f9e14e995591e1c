"""A variant that is only quantised: a copy, unless 8-bit rounding costs more than the budget; then
the tuned model is trained with the rounding in its forward pass (Jacob et al. 2018), with itself
unrounded as the teacher.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from components.compress.recommend import trains_rounding
from components.compress.subject import tell_texts
from components.compress.variant import Recipe
from components.contract import MAIN_METRIC
from components.runtime import StepContext

# The weights have little way to go; a full training would only overfit.
MOST_EPOCHS = 2.0
RATE_FACTOR = 1.0


def wanted(context: StepContext, recipe: Recipe, family: str, parameters: int) -> bool:
    """Whether the loss from rounding is to be looked at: 8 bits, a stated budget, and a model whose
    layers are known and whose training fits beside its copies (`recommend.trains_rounding`)."""
    known = context.arguments.get("max_quality_drop") is not None
    known = known and trains_rounding(family, parameters)
    return known and recipe.precision.startswith("int8") and not recipe.cuts


def settle(
    context: StepContext,
    folder: Path,
    loaded: Any,
    named: dict[str, str],
    end: float,
    *,
    tuned: float | None = None,
) -> dict[str, Any] | None:
    """Write the retrained model to `folder` when rounding loses more than the budget.

    Args:
        context: the step's; its metrics get both scores.
        folder: where the model goes.
        loaded: `step.Loaded` of it.
        named: entries for suanli.json.
        end: by time.perf_counter, training stops.
        tuned: the tuned model's score, where `loaded` is not that model any more.

    Returns:
        What was written to suanli.json; None when the loss is within the budget.
    """
    from components.compress import evened, repair
    from components.lib import distil, fake_quant
    from components.lib.modelling import save_model
    from components.lib.pruned import layers_of

    model, material = loaded.model, loaded.material
    metric = MAIN_METRIC[material.task.name]
    allowed = float(context.arguments["max_quality_drop"])
    with context.phase("evaluate"):
        tuned = material.score(model)[metric] if tuned is None else tuned
        rows = material.calibration_rows(evened.EVENING_ROWS)
        factors = evened.factors_of(model, material.batches(rows))
        with fake_quant.eight_bit_products(layers_of(model), factors):
            rounded = material.score(model)[metric]
    context.metrics.update(tuned=tuned, compressed=rounded, retrained=False)
    if not tuned - rounded > allowed:
        return None
    teacher = distil.Teacher(
        repair.clone(model), material.task.name, dtype=loaded.dtype, keep_bytes=loaded.keep_bytes
    )
    settings = repair.Settings(dtype=loaded.dtype, eight_bits=True, rate_factor=RATE_FACTOR)
    student = repair.Student(
        repair.clone(model), teacher, material, settings, layer_map=list(range(teacher.depth))
    )
    epochs = min(MOST_EPOCHS, loaded.epochs)
    steps = max(1, math.ceil(epochs * material.steps_per_epoch))
    with context.phase("train"):
        student.advance(repair.linear_decay(steps, end), eight_bits_below=math.inf)
    with context.phase("evaluate"), student.rounding():
        learnt = student.main_score()
    context.notes.append(
        f"8-bit rounding cost {tuned - rounded:.4f} {metric} on validation, more than {allowed}: "
        f"{student.step} steps with the rounding in the forward pass, {tuned - learnt:.4f} now"
    )
    tell_texts(context, student)
    if learnt <= rounded:
        context.notes.append("training with rounding did not help: the tuned weights are kept")
        return None
    context.metrics.update(compressed=learnt, retrained=True)
    with context.phase("save"):
        written = {**loaded.info, **named, "history": student.history()}
        student.model.requires_grad_(True)
        save_model(student.model, folder, tokenizer=loaded.tokenizer, info=written)
    context.workload.update(steps=student.step, epochs=student.step / material.steps_per_epoch)
    return written


def time_left(start: float, budget_s: float | None, reserve_s: float) -> float:
    """When training must stop, by time.perf_counter; infinite without a budget."""
    if budget_s is None:
        return math.inf
    return max(start + budget_s - reserve_s, time.perf_counter())
