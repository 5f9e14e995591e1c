"""Draw from pools whose parts by split are disjoint."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

SPLITS = ("train", "validation", "test")
# Share of each pool by split.
SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}


def part(pool: Sequence[Item], split: str) -> list[Item]:
    """Return the split's own part of a pool; the parts are disjoint and do not depend on seeds."""
    shuffled = sorted(pool, key=str)
    random.Random(len(shuffled)).shuffle(shuffled)
    low, high = SHARES[split]
    return shuffled[round(low * len(shuffled)) : round(high * len(shuffled))]


def lines(text: str) -> list[str]:
    """Return the non-empty lines of a block of text, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]
