"""What a variant's name asks for: ``distill3+prune50+int8`` is read from left to right."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.contract import SpecError

# Precisions are the exporter's work: here they are only recorded.
PRECISIONS = ("fp32", "fp16", "int8", "int8-static", "int4")
# Word embeddings in 4 bits: half the file of a small encoder, and no time.
EMBED4 = "embed4"
METHOD = re.compile(r"(prune|distill|speed)(\d{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One change of the weights.

    Attributes:
        method: ``prune``, ``speed`` or ``distill``.
        amount: percent of the layers' parameters to remove, how many times as fast the layers shall
            be, or layers to keep.
    """

    method: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a variant is made by: cuts in order, then a precision.

    Attributes:
        embed4: word embeddings get 4 bits, whatever else is done. Cut models in 8 bits get them
            without asking: they learn around the rounding.
    """

    cuts: tuple[Cut, ...]
    precision: str
    embed4: bool = False


def parse(variant: str, target: str) -> Recipe:
    """Read a variant's name; without a precision it gets the target's default.

    Raises:
        SpecError: two precisions, an unknown part, or an amount that leaves nothing.
    """
    parts = variant.split("+")
    named = [part for part in parts if part in PRECISIONS]
    if len(named) > 1:
        raise SpecError(
            f"compression.variants: {variant!r} names {len(named)} precisions",
            remedy=f"keep one of {', '.join(named)}",
        )
    cuts = tuple(_cut(part, variant) for part in parts if part not in (*PRECISIONS, EMBED4))
    precision = named[0] if named else {"cpu": "fp32", "gpu": "fp16"}[target]
    eight_bits, embed4 = precision.startswith("int8"), EMBED4 in parts
    if embed4 and not eight_bits:
        raise SpecError(
            f"compression.variants: {variant!r} has {EMBED4} without int8",
            remedy=f"use {EMBED4}+int8-static",
        )
    return Recipe(cuts=cuts, precision=precision, embed4=embed4 or (eight_bits and bool(cuts)))


def _cut(part: str, variant: str) -> Cut:
    found = METHOD.fullmatch(part)
    if not found:
        raise SpecError(
            f"compression.variants: {part!r} in {variant!r} is unknown",
            remedy=f"use {', '.join(PRECISIONS)}, {EMBED4}, prune<percent>, speed<times> or "
            "distill<layers>",
        )
    method, amount = found[1], int(found[2])
    if method == "prune" and not 1 <= amount <= 95:
        raise SpecError(
            f"compression.variants: {part!r} is not between prune1 and prune95",
            remedy="the rest of a model pruned further is mostly biases: use distill<layers>",
        )
    if method == "speed" and not 2 <= amount <= 9:
        raise SpecError(
            f"compression.variants: {part!r} is not between speed2 and speed9",
            remedy="beyond that little is left of any layer: use distill<layers>",
        )
    if method == "distill" and amount < 1:
        raise SpecError(f"compression.variants: {part!r} leaves no layer", remedy="use distill1")
    return Cut(method=method, amount=amount)
