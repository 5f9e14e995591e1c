"""Out-of-scope inputs: a label that a classifier gives when nothing else fits.

Besides being a class like any other (examples of it are few, and never like the next user's), it is
given whenever the best other label has a probability below a threshold. The threshold is chosen on
validation, from inputs that are in scope alone: the largest one that costs at most
`MOST_IN_SCOPE_LOSS` of their accuracy. How many out-of-scope inputs it finds is then measured, not
fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contract import DataError
from components.lib import metrics

# Accuracy on in-scope inputs that rejecting may cost.
MOST_IN_SCOPE_LOSS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The label for what is out of scope and the least probability of any other label."""

    label: str
    threshold: float

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "threshold": self.threshold}

    def predict(self, logits: NDArray[Any], labels: Sequence[str]) -> NDArray[np.int64]:
        """Return the label number of each row of (rows, labels) logits."""
        best = logits.argmax(axis=1)
        outside = number_of(self.label, labels)
        best[metrics.softmax(logits).max(axis=1) < self.threshold] = outside
        return best


def number_of(label: str, labels: Sequence[str]) -> int:
    """Return the number of the out-of-scope label.

    Raises:
        DataError: the data set has no such label.
    """
    if label not in labels:
        raise DataError(
            f"data.out_of_scope: no row of train has the label {label!r}",
            remedy=f"the labels are {', '.join(list(labels)[:20])}",
        )
    return list(labels).index(label)


def choose(
    logits: NDArray[Any], true: NDArray[np.integer], labels: Sequence[str], label: str
) -> Scope:
    """Choose the threshold on these rows (see above)."""
    outside = number_of(label, labels)
    inside = true != outside
    best = logits.argmax(axis=1)
    right = np.sort(metrics.softmax(logits).max(axis=1)[inside & (best == true)])
    allowed = int(MOST_IN_SCOPE_LOSS * inside.sum())
    threshold = float(right[allowed]) if allowed < len(right) else 0.0
    return Scope(label=label, threshold=threshold)


def figures(
    true: NDArray[np.integer], predicted: NDArray[np.integer], labels: Sequence[str], label: str
) -> dict[str, float]:
    """Accuracy of what is in scope; recall and precision of what is not."""
    outside = number_of(label, labels)
    inside = true != outside
    rejected = predicted == outside

    def share(hits: NDArray[Any]) -> float:
        return float(hits.mean()) if len(hits) else 0.0

    return {
        "in_scope_accuracy": share((predicted == true)[inside]),
        "out_of_scope_recall": share(rejected[~inside]),
        "out_of_scope_precision": share(~inside[rejected]),
    }
