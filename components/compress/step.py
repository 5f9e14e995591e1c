"""Make a variant of the tuned model: cut layers, heads and neurons, and teach what is left.

A variant without cuts is a copy that says which precision the exporter shall use. Cuts are made
from left to right; after each, the smaller model learns from the tuned one (`search.apply`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from components.compress.variant import Recipe, parse
from components.contract import MAIN_METRIC, DataError
from components.runtime import StepContext

# Kept back of a time budget for the last validation and for writing.
RESERVE_S = 4.0
# Memory for the teacher's answers.
KEEP_BYTES = 2 << 30


def run(context: StepContext) -> str:
    """Make the variant's model artifact."""
    start = time.perf_counter()
    arguments = context.arguments
    variant = str(arguments.get("variant", "fp32"))
    recipe = parse(variant, str(arguments.get("target", "cpu")))
    source = context.fetch(context.inputs["model"])
    folder = context.folder("model")
    named = {"variant": variant, "onnx_precision": recipe.precision}
    if recipe.cuts:
        info = cut(context, recipe, source, folder, named, start)
    else:
        with context.phase("compress"):
            info = copy_model(source, folder, named)
    context.workload.update(parameters=info.get("parameters"), precision=recipe.precision)
    context.metrics.update(named)
    return context.put(folder, kind="model")


def copy_model(source: Path, folder: Path, named: dict[str, str]) -> dict[str, Any]:
    """Copy a model artifact and name the variant in it; folders (training curves) stay behind."""
    for path in (entry for entry in source.iterdir() if entry.is_file()):
        if path.name != "suanli.json":
            shutil.copyfile(path, folder / path.name)
    info = {**json.loads((source / "suanli.json").read_text()), **named}
    (folder / "suanli.json").write_text(json.dumps(info, indent=1, sort_keys=True))
    return info


def cut(
    context: StepContext,
    recipe: Recipe,
    source: Path,
    folder: Path,
    named: dict[str, str],
    start: float,
) -> dict[str, Any]:
    """Cut the model in `source` as the recipe says, teach it, and write it to `folder`."""
    import torch

    from components.compress import latency, repair, search
    from components.compress.material import load_material
    from components.lib import attention, distil, pruned
    from components.lib.modelling import load_model, parameter_count, read_info, save_model

    arguments = context.arguments
    training = arguments.get("training") or {}
    info = read_info(source)
    task = str(arguments.get("task") or info["task"])
    threads = int(arguments.get("threads") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    torch.manual_seed(int(arguments.get("seed") or 0))
    with context.phase("load"):
        model = load_model(source, task, attention=attention.PADDED)
        pruned.layout_of(model)
        material = load_material(
            context.fetch(context.inputs["dataset"]), task, source,
            image_size=int(getattr(model.config, "image_size", 0) or 0),
            global_batch=int(training.get("global_batch") or 32),
            seed=int(arguments.get("seed") or 0),
        )  # fmt: skip
    dtype = repair.compute_dtype(str(training.get("precision") or "auto"))
    weights = repair.Weights(**(arguments.get("distillation") or {}))
    eight_bits = recipe.precision.startswith("int8")
    settings = repair.Settings(dtype=dtype, eight_bits=eight_bits, weights=weights)
    teacher = distil.Teacher(
        repair.clone(model), task,
        dtype=dtype, keep_bytes=KEEP_BYTES, relations=weights.relations > 0,
    )  # fmt: skip
    with context.phase("evaluate"):
        tuned = material.score(teacher.model)
    refuse_poor_teacher(tuned, material)
    with context.phase("latency"):
        table = latency.measure(
            model,
            precision=recipe.precision,
            target=str(arguments.get("target", "cpu")),
            length=typical_length(material.train),
        )
    budget = arguments.get("budget_s")
    end = None if budget is None else start + float(budget) - RESERVE_S
    before, candidates = pruned.encoder_parameters(model), []
    student = None
    for number, one in enumerate(recipe.cuts):
        left = len(recipe.cuts) - number
        deadline = None
        if end is not None:
            now = time.perf_counter()
            deadline = now + max(end - now, 0.0) / left
        limits = search.Limits(
            # A model that will be cut again only has to stand on its feet.
            epochs=float(training.get("epochs") or 3) / left,
            deadline=deadline,
            speedup=arguments.get("speedup"),
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
    after = pruned.encoder_parameters(model)
    with context.phase("save"):
        model.requires_grad_(True)
        written = {
            **{k: v for k, v in info.items() if k != "schema_version"},
            **named,
            "labels": json.loads((source / "labels.json").read_text()),
            "parameters": parameter_count(model),
            "pruning": pruned.description(model),
            "history": [{"step": student.step, "epoch": student.step / material.steps_per_epoch,
                         "loss": student.losses[-1], "validation": scores}],
            "best_metric": {"name": metric, "value": scores[metric], "step": student.step},
            "removed": {"encoder_parameters": before - after, "of": before},
        }  # fmt: skip
        text = (source / "tokenizer.json").is_file()
        save_model(model, folder, tokenizer=source if text else None, info=dict(written))
    context.metrics.update(
        tuned=tuned[metric], compressed=scores[metric], encoder_parameters=after,
        removed_share=(before - after) / before, candidates=candidates,
        latency_table=table.to_json(), teacher_layers=teacher.depth,
        compressed_in_8_bits=rounded,
    )  # fmt: skip
    if not table.measured:
        context.notes.append(f"structures chosen by {table.setting}")
    record(context, candidates, material, training)
    return written


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
