"""Write down what a variant asks of the exporter; pruning and distillation change weights here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components.contract import SpecError
from components.runtime import StepContext

# Precisions are the exporter's work: here they are only recorded.
PRECISIONS = ("fp32", "fp16", "int8", "int8-static", "int4")


def onnx_precision(variant: str, target: str) -> str:
    """Return the precision that `variant` asks for; the target's default where it names none.

    Raises:
        SpecError: two precisions, or a part that is neither precision nor compression.
    """
    parts = variant.split("+")
    named = [part for part in parts if part in PRECISIONS]
    unknown = [part for part in parts if part not in PRECISIONS]
    if len(named) > 1:
        raise SpecError(
            f"compression.variants: {variant!r} names {len(named)} precisions",
            remedy=f"keep one of {', '.join(named)}",
        )
    if unknown:
        raise SpecError(
            f"compression.variants: {unknown[0]!r} in {variant!r} is unknown",
            remedy=f"use {', '.join(PRECISIONS)}",
        )
    return named[0] if named else {"cpu": "fp32", "gpu": "fp16"}[target]


def run(context: StepContext) -> str:
    """Make the variant's model artifact."""
    arguments = context.arguments
    variant = str(arguments.get("variant", "fp32"))
    precision = onnx_precision(variant, str(arguments.get("target", "cpu")))
    source = context.fetch(context.inputs["model"])
    folder = context.folder("model")
    with context.phase("compress"):
        # Folders (training curves) stay with the tuned model.
        for path in (entry for entry in source.iterdir() if entry.is_file()):
            shutil.copyfile(path, folder / path.name)
        info = json.loads((source / "suanli.json").read_text())
        _write_info(folder, {**info, "variant": variant, "onnx_precision": precision})
    context.workload.update(parameters=info.get("parameters"), precision=precision)
    context.metrics.update(variant=variant, onnx_precision=precision)
    return context.put(folder, kind="model")


def _write_info(folder: Path, info: dict[str, object]) -> None:
    (folder / "suanli.json").unlink()
    (folder / "suanli.json").write_text(json.dumps(info, indent=1, sort_keys=True))
