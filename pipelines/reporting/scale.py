"""Axes: where a value stands, and which ticks help a reader. Positions are percent of the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A mapping of [low, high] to 0..100; logarithmic when `log`."""

    low: float
    high: float
    log: bool = False
    least: float = 0.0  # smallest distance between ticks: 1 for counts

    def __call__(self, value: float) -> float:
        """Return the position of `value`, kept inside the plot."""
        if self.log:
            value, low, high = (math.log(max(v, self.low)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return round(min(100.0, max(0.0, 100 * (value - low) / (high - low))), 2)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values inside the scale, about `wanted` of them."""
        return _log_ticks(self, wanted) if self.log else _linear_ticks(self, wanted)


def linear(
    values: Sequence[float], *, from_zero: bool = False, margin: float = 0.05, least: float = 0.0
) -> Scale:
    """A linear scale around `values`."""
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    span = (high - low) or abs(high) or 1.0
    return Scale(
        low=low if from_zero else low - margin * span, high=high + margin * span, least=least
    )


def logarithmic(values: Sequence[float], *, margin: float = 0.12) -> Scale:
    """A logarithmic scale around the positive ones of `values`."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    grow = max((high / low) ** margin, 1.03) if high > low else 1.5
    return Scale(low=low / grow, high=high * grow, log=True)


# Durations read best at these values (seconds): minutes and hours are not decimal.
ROUND_SECONDS = (
    *(m * 10.0**d for d in range(-4, 1) for m in (1, 2, 5)),
    *(10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600.0 * h for h in (1, 2, 5, 10, 24, 48, 120, 240, 480)),
)


def time_ticks(scale: Scale, wanted: int = 5) -> list[float]:
    """Return durations inside a logarithmic scale that read well, about `wanted` of them."""
    inside = [value for value in ROUND_SECONDS if scale.low <= value <= scale.high]
    if len(inside) > 2:
        return inside[:: max(1, -(-len(inside) // wanted))]
    # A narrow scale: steps of whole or simple fractions of its own unit.
    unit = next((unit for unit in (86400.0, 3600.0, 60.0) if scale.low >= unit), 1.0)
    steps = Scale(low=scale.low / unit, high=scale.high / unit).ticks(wanted)
    return [step * unit for step in steps]


def _linear_ticks(scale: Scale, wanted: int) -> list[float]:
    raw = (scale.high - scale.low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    step = max(step, scale.least)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(scale: Scale, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in mantissas]
        ticks = [round(t, 12) for t in ticks if scale.low <= t <= scale.high]
        if len(ticks) <= wanted + 1:
            return ticks
    stride = -(-len(ticks) // wanted)
    return ticks[::stride]
