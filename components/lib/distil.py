"""Teach a smaller model what a tuned one knows: its logits, its layers and its attention.

Sums and means are in fp32 whatever the models compute in. What the teacher says of a row never
changes (it runs without dropout), so it is computed once and kept while it fits in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from components.lib.batching import Rows
from components.lib.pruned import layers_of, layout_of
from components.lib.tasks import Batch

PER_TOKEN = ("token-classification", "causal-lm")
# Queries, keys and values are compared as this many relation heads, whatever number of heads each
# model has (Wang et al. 2021, MiniLMv2: more relation heads than attention heads help little).
RELATION_HEADS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What a model says of the rows of a batch.

    Attributes:
        logits: (items, classes): tokens row after row, or rows.
        hidden: (layers, tokens, width), tokens row after row, padding left out.
        projections: the last layer's queries, keys and values, (3, tokens, width) or None.
    """

    logits: torch.Tensor
    hidden: list[torch.Tensor]
    projections: list[torch.Tensor] | None = None


@dataclass(slots=True)
class Listener:
    """Collects what the layers of a model put out during a forward."""

    model: torch.nn.Module
    relations: bool = False
    hidden: list[torch.Tensor] = field(default_factory=list)
    projections: list[torch.Tensor] = field(default_factory=list)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Listen as long as the block runs."""
        layers = layers_of(self.model)
        handles = [layer.register_forward_hook(self._layer) for layer in layers]
        if self.relations:
            for name in layout_of(self.model).projections:
                handles.append(layers[-1].get_submodule(name).register_forward_hook(self._part))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _layer(self, module: Any, inputs: Any, output: Any) -> None:
        self.hidden.append(output[0] if isinstance(output, tuple) else output)

    def _part(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.projections.append(output)

    def run(self, task: str, batch: Batch, *, dtype: torch.dtype | None = None) -> Signals:
        """Run the model on a batch and return what it says, padding left out."""
        self.hidden, self.projections = [], []
        inputs = dict(batch.inputs)
        if dtype is not None and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        logits = self.model(**inputs).logits
        mask = inputs.get("attention_mask")
        per_token = task in PER_TOKEN
        return Signals(
            logits=_real(logits, mask) if per_token else logits,
            hidden=[_real(part, mask) for part in self.hidden],
            projections=[_real(part, mask) for part in self.projections] or None,
        )


def _real(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(rows, longest, width) to (tokens, width)."""
    return values.flatten(0, 1) if mask is None else values[mask.bool()]


class Teacher:
    """The tuned model's answers for a split, computed when first asked for.

    Args:
        model: in evaluation mode; runs in bf16 when `dtype` says so.
        task: name of the task.
        keep_bytes: memory for kept answers; beyond it rows are computed again each time.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        task: str,
        *,
        dtype: torch.dtype,
        keep_bytes: int,
        relations: bool = False,
    ) -> None:
        self.model = model.to(dtype).eval().requires_grad_(False)
        self.task, self.dtype, self.room = task, dtype, keep_bytes
        self.listener = Listener(self.model, relations)
        self.depth = len(layers_of(model))
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}

    @torch.no_grad()
    def signals(self, batch: Batch) -> Signals:
        """Return the teacher's answers for the rows of `batch`."""
        rows = [int(row) for row in batch.rows]
        if all(row in self._kept for row in rows):
            kept = [self._kept[row] for row in rows]
            hidden = torch.cat([part[1] for part in kept], dim=1)
            parts = [part[2] for part in kept if part[2] is not None]
            return Signals(
                logits=torch.cat([part[0] for part in kept]),
                hidden=list(hidden),
                projections=list(torch.cat(parts, dim=1)) if parts else None,
            )
        with self.listener.attached():
            found = self.listener.run(self.task, batch, dtype=self.dtype)
        if self.room > 0:
            self._keep(batch, rows, found)
        return found

    def _keep(self, batch: Batch, rows: list[int], found: Signals) -> None:
        mask = batch.inputs.get("attention_mask")
        tokens = len(found.hidden[0])
        counts = [tokens // len(rows)] * len(rows) if mask is None else mask.sum(1).tolist()
        items = counts if self.task in PER_TOKEN else [1] * len(rows)
        logits = found.logits.split(items)
        hidden = torch.stack(found.hidden).split(counts, dim=1)
        parts: Any = [None] * len(rows)
        if found.projections is not None:
            parts = torch.stack(found.projections).split(counts, dim=1)
        for row, *answer in zip(rows, logits, hidden, parts, strict=True):
            # Copies: a view would keep the whole batch alive.
            copies = tuple(None if part is None else part.clone() for part in answer)
            self.room -= sum(part.nbytes for part in copies if part is not None)
            self._kept[row] = copies  # type: ignore[assignment]


def soft_loss_sum(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum over items of KL(teacher || student), times the temperature squared (Hinton et al. 2015);
    squared differences where there is one score.

    Args:
        student: (items, classes).
        teacher: the same.
        temperature: both are divided by it.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher, reduction="sum")
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, -1),
        functional.log_softmax(teacher / temperature, -1),
        log_target=True,
        reduction="sum",
    )
    return divergence * temperature**2


def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of (tokens, width), in units of the teacher's variance: layers of
    different scale weigh alike."""
    teacher = teacher.float()
    return functional.mse_loss(student.float(), teacher) / teacher.var().clamp_min(1e-6)


def relation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor], lengths: Rows) -> Any:
    """Mean KL between the two models' query-query, key-key and value-value attention in the last
    layer (MiniLMv2), over sequences of the given lengths.

    Args:
        student: three of (tokens, own width).
        teacher: three of (tokens, its width).
        lengths: tokens of each sequence.
    """
    longest = int(lengths.max())
    inside = torch.arange(longest) < torch.as_tensor(lengths)[:, None]
    total = student[0].new_zeros((), dtype=torch.float32)
    for own, other in zip(student, teacher, strict=True):
        heads = min(RELATION_HEADS, own.shape[1], other.shape[1])
        ours, theirs = _relations(own, inside, heads), _relations(other, inside, heads)
        divergence = functional.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)
        total = total + divergence.transpose(1, 2)[inside].mean()
    return total / len(student)


def _relations(values: torch.Tensor, inside: torch.Tensor, heads: int) -> torch.Tensor:
    """(tokens, width) to log attention (sequences, heads, longest, longest)."""
    width = values.shape[1] // heads * heads
    padded = values.new_zeros(*inside.shape, width)
    padded[inside] = values[:, :width]
    split = padded.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = (split @ split.transpose(-1, -2)).float() * split.shape[-1] ** -0.5
    # A finite floor: minus infinity would turn differences into NaN.
    return scores.masked_fill(~inside[:, None, None, :], -1e4).log_softmax(-1)


def match_layers(distances: NDArray[Any]) -> list[int]:
    """Map every student layer to a teacher layer, in order, the last to the last, so that the sum
    of distances is least (CoFi's dynamic map, Xia et al. 2022, as an alignment).

    Args:
        distances: (student layers, teacher layers), no more student layers than teacher layers.

    Returns:
        The teacher layer of each student layer, strictly rising.
    """
    students, teachers = distances.shape
    best = np.full((students, teachers), np.inf)
    came = np.zeros((students, teachers), np.int64)
    best[0] = distances[0]
    for s in range(1, students):
        for t in range(s, teachers):
            came[s, t] = int(np.argmin(best[s - 1, :t]))
            best[s, t] = best[s - 1, came[s, t]] + distances[s, t]
    path = [teachers - 1]
    for s in range(students - 1, 0, -1):
        path.append(int(came[s, path[-1]]))
    return path[::-1]
