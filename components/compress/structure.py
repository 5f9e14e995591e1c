"""Which heads and neurons go: the least important for what they cost, until enough has gone."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.compress.importance import Importance
from components.compress.latency import Table
from components.contract import InfeasiblePlanError
from components.lib.pruned import Kept, Sizes, head_width, layout_of

# Neurons go in groups: 8-bit kernels work on 16 or 32 columns at a time.
NEURON_GROUP = 32
LEAST_GROUPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be reached.

    Attributes:
        parameters: what all layers may keep; None for no limit.
        latency_ms: by the table, all layers together; None for no limit.
        latency_weight: 0 counts a structure's cost in parameters, 1 in milliseconds, between both.
    """

    parameters: float | None = None
    latency_ms: float | None = None
    latency_weight: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Positions that stay, layer by layer."""

    heads: list[Kept]
    neurons: list[Kept]

    @property
    def sizes(self) -> list[Sizes]:
        return [
            Sizes(heads=len(h), neurons=len(n))
            for h, n in zip(self.heads, self.neurons, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Parameters of one head, of one neuron, and of a layer besides them."""

    head: int
    neuron: int
    rest: int

    @classmethod
    def of(cls, model: torch.nn.Module) -> Prices:
        """Read them off the first layer."""
        from components.lib.pruned import layers_of, sizes_of

        layout, width = layout_of(model), head_width(model)
        layer, size = layers_of(model)[0], sizes_of(model)[0]

        def per_output(name: str) -> int:
            module = layer.get_submodule(name)
            return module.in_features + int(module.bias is not None)

        head = sum(width * per_output(name) for name in layout.projections)
        if layout.mixed:
            head += width * layer.get_submodule(layout.mixed).out_features
        neuron = sum(per_output(name) for name in layout.wide)
        neuron += layer.get_submodule(layout.narrow).out_features
        total = sum(p.numel() for p in layer.parameters())
        return cls(head=head, neuron=neuron, rest=total - size.heads * head - size.neurons * neuron)

    def total(self, sizes: Sequence[Sizes]) -> int:
        """Parameters of layers of these sizes."""
        return sum(self.rest + s.heads * self.head + s.neurons * self.neuron for s in sizes)


def group_size(neurons: int) -> int:
    """Neurons that go together."""
    return max(1, min(NEURON_GROUP, neurons // LEAST_GROUPS))


def choose(importance: Importance, prices: Prices, table: Table, goal: Goal) -> Choice:
    """Remove structures one after another, each time the one with the least importance for its
    cost, until the goal is met. Every layer keeps a head and a group of neurons.

    Raises:
        InfeasiblePlanError: not even that is small enough.
    """
    blocks = [
        _Block(scores=scores, group=1, price=prices.head, cost=table.of_heads)
        for scores in importance.heads
    ] + [
        _Block(scores=s, group=group_size(len(s)), price=prices.neuron, cost=table.of_neurons)
        for s in importance.neurons
    ]
    count = len(importance.heads)
    blocks[-1].share = table.last_share

    def sizes() -> list[Sizes]:
        return [Sizes(heads=blocks[i].kept, neurons=blocks[count + i].kept) for i in range(count)]

    all_parameters, all_ms = prices.total(sizes()), max(table.of_layers(sizes()), 1e-9)

    def priority(block: _Block) -> float:
        size, score, ms = block.next_removal()
        share = size * block.price / all_parameters * (1 - goal.latency_weight)
        share += max(ms, 0.0) / all_ms * goal.latency_weight
        return score / max(share, 1e-12)

    queue = [(priority(b), i) for i, b in enumerate(blocks) if b.removable]
    heapq.heapify(queue)
    while not _met(goal, prices.total(sizes()), table.of_layers(sizes())):
        if not queue:
            raise InfeasiblePlanError(
                f"pruning can't go below {prices.total(sizes())} of {all_parameters} parameters",
                remedy="ask for less, or cut layers first: distill<layers>+prune<percent>",
            )
        _, index = heapq.heappop(queue)
        blocks[index].remove()
        if blocks[index].removable:
            heapq.heappush(queue, (priority(blocks[index]), index))
    return Choice(
        heads=[block.positions() for block in blocks[:count]],
        neurons=[block.positions() for block in blocks[count:]],
    )


def _met(goal: Goal, parameters: float, ms: float) -> bool:
    small = goal.parameters is None or parameters <= goal.parameters
    fast = goal.latency_ms is None or ms <= goal.latency_ms
    return small and fast


class _Block:
    """One layer's heads or neurons, the least important last."""

    def __init__(self, *, scores: np.ndarray, group: int, price: int, cost: object) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.scores = scores[self.order]
        self.group, self.price, self.cost = group, price, cost
        self.share = 1.0  # of the table's milliseconds
        self.kept = len(scores)

    @property
    def removable(self) -> bool:
        return self.kept > self.group

    def next_removal(self) -> tuple[int, float, float]:
        """Return how many would go next, their importance and the milliseconds they cost."""
        left = (self.kept - 1) // self.group * self.group
        ms = self.cost(self.kept) - self.cost(left)  # type: ignore[operator]
        return self.kept - left, float(self.scores[left : self.kept].sum()), ms * self.share

    def remove(self) -> None:
        self.kept = (self.kept - 1) // self.group * self.group

    def positions(self) -> Kept:
        return np.sort(self.order[: self.kept])
