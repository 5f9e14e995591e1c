"""What a variant's name asks for: ``distill3+prune50+int8`` is read from left to right."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.contract import SpecError

# Precisions are the exporter's work: here they are only recorded.
PRECISIONS = ("fp32", "fp16", "int8", "int8-static", "int4")
METHOD = re.compile(r"(prune|distill)(\d{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One change of the weights.

    Attributes:
        method: ``prune`` or ``distill``.
        amount: percent of the layers' parameters to remove, or layers to keep.
    """

    method: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a variant is made by: cuts in order, then a precision."""

    cuts: tuple[Cut, ...]
    precision: str


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
    cuts = tuple(_cut(part, variant) for part in parts if part not in PRECISIONS)
    precision = named[0] if named else {"cpu": "fp32", "gpu": "fp16"}[target]
    return Recipe(cuts=cuts, precision=precision)


def _cut(part: str, variant: str) -> Cut:
    found = METHOD.fullmatch(part)
    if not found:
        raise SpecError(
            f"compression.variants: {part!r} in {variant!r} is unknown",
            remedy=f"use {', '.join(PRECISIONS)}, prune<percent> or distill<layers>",
        )
    method, amount = found[1], int(found[2])
    if method == "prune" and not 1 <= amount <= 95:
        raise SpecError(
            f"compression.variants: {part!r} is not between prune1 and prune95",
            remedy="the rest of a model pruned further is mostly biases: use distill<layers>",
        )
    if method == "distill" and amount < 1:
        raise SpecError(f"compression.variants: {part!r} leaves no layer", remedy="use distill1")
    return Cut(method=method, amount=amount)
