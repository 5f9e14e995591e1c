"""Durations and amounts as people read them, for errors and reasons."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Return ``45s``, ``12m``, ``2h 5m`` or ``3d 4h``, rounded up."""
    whole = math.ceil(seconds)
    if whole < 120:
        return f"{whole}s"
    minutes = math.ceil(whole / 60)
    if minutes < 120:
        return f"{minutes}m"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {rest}m" if rest else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h" if hours else f"{days}d"


def dollars(usd: float) -> str:
    """Return an amount with as many digits as it deserves, rounded up."""
    if usd >= 100:
        return f"{math.ceil(usd):,} USD"
    digits = 2 if usd >= 0.1 else 4
    scale = 10**digits
    return f"{math.ceil(usd * scale - 1e-9) / scale:.{digits}f} USD"
