"""Make a variant of the tuned model: cut layers, heads and neurons, and teach what is left.

A variant without cuts is a copy that says which precision the exporter shall use. Cuts are made
from left to right; after each, the smaller model learns from the tuned one (`search.apply`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.compress import round8
from components.compress.variant import Recipe, parse
from components.contract import MAIN_METRIC, DataError
from components.runtime import StepContext

FIRST_TOKEN_TASKS = ("text-classification", "text-pair-ranking")

# Memory for the teacher's answers.
KEEP_BYTES = 2 << 30
# Kept back of a time budget for writing, beside the time of the last evaluations.
WRITE_S = 2.0


def run(context: StepContext) -> str:
    """Make the variant's model artifact."""
    start = time.perf_counter()
    arguments = context.arguments
    variant = str(arguments.get("variant", "fp32"))
    recipe = parse(variant, str(arguments.get("target", "cpu")))
    source = context.fetch(context.inputs["model"])
    folder = context.folder("model")
    named = {"variant": variant, "onnx_precision": recipe.precision}
    info = None
    if recipe.cuts:
        info = cut(context, recipe, source, folder, named, start)
    elif recipe.embed4 or round8.wanted(context, recipe, family_of(source)):
        info = rounded(context, recipe, source, folder, named, start)
    if info is None:
        with context.phase("compress"):
            info = copy_model(source, folder, named)
    context.workload.update(parameters=info.get("parameters"), precision=recipe.precision)
    context.metrics.update(named)
    return context.put(folder, kind="model")


def family_of(source: Path) -> str:
    """transformers' name of the architecture in the folder."""
    try:
        return str(json.loads((source / "config.json").read_bytes()).get("model_type", ""))
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: no model: {error}") from error


