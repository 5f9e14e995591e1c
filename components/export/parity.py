"""Does the graph compute what PyTorch computes? Asked on real batches of many lengths."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from components.contract import StepError

# Largest allowed difference of a logit, relative to the spread (standard deviation) of the
# reference's logits, and least share of equal predictions. fp32 leaves a factor of 10 above what
# reordered sums give (1e-5), and catches the mis-fusion of uneven heads (3e-4 of logits that
# spread by 0.1). int8 bounds are for broken graphs: quality is judged by evaluate and select.
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "int8": 1.0, "int8-static": 1.5, "int4": 3.0}
EQUAL_PREDICTIONS = {"fp32": 0.9999, "fp16": 0.995, "int8": 0.95, "int8-static": 0.92, "int4": 0.8}
# A model that gives everything nearly the same logits is judged by this spread instead of its own.
LEAST_SPREAD = 0.1
# Batches of the check: lengths from the shortest to the longest of the split, mixed in pairs so
# that padding occurs.
BATCHES = 12
ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Outcome of one check. `max_abs_diff` and `tolerance` are in units of logits."""

    max_abs_diff: float
    mean_abs_diff: float
    tolerance: float
    equal_predictions: float
    required_equal: float
    batches: int
    lengths: tuple[int, int]

    @property
    def passed(self) -> bool:
        return self.max_abs_diff <= self.tolerance and self.equal_predictions >= self.required_equal

    @property
    def fault(self) -> str:
        """Say what does not pass."""
        return (
            f"logits differ by {self.max_abs_diff:.2e} (allowed {self.tolerance:.2e}), equal "
            f"predictions {self.equal_predictions:.4f} (required {self.required_equal})"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def sample_rows(lengths: np.ndarray) -> list[np.ndarray]:
    """Choose batches that span all lengths, each with short and long rows together."""
    order = np.argsort(lengths, kind="stable")
    count = min(BATCHES * ROWS, len(order))
    spread = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    batches = -(-count // ROWS)
    return [spread[i::batches] for i in range(batches)]


def compare(
    reference: list[np.ndarray], found: list[np.ndarray], lengths: np.ndarray, precision: str
) -> Parity:
    """Compare logits of the same real tokens (or sequences) of the same batches.

    Args:
        reference: PyTorch's logits, one array of (items, labels) a batch.
        found: the graph's.
        lengths: lengths that occurred, for the record.
        precision: chooses the bounds.
    """
    a, b = np.concatenate(reference), np.concatenate(found)
    if a.shape != b.shape:
        raise StepError(f"the graph gives logits of shape {b.shape}, PyTorch {a.shape}")
    difference = np.abs(a - b)
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    scale = TOLERANCE[precision] * max(float(a.std()), LEAST_SPREAD)
    return Parity(
        max_abs_diff=worst,
        mean_abs_diff=float(np.nan_to_num(difference, nan=np.inf).mean()),
        tolerance=scale,
        equal_predictions=_equal(a, b, scale),
        required_equal=EQUAL_PREDICTIONS[precision],
        batches=len(reference),
        lengths=(int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0),
    )


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float) -> float:
    """Share of equal argmax; for single scores, of equally ordered neighbours. Where PyTorch's own
    two best are closer than a tenth of the tolerance, neither answer is wrong."""
    if a.shape[1] == 1:
        a = np.concatenate([a[:-1], a[1:]], axis=1)
        b = np.concatenate([b[:-1], b[1:]], axis=1)
    if not len(a):
        return 1.0
    top = np.sort(a, axis=1)[:, -2:]
    tie = top[:, 1] - top[:, 0] < tolerance / 10
    return float(np.mean((a.argmax(axis=1) == b.argmax(axis=1)) | tie))


@torch.no_grad()
def torch_logits(
    model: torch.nn.Module, feeds: list[dict[str, np.ndarray]], per_token: bool
) -> list[np.ndarray]:
    """Return eager PyTorch's logits of real tokens (or of sequences), a batch each."""
    results = []
    for feed in feeds:
        tensors = {name: torch.as_tensor(value) for name, value in feed.items()}
        results.append(real(model(**tensors).logits.float().numpy(), feed, per_token))
    return results


def session_logits(
    session: Any, feeds: list[dict[str, np.ndarray]], per_token: bool
) -> list[np.ndarray]:
    """Return the graph's logits of real tokens (or of sequences), a batch each."""
    from components.lib.sessions import DTYPES

    kinds = {item.name: DTYPES[item.type] for item in session.get_inputs()}
    results = []
    for feed in feeds:
        arrays = {name: feed[name].astype(kind) for name, kind in kinds.items()}
        results.append(real(session.run(None, arrays)[0].astype(np.float32), feed, per_token))
    return results


def real(logits: np.ndarray, feed: dict[str, np.ndarray], per_token: bool) -> np.ndarray:
    """Drop padded positions."""
    return logits[feed["attention_mask"].astype(bool)] if per_token else logits
