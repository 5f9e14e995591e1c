"""What the inputs of a model's products look like on training rows: how channels will be evened out
before they are rounded to 8 bits, and how the products are mended when some of their inputs go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from components.lib import evening
from components.lib.calibrate import Observed
from components.lib.pruned import layers_of, layout_of
from components.lib.tasks import Batch

# Training rows that are watched; extremes of channels move little beyond.
EVENING_ROWS = 128

Factors = dict[torch.nn.Linear, torch.Tensor]
Watcher = Callable[[torch.Tensor], None]


@torch.no_grad()  # not inference mode: factors take part in training
def factors_of(model: torch.nn.Module, batches: Iterable[Batch]) -> Factors:
    """Return by what the exporter would divide the inputs of the layers' products, channel by
    channel; products that gain little are left out.

    Args:
        model: evaluated on `batches` as it is.
        batches: of training rows.
    """
    groups = products_of(model)
    seen = [_Seen() for _ in groups]
    watched = {group[0]: own.add for group, own in zip(groups, seen, strict=True)}
    run(model, batches, watched)
    found: Factors = {}
    for group, own in zip(groups, seen, strict=True):
        weight = torch.cat([linear.weight for linear in group]).float().numpy().T
        factors = evening.best_factors(own.observed(), weight)
        if factors is not None:
            found |= dict.fromkeys(group, torch.from_numpy(factors.astype(np.float32)))
    return found


def products_of(model: torch.nn.Module) -> list[list[torch.nn.Linear]]:
    """The linear layers of all layers, those with the same input together."""
    layout, found = layout_of(model), []
    for layer in layers_of(model):
        linears = {n: m for n, m in layer.named_modules() if type(m) is torch.nn.Linear}
        for names in (layout.projections, layout.wide):
            group = [linears.pop(name) for name in names if name in linears]
            found += [group] if group else []
        found += [[linear] for linear in linears.values()]
    return found


def run(
    model: torch.nn.Module, batches: Iterable[Batch], watched: dict[torch.nn.Linear, Watcher]
) -> None:
    """Evaluate `model` and give the inputs (tokens, channels) of the watched layers, padding left
    out, to their watchers."""
    was_training = model.training
    model.eval()
    dtype = next(model.parameters()).dtype
    for batch in batches:
        inputs = dict(batch.inputs)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        with _watching(watched, inputs.get("attention_mask")):
            model(**inputs)
    model.train(was_training)


@contextlib.contextmanager
def _watching(watched: dict[torch.nn.Linear, Watcher], mask: torch.Tensor | None) -> Iterator[None]:
    handles = []
    for linear, watcher in watched.items():

        def tell(_: object, given: tuple[torch.Tensor, ...], watcher: Watcher = watcher) -> None:
            values = given[0]
            if mask is not None and values.ndim == 3 and values.shape[:2] == mask.shape:
                values = values[mask.bool()]
            watcher(values.reshape(-1, values.shape[-1]).float())

        handles.append(linear.register_forward_pre_hook(tell))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Seen:
    """Extremes and power of each channel, batch after batch."""

    def __init__(self) -> None:
        self.lows: list[torch.Tensor] = []
        self.highs: list[torch.Tensor] = []
        self.power, self.rows = torch.zeros(()), 0

    def add(self, values: torch.Tensor) -> None:
        self.lows.append(values.amin(0))
        self.highs.append(values.amax(0))
        self.power = self.power + values.square().sum(0)
        self.rows += len(values)

    def observed(self) -> Observed:
        lows = torch.stack(self.lows).amin(0).numpy()
        highs = torch.stack(self.highs).amax(0).numpy()
        return Observed(
            low=float(lows.min()), high=float(highs.max()), lows=lows, highs=highs,
            power=(self.power / max(self.rows, 1)).numpy(),
        )  # fmt: skip
