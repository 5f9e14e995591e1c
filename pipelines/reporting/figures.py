"""How numbers read: one formatter a unit, the same in the page, the terminal and the summary."""

from __future__ import annotations

import math
from collections.abc import Callable

MISSING = "–"
Formatter = Callable[[float], str]


def is_number(value: object) -> bool:
    """True for a finite int or float (a bool is not a number here)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show(value: object, formatter: Formatter) -> str:
    """Format `value`, or a dash when there is none."""
    return formatter(float(value)) if is_number(value) else MISSING  # type: ignore[arg-type]


def seconds(value: float) -> str:
    """``91 ms``, ``0.24 s``, ``18.3 s``, ``3 min 12 s``, ``1 h 04 min``, ``2 d 03 h``."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    if value < 0.095:
        return f"{sign}{value * 1000:.0f} ms"
    if value < 9.95:
        return f"{sign}{value:.{2 if value < 0.995 else 1}f} s"
    if value < 59.5:
        return f"{sign}{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    if minutes < 48 * 60:
        return f"{sign}{minutes // 60} h {minutes % 60:02d} min"
    return f"{sign}{minutes // 1440} d {minutes % 1440 // 60:02d} h"


def brief_seconds(value: float) -> str:
    """A round duration for an axis: ``2 s``, ``5 min``, ``1 h``, ``2 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value * 1000:g} ms"


def bytes_(value: float) -> str:
    """Binary units, three figures: ``812 B``, ``86.6 MiB``, ``1.24 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{_three(value)} {unit}"


def usd(value: float) -> str:
    """Cents when they say enough, more digits when they don't: ``$12.40``, ``$0.0031``."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    if value == 0:
        return "$0.00"
    if value < 0.00005:
        return f"{sign}<$0.0001"
    if value >= 0.1:
        return f"{sign}${value:,.2f}"
    digits = 1 - math.floor(math.log10(value))
    return f"{sign}${value:.{min(digits, 10)}f}"


def count(value: float) -> str:
    """A whole number with thousands separated, or a short decimal."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else _three(value)


def short_count(value: float) -> str:
    """A large whole number in three figures: ``22.6 M``."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(value) < 999.5 or unit == " T":
            break
        value /= 1000
    return count(value) if not unit else f"{_three(value)}{unit}"


def rate(value: float) -> str:
    """Something a second."""
    return count(value if abs(value) < 100 else round(value))


def ratio(value: float) -> str:
    """``3.9×``."""
    return f"{_two(value)}×"


def plural(value: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def brief_percent(value: float) -> str:
    """A round fraction for an axis: ``20 %``."""
    return f"{value * 100:g} %"


def percent(value: float) -> str:
    """A fraction as percent: ``98.7 %``."""
    scaled = value * 100
    if scaled != 0 and abs(scaled) < 0.1:
        return f"{scaled:.2g} %"
    return f"{scaled:.0f} %" if abs(scaled) >= 100 else f"{scaled:.1f} %"


def quality(value: float) -> str:
    """A score: three decimals."""
    return f"{value:.3f}"


def signed_quality(value: float) -> str:
    """A difference of scores, its sign always shown."""
    return f"{value:+.3f}".replace("-", "−")


def signed_percent(value: float) -> str:
    """A relative difference, its sign always shown."""
    return f"{value * 100:+.0f} %".replace("-", "−")


def milliseconds(value: float) -> str:
    """A latency: ``3.42 ms``."""
    return f"{_three(value)} ms"


def cores(value: float) -> str:
    """CPU time a second: ``1.5 cores``."""
    return f"{value:.3g} cores"


def three_digits(value: float) -> str:
    """A figure without a unit: ``0.0213``."""
    return f"{value:.3g}"


def scientific(value: float) -> str:
    """A very small or large figure: ``2.1e-06``."""
    return f"{value:.1e}"


def _three(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def _two(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 9.95 else f"{value:.1f}" if size >= 0.95 else f"{value:.2g}"
