"""Make a variant of the tuned model: cut layers, heads and neurons, and teach what is left.

A variant without cuts is a copy that says which precision the exporter shall use. Cuts are made
from left to right; after each, the smaller model learns from the tuned one (`search.apply`).
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from components.compress import round8
from components.compress.cutting import cut
from components.compress.subject import WRITE_S, Asked, load, round_embeddings
from components.compress.variant import parse
from components.contract import MAIN_METRIC, DataError
from components.runtime import StepContext


def run(context: StepContext) -> str:
    """Make the variant's model artifact."""
    start = time.perf_counter()
    arguments = context.arguments
    variant = str(arguments.get("variant", "fp32"))
    recipe = parse(variant, str(arguments.get("target", "cpu")))
    source = context.fetch(context.inputs["model"])
    folder = context.folder("model")
    named = {"variant": variant, "onnx_precision": recipe.precision}
    asked = Asked(
        context=context, recipe=recipe, source=source, folder=folder, named=named, start=start
    )
    info = None
    if recipe.cuts:
        info = cut(asked)
    elif recipe.embed4 or round8.wanted(context, recipe, *family_of(source)):
        info = rounded(asked)
    if info is None:
        with context.phase("compress"):
            info = copy_model(source, folder, named)
    context.workload.update(parameters=info.get("parameters"), precision=recipe.precision)
    context.metrics.update(named)
    return context.put(folder, kind="model")


def family_of(source: Path) -> tuple[str, int]:
    """transformers' name of the architecture in the folder, and its parameters."""
    try:
        config = json.loads((source / "config.json").read_bytes())
        info = json.loads((source / "suanli.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: no model: {error}") from error
    return str(config.get("model_type", "")), int(info.get("parameters") or 0)


def copy_model(source: Path, folder: Path, named: dict[str, str]) -> dict[str, Any]:
    """Copy a model artifact and name the variant in it; folders (training curves) stay behind."""
    for path in (entry for entry in source.iterdir() if entry.is_file()):
        if path.name != "suanli.json":
            shutil.copyfile(path, folder / path.name)
    info = {**json.loads((source / "suanli.json").read_text()), **named}
    (folder / "suanli.json").write_text(json.dumps(info, indent=1, sort_keys=True))
    return info


def rounded(asked: Asked) -> dict[str, Any] | None:
    """Round the embeddings if asked, and train the whole model with 8-bit rounding if that costs
    more than the budget; None when nothing was changed."""
    from components.lib.modelling import save_model

    context, recipe = asked.context, asked.recipe
    loaded = load(asked, cut=False)
    before = None
    if recipe.embed4:
        before = loaded.material.score(loaded.model)[MAIN_METRIC[loaded.material.task.name]]
        loaded.info["table_bits"] = round_embeddings(loaded.model)
    written = None
    if round8.wanted(context, recipe, *family_of(asked.source)):
        end = round8.time_left(asked.start, asked.budget_s, WRITE_S)
        written = round8.settle(context, asked.folder, loaded, asked.named, end, tuned=before)
    if written is None and recipe.embed4:
        written = {**loaded.info, **asked.named}
        with context.phase("save"):
            save_model(loaded.model, asked.folder, tokenizer=loaded.tokenizer, info=dict(written))
    return written
