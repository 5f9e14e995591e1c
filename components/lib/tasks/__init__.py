"""The five tasks: how rows become tensors, what the loss is, how predictions are scored.

A task object is a handful of functions over a `Split`; training, distillation and pruning share it.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.contract import MAIN_METRIC, DataError
from components.lib.augment import Augmentation
from components.lib.tasks.base import Array, Batch, Task, balanced_weights, class_counts
from components.lib.tasks.classification import (
    ImageClassification,
    TextClassification,
    TokenClassification,
)
from components.lib.tasks.language import CausalLanguageModel
from components.lib.tasks.layout import lay_out
from components.lib.tasks.ranking import Ranking

__all__ = ["Batch", "Task", "balanced_weights", "class_counts", "lay_out", "make_task"]


def make_task(
    name: str,
    labels: Sequence[str],
    *,
    pad_token_id: int = 0,
    class_weights: Array | None = None,
    listwise: bool = False,
    image_size: int = 64,
    augmentation: Augmentation | None = None,
    top: float | None = None,
) -> Task:
    """Return the task called `name` (one of contract.TASKS); see the tasks for the rest."""
    match name:
        case "token-classification":
            return TokenClassification(labels, pad_token_id, class_weights)
        case "text-classification":
            return TextClassification(labels, pad_token_id, class_weights)
        case "text-pair-ranking":
            return Ranking(labels, pad_token_id, listwise, top)
        case "causal-lm":
            return CausalLanguageModel(labels, pad_token_id)
        case "image-classification":
            return ImageClassification(labels, class_weights, image_size, augmentation)
    raise DataError(f"unknown task {name!r}", remedy=f"one of {', '.join(MAIN_METRIC)}")
