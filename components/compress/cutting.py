"""Cut a tuned model, cut after cut, and teach what is left (`search.apply`)."""

from __future__ import annotations

import time
from typing import Any

from components.compress.recommend import KEEP_BYTES
from components.compress.subject import WRITE_S, Asked, load, round_embeddings, tell_texts
from components.contract import MAIN_METRIC, DataError
from components.runtime import StepContext

FIRST_TOKEN_TASKS = ("text-classification", "text-pair-ranking")


def cut(asked: Asked) -> dict[str, Any]:
    """Cut the model as the recipe says, teach it, and write it; returns its suanli.json."""
    from components.compress import latency, repair, search
    from components.lib import distil, pruned
    from components.lib.modelling import parameter_count, save_model

    context, recipe, arguments = asked.context, asked.recipe, asked.context.arguments
    loaded = load(asked, cut=True)
    model, material, task = loaded.model, loaded.material, loaded.material.task.name
    weights = repair.Weights(**(arguments.get("distillation") or {}))
    eight_bits = recipe.precision.startswith("int8")
    settings = repair.Settings(dtype=loaded.dtype, eight_bits=eight_bits, weights=weights)
    teacher = distil.Teacher(
        repair.clone(model), task,
        dtype=loaded.dtype, keep_bytes=KEEP_BYTES, relations=weights.relations > 0,
    )  # fmt: skip
    bits = round_embeddings(model) if recipe.embed4 else 8
    before_scoring = time.perf_counter()
    with context.phase("evaluate"):
        tuned = material.score(teacher.model)
    scoring_s = time.perf_counter() - before_scoring
    refuse_poor_teacher(tuned, material)
    with context.phase("latency"):
        table = latency.measure(
            model,
            precision=recipe.precision,
            target=str(arguments.get("target", "cpu")),
            length=typical_length(material.train),
            first_only=task in FIRST_TOKEN_TASKS,
        )
    # At the end the same validation before and after the training, and once more for the record;
    # each takes longer with rounding.
    reserve_s = WRITE_S + scoring_s * (5.5 if eight_bits else 3.0)
    end = None if asked.budget_s is None else asked.start + asked.budget_s - reserve_s
    predicted = [search.Predicted.from_json(one) for one in arguments.get("search") or []]
    whole, candidates = pruned.encoder_parameters(model), []
    student = None
    for number, one in enumerate(recipe.cuts):
        left = len(recipe.cuts) - number
        deadline = None
        if end is not None:
            now = time.perf_counter()
            deadline = now + max(end - now, 0.0) / left
        limits = search.Limits(
            # A model that will be cut again only has to stand on its feet.
            epochs=loaded.epochs / left,
            deadline=deadline,
            predicted=predicted[number] if predicted else None,
        )
        with context.phase("train"):
            found = search.apply(
                one, model, teacher, material, table, settings, limits,
                progress=progress_of(context, number, len(recipe.cuts)),
            )  # fmt: skip
        student, model = found.student, found.student.model
        candidates += found.candidates
    assert student is not None
    with context.phase("evaluate"):
        scores = student.score()
        rounded = None
        if eight_bits:
            with student.rounding():
                rounded = student.main_score()
    metric = MAIN_METRIC[task]
    left_over = pruned.encoder_parameters(model)
    with context.phase("save"):
        model.requires_grad_(True)
        written = {
            **loaded.info,
            **asked.named,
            "parameters": parameter_count(model),
            "pruning": pruned.description(model),
            "history": [{**entry, "validation": scores} for entry in student.history()],
            "best_metric": {"name": metric, "value": scores[metric], "step": student.step},
            "removed": {"encoder_parameters": whole - left_over, "of": whole},
            "table_bits": bits,
        }
        save_model(model, asked.folder, tokenizer=loaded.tokenizer, info=dict(written))
    context.metrics.update(
        tuned=tuned[metric], compressed=scores[metric], encoder_parameters=left_over,
        removed_share=(whole - left_over) / whole, candidates=candidates,
        latency_table=table.to_json(), teacher_layers=teacher.depth,
        compressed_in_8_bits=rounded, budget_s=asked.budget_s,
    )  # fmt: skip
    context.notes += notes_of(candidates, table, asked.budget_s)
    tell_texts(context, student)
    context.notes.append(
        f"{metric} on validation {tuned[metric]:.4f} before, {scores[metric]:.4f} after"
        + ("" if rounded is None else f", {rounded:.4f} rounded to 8 bits")
    )
    record(context, candidates, material, arguments.get("training") or {})
    return written


def notes_of(candidates: list[dict[str, Any]], table: Any, budget: float | None) -> list[str]:
    """What the receipt's table of candidates does not say."""
    notes = [] if table.measured else [f"structures chosen by {table.setting}"]
    notes += [
        f"candidate {one['name']} is taken as it was mended: training lost more"
        for one in candidates
        if not one["trained"]
    ]
    if not any(one["steps"] for one in candidates):
        notes.append(f"the budget of {budget:.0f} s left no time to train what was cut")
    return notes


def progress_of(context: StepContext, number: int, cuts: int) -> Any:
    """Return a listener that scales a cut's progress to the step's."""

    def tell(fraction: float, message: str) -> None:
        context.progress((number + fraction) / cuts, message)

    return tell


def typical_length(split: Any) -> int:
    """Median tokens of a sequence; of an image, as many as a small ViT has patches."""
    if split.images is not None:
        return 64
    ordered = sorted(int(length) for length in split.lengths)
    return max(8, ordered[len(ordered) // 2])


def refuse_poor_teacher(scores: dict[str, float], material: Any) -> None:
    """Raise DataError when the tuned model knows nothing: there is nothing to teach.

    Chance is the share of the most frequent class, or no entity found.
    """
    import numpy as np

    metric = MAIN_METRIC[material.task.name]
    if metric == "accuracy":
        labels = material.validation.columns["label"]
        chance = float(np.bincount(labels).max() / len(labels))
    elif metric == "entity_f1":
        chance = 0.0
    else:
        return
    if scores[metric] <= chance:
        raise DataError(
            f"the tuned model's {metric} on validation is {scores[metric]:.4f}, chance is "
            f"{chance:.4f}: it has nothing to teach",
            remedy="train it longer or with another learning rate before compressing it",
        )


def record(
    context: StepContext,
    candidates: list[dict[str, Any]],
    material: Any,
    training: dict[str, Any],
) -> None:
    """Tell the step report what was done."""
    import torch

    steps = sum(candidate["steps"] for candidate in candidates)
    split = material.lessons
    context.workload.update(
        rows=split.rows,
        tokens=int(material.tokens_per_epoch * steps / material.steps_per_epoch),
        sequences=steps * material.global_batch,
        steps=steps,
        epochs=steps / material.steps_per_epoch,
        micro_batch=material.global_batch,
        seq_len_mean=float(split.lengths.mean()),
        seq_len_max=int(split.lengths.max()),
        threads=torch.get_num_threads(),
        candidates=len(candidates),
        train_precision=str(training.get("precision") or "auto"),
    )
