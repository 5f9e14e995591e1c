"""Losses as sums, so that ranks and micro-batches that hold different counts weigh right.

The caller divides by the weight of the whole global batch; a mean per rank or per micro-batch would
give a token in a short batch more say than one in a long batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from components.contract import IGNORED_LABEL


def label_weights(labels: NDArray[Any], class_weights: NDArray[Any] | None) -> NDArray[Any]:
    """Weight of each label in the loss: 0 where ignored, its class's weight or 1 elsewhere."""
    scored = labels != IGNORED_LABEL
    if class_weights is None:
        return scored.astype(np.float64)
    return np.where(scored, class_weights[np.where(scored, labels, 0)], 0.0)


def cross_entropy_sum(
    logits: torch.Tensor, targets: torch.Tensor, class_weights: NDArray[Any] | None
) -> torch.Tensor:
    """Sum of weighted cross-entropies in fp32.

    Args:
        logits: (..., classes).
        targets: (...), class ids, IGNORED_LABEL where nothing is scored; or (..., classes), the
            share of each class.
        class_weights: (classes) or None.
    """
    weight = None
    if class_weights is not None:
        weight = torch.as_tensor(class_weights, dtype=torch.float32, device=logits.device)
    return functional.cross_entropy(
        logits.float().flatten(0, -2),
        targets.flatten(0, -2) if targets.is_floating_point() else targets.flatten(),
        weight=weight,
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )


def pointwise_sum(scores: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Sum over pairs of binary cross-entropies between relevance in 0..1 and sigmoid(score)."""
    return functional.binary_cross_entropy_with_logits(scores, relevance, reduction="sum")


def listwise_sum(
    scores: torch.Tensor, relevance: torch.Tensor, group: torch.Tensor
) -> torch.Tensor:
    """Sum over groups of ListNet's top-one cross-entropy (Cao et al. 2007).

    Args:
        scores: (pairs).
        relevance: (pairs), at least 0; a group without any relevance teaches nothing and adds 0.
        group: (pairs), dense group numbers from 0.
    """
    groups = int(group.max()) + 1
    zeros = scores.new_zeros(groups)
    highest = scores.new_full((groups,), -torch.inf)
    highest = highest.scatter_reduce(0, group, scores.detach(), "amax", include_self=True)
    shifted = scores - highest[group]
    normaliser = zeros.index_add(0, group, shifted.exp()).log()
    share = relevance / zeros.index_add(0, group, relevance).clamp_min(1e-12)[group]
    return -(share * (shifted - normaliser[group])).sum()
