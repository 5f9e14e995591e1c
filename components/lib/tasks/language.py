"""The next token: causal language models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from components.contract import IGNORED_LABEL
from components.lib import losses, metrics
from components.lib.batching import Rows, Units, single_rows
from components.lib.dataset import Split
from components.lib.tasks.base import Array, Batch
from components.lib.tasks.layout import TextTask


class CausalLanguageModel(TextTask):
    """The next token, scored where `labels` is not ignored (the completion)."""

    def __init__(self, labels: Sequence[str], pad_token_id: int) -> None:
        super().__init__("causal-lm", labels, pad_token_id)

    def units(self, split: Split) -> Units:
        # The first token of a sequence is never predicted.
        scored = (split.columns["labels"] != IGNORED_LABEL).astype(float)
        scored[split.offsets[:-1]] = 0.0
        per_row = np.add.reduceat(np.append(scored, 0.0), split.offsets[:-1])
        return single_rows(split.lengths.astype(np.int64), per_row)

    def collate(self, split: Split, rows: Rows, *, packed: bool) -> Batch:
        batch = self._batch(split, rows, packed, "labels")
        # Align targets with logits: position t predicts label t + 1 of the same sequence.
        targets = torch.full_like(batch.targets, IGNORED_LABEL)
        targets[:, :-1] = batch.targets[:, 1:]
        if packed:
            targets[0, batch.inputs["cu_seq_lens_q"][1:].long() - 1] = IGNORED_LABEL
        return Batch(
            inputs=batch.inputs,
            targets=targets,
            rows=rows,
            tokens=batch.tokens,
            padded_tokens=batch.padded_tokens,
        )

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return losses.cross_entropy_sum(logits, batch.targets, None)

    def outputs(self, split: Split) -> Array:
        return np.zeros((split.rows, 2), dtype=np.float64)

    def record(self, outputs: Array, split: Split, logits: torch.Tensor, batch: Batch) -> None:
        flat = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
        )
        counted = (batch.targets.flatten() != IGNORED_LABEL).double()
        if "cu_seq_lens_q" in batch.inputs:
            lengths = batch.inputs["cu_seq_lens_q"].diff().long()[: len(batch.rows)]
            owner = torch.repeat_interleave(torch.arange(len(batch.rows)), lengths)
            flat, counted = flat[: batch.tokens], counted[: batch.tokens]
        else:
            width = batch.targets.shape[1]
            owner = torch.arange(len(batch.rows)).repeat_interleave(width)
        for column, values in enumerate((flat.double(), counted)):
            sums = torch.zeros(len(batch.rows), dtype=torch.float64)
            outputs[batch.rows, column] = sums.index_add_(0, owner, values.cpu()).numpy()

    def score(self, outputs: Array, split: Split) -> dict[str, float]:
        total, count = outputs.sum(axis=0)
        loss = float(total / max(count, 1.0))
        return {"negative_loss": -loss, "perplexity": metrics.perplexity(loss)}