def copy_model(source: Path, folder: Path, named: dict[str, str]) -> dict[str, Any]:
    """Copy a model artifact and name the variant in it; folders (training curves) stay behind."""
    for path in (entry for entry in source.iterdir() if entry.is_file()):
        if path.name != "suanli.json":
            shutil.copyfile(path, folder / path.name)
    info = {**json.loads((source / "suanli.json").read_text()), **named}
    (folder / "suanli.json").write_text(json.dumps(info, indent=1, sort_keys=True))
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The tuned model and what it learns on.

    Attributes:
        info: its suanli.json, less the version, with its labels.
        dtype: what forward and backward compute in.
        epochs: of the tuning.
        tokenizer: the folder to take the tokenizer from; None for images.
    """

    model: Any
    material: Any
    info: dict[str, Any]
    dtype: Any
    epochs: float
    tokenizer: Path | None
    keep_bytes: int = KEEP_BYTES


def load(context: StepContext, source: Path, *, cut: bool) -> Loaded:
    """Read model and dataset, and prepare torch.

    Raises:
        SpecError: a family without a layout, to be cut.
        DataError: the dataset does not fit the model.
    """
    import torch

    from components.compress import repair
    from components.compress.material import load_material
    from components.lib import attention, pruned
    from components.lib.modelling import load_model, read_info

    arguments = context.arguments
    training = arguments.get("training") or {}
    info = read_info(source)
    task = str(arguments.get("task") or info["task"])
    torch.set_num_threads(int(arguments.get("threads") or len(os.sched_getaffinity(0))))
    torch.manual_seed(int(arguments.get("seed") or 0))
    with context.phase("load"):
        model = load_model(source, task, attention=attention.PADDED)
        if cut:
            pruned.layout_of(model)
        material = load_material(
            context.fetch(context.inputs["dataset"]), task, source,
            image_size=int(getattr(model.config, "image_size", 0) or 0),
            global_batch=int(training.get("global_batch") or 32),
            seed=int(arguments.get("seed") or 0),
        )  # fmt: skip
    return Loaded(
        model=model,
        material=material,
        info={**{k: v for k, v in info.items() if k != "schema_version"},
              "labels": json.loads((source / "labels.json").read_text())},
        dtype=repair.compute_dtype(str(training.get("precision") or "auto")),
        epochs=float(training.get("epochs") or 3),
        tokenizer=source if (source / "tokenizer.json").is_file() else None,
    )  # fmt: skip


def rounded(
    context: StepContext,
    recipe: Recipe,
    source: Path,
    folder: Path,
    named: dict[str, str],
    start: float,
) -> dict[str, Any] | None:
    """Round the embeddings if asked, and train the whole model with 8-bit rounding if that costs
    more than the budget; None when nothing was changed."""
    from components.lib.modelling import save_model

    loaded = load(context, source, cut=False)
    before = None
    if recipe.embed4:
        before = loaded.material.score(loaded.model)[MAIN_METRIC[loaded.material.task.name]]
        loaded.info["table_bits"] = round_embeddings(loaded.model)
    written = None
    if round8.wanted(context, recipe, family_of(source)):
        end = round8.time_left(start, context.arguments.get("budget_s"), WRITE_S)
        written = round8.settle(context, folder, loaded, named, end, tuned=before)
    if written is None and recipe.embed4:
        written = {**loaded.info, **named}
        with context.phase("save"):
            save_model(loaded.model, folder, tokenizer=loaded.tokenizer, info=dict(written))
    return written


def cut(
    context: StepContext,
    recipe: Recipe,
    source: Path,
    folder: Path,
    named: dict[str, str],
    start: float,
) -> dict[str, Any]:
    """Cut the model in `source` as the recipe says, teach it, and write it to `folder`."""
    from components.compress import latency, repair, search
    from components.lib import distil, pruned
    from components.lib.modelling import parameter_count, save_model

    arguments = context.arguments
    loaded = load(context, source, cut=True)
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
    budget = arguments.get("budget_s")
    # The same validation again at the end, and once more with rounding.
    reserve_s = WRITE_S + scoring_s * (2.5 if eight_bits else 1.0)
    end = None if budget is None else start + float(budget) - reserve_s
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
            **named,
            "parameters": parameter_count(model),
            "pruning": pruned.description(model),
            "history": [{**entry, "validation": scores} for entry in student.history()],
            "best_metric": {"name": metric, "value": scores[metric], "step": student.step},
            "removed": {"encoder_parameters": whole - left_over, "of": whole},
            "table_bits": bits,
        }
        save_model(model, folder, tokenizer=loaded.tokenizer, info=dict(written))
    context.metrics.update(
        tuned=tuned[metric], compressed=scores[metric], encoder_parameters=left_over,
        removed_share=(whole - left_over) / whole, candidates=candidates,
        latency_table=table.to_json(), teacher_layers=teacher.depth,
        compressed_in_8_bits=rounded, budget_s=budget,
    )  # fmt: skip
    context.notes += notes_of(candidates, table, budget)
    record(context, candidates, material, arguments.get("training") or {})
    return written


def round_embeddings(model: Any) -> int:
    """Round the word embeddings to 4 bits, in place; returns the bits that they now need. A table
    that is the output's, too, keeps 8: every logit would carry the error."""
    from components.lib.fake_quant import TABLE_BLOCK, rounded_table

    table = model.get_input_embeddings()
    fits = getattr(table, "embedding_dim", 1) % TABLE_BLOCK == 0
    if not fits or model.get_output_embeddings() is not None:
        return 8
    table.weight.data = rounded_table(table.weight.data)
    return 4


def notes_of(candidates: list[dict[str, Any]], table: Any, budget: float | None) -> list[str]:
    """What the receipt says of the search: each candidate, its time and the time planned for it."""
    notes = [] if table.measured else [f"structures chosen by {table.setting}"]
    for one in candidates:
        planned = "" if one["predicted_s"] is None else f", predicted {one['predicted_s']:.0f} s"
        rank = "chosen" if one["won"] else f"left after {len(one['rounds'])} rounds"
        notes.append(
            f"candidate {one['name']}: {one['steps']} steps in {one['seconds']:.0f} s{planned}; "
            f"{one['encoder_parameters']:,} parameters in its layers, {rank}"
        )
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
    split = material.train
    context.workload.update(
        rows=split.rows,
        tokens=int(split.tokens * steps / material.steps_per_epoch),
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
