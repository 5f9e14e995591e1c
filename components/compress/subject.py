"""What the step was asked to make, and what it makes it from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.compress.recommend import KEEP_BYTES
from components.compress.variant import Recipe
from components.runtime import StepContext

# Kept back of a time budget for writing, beside the time of the last evaluations.
WRITE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One variant to be made.

    Attributes:
        context: the step's.
        recipe: what the variant's name means.
        source: folder of the tuned model.
        folder: where the variant goes.
        named: entries for suanli.json.
        start: of the step, by time.perf_counter.
    """

    context: StepContext
    recipe: Recipe
    source: Path
    folder: Path
    named: dict[str, str]
    start: float

    @property
    def budget_s(self) -> float | None:
        """Seconds that the step may take; None without a limit."""
        budget = self.context.arguments.get("budget_s")
        return None if budget is None else float(budget)


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


def load(asked: Asked, *, cut: bool) -> Loaded:
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

    context, source, arguments = asked.context, asked.source, asked.context.arguments
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


def tell_texts(context: StepContext, student: Any) -> None:
    """Say in the receipt which texts without labels there are, and how many the student has learnt
    from; nothing where there are none."""
    material = student.material
    if not material.drawn:
        return
    first = material.train.rows
    lengths, read = material.lessons.lengths[first:], student.read[first:]
    found = {
        "rows": len(lengths),
        "tokens": int(lengths.sum()),
        "an_epoch": material.drawn,
        "rows_read": int(read.sum()),
        "tokens_read": int(lengths[read].sum()),
    }
    context.metrics["unlabelled"] = found
    context.notes.append(
        f"of {found['rows']:,} texts without labels ({found['tokens']:,} tokens), "
        f"{found['an_epoch']:,} an epoch beside {first:,} labelled rows, the model read "
        f"{found['rows_read']:,} ({found['tokens_read']:,} tokens)"
    )


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
