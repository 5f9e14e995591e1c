"""A score for each pair of texts, ranked within a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from components.lib import losses, metrics
from components.lib.batching import Rows, Units, grouped_rows, single_rows
from components.lib.dataset import Split
from components.lib.tasks.base import Array, Batch
from components.lib.tasks.layout import TextTask


class Ranking(TextTask):
    """A score for each pair of texts: pointwise (binary cross-entropy on relevance scaled to 0..1)
    or listwise (ListNet's cross-entropy between the softmax of relevances and of scores). `top` is
    the highest relevance, by default that of the split."""

    def __init__(
        self, labels: Sequence[str], pad_token_id: int, listwise: bool, top: float | None = None
    ) -> None:
        super().__init__("text-pair-ranking", labels, pad_token_id)
        self.listwise = listwise
        self.top = top

    def units(self, split: Split) -> Units:
        lengths = split.lengths.astype(np.int64)
        if self.listwise:
            return grouped_rows(split.columns["group"], lengths)
        return single_rows(lengths, np.ones(split.rows))

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        relevance = split.columns["label"][rows].astype(np.float32)
        group = split.columns["group"][rows].astype(np.float32)
        top = max(self.top or float(split.columns["label"].max()), 1.0)
        _, group = np.unique(group, return_inverse=True)
        targets = torch.from_numpy(np.stack([relevance / top, group.astype(np.float32)], axis=1))
        return self._batch(split, rows, packed, targets)

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        relevance, group = batch.targets.unbind(1)
        scores = logits.float().squeeze(-1)
        if self.listwise:
            return losses.listwise_sum(scores, relevance, group.long())
        return losses.pointwise_sum(scores, relevance)

    def outputs(self, split: Split) -> Array:
        return np.zeros(split.rows, dtype=np.float64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        outputs[batch.rows] = logits.float().squeeze(-1).cpu().numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        relevance, group = split.columns["label"], split.columns["group"]
        return {
            "ndcg@10": float(metrics.ndcg_by_group(outputs, relevance, group).mean()),
            "mrr": float(metrics.mrr_by_group(outputs, relevance, group).mean()),
        }
