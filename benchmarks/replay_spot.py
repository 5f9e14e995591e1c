"""Replay published spot traces: what interruptions really cost against what the planner expects.

python -m benchmarks.replay_spot ../shared/catalog/spot-traces

Each single-node trace says every few seconds whether a spot node could be had. A job of some hours
starts at many times of the trace whenever a node is available, saves at the planner's interval, and
either goes on at on-demand prices after its first interruption (the planner's fallback) or waits
for spot again. Rates are those of the trace itself, so this tests the formulas, not the forecast.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.cost.spot import checkpoint_interval, fallback_seconds, fallback_usd, interrupted

WORK_HOURS = (1.0, 4.0)
SAVE_S, RECOVER_S = 5.0, 180.0
SPOT_PRICE, ON_DEMAND_PRICE = 0.35, 1.0
STARTS = 400


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    gap_s: float
    up: np.ndarray

    @property
    def rate_per_second(self) -> float:
        """Interruptions a second of available time."""
        falls = int(((self.up[:-1] > 0) & (self.up[1:] == 0)).sum())
        return falls / max(float((self.up > 0).sum()) * self.gap_s, 1.0)


def traces(folder: Path) -> list[Trace]:
    found = []
    for path in sorted(folder.glob("*/1-node/*/*.json")):
        document = json.loads(path.read_text())
        data = np.array(document["data"], dtype=float)
        name = str(path.relative_to(folder))
        found.append(Trace(name, document["metadata"]["gap_seconds"], data))
    return found


def replay(trace: Trace, work_s: float, interval_s: float) -> tuple[float, float, float]:
    """Return (share interrupted, mean seconds, mean USD) of the fallback policy."""
    up = trace.up > 0
    down_at = np.flatnonzero(~up)
    starts = np.flatnonzero(up[: int(len(up) - work_s / trace.gap_s)])
    if len(starts) == 0:
        return float("nan"), float("nan"), float("nan")
    starts = starts[:: max(1, len(starts) // STARTS)]
    hits, seconds, money = 0, 0.0, 0.0
    for start in starts:
        next_down = down_at[np.searchsorted(down_at, start)] if down_at[-1] > start else len(up)
        before = (next_down - start) * trace.gap_s
        if before >= work_s:
            seconds, money = seconds + work_s, money + work_s * SPOT_PRICE
            continue
        hits += 1
        rest = work_s - before + before % interval_s + RECOVER_S
        seconds += before + rest
        money += before * SPOT_PRICE + rest * ON_DEMAND_PRICE
    n = len(starts)
    return hits / n, seconds / n, money / n / 3600.0


HEADER = (
    "trace", "work h", "up h between interruptions", "interrupted", "predicted", "time",
    "predicted / replayed", "USD", "predicted / replayed",
)  # fmt: skip


def row(trace: Trace, hours: float) -> tuple[list[str], float, float] | None:
    """Return the table row of one replay and the ratios of time and money; None without starts."""
    rate, work = trace.rate_per_second, hours * 3600.0
    interval = float(checkpoint_interval(SAVE_S, RECOVER_S, rate))
    share, seconds, usd = replay(trace, work, interval)
    if np.isnan(share):
        return None
    expected = float(fallback_seconds(work, RECOVER_S, interval, rate)) / seconds
    price = fallback_usd(
        work, RECOVER_S, interval, rate, spot=SPOT_PRICE, on_demand=ON_DEMAND_PRICE
    )
    cells = [
        trace.name, f"{hours:g}", f"{1 / rate / 3600:.2f}", f"{share:.0%}",
        f"{interrupted(work, rate):.0%}", f"{seconds / 3600:.2f} h", f"{expected:.2f}",
        f"{usd:.2f}", f"{float(price) / usd:.2f}",
    ]  # fmt: skip
    return cells, expected, float(price) / usd


def main() -> None:
    found = traces(Path(sys.argv[1]))
    rated = [t for t in found if t.rate_per_second > 0 and (t.up > 0).any()]
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    made = [made for trace in rated for hours in WORK_HOURS if (made := row(trace, hours))]
    for cells, _, _ in made:
        print(f"| {' | '.join(cells)} |")
    time, money = np.array([m[1] for m in made]), np.array([m[2] for m in made])
    between = np.median([1 / t.rate_per_second / 3600 for t in rated])
    quiet = [t.name for t in found if t.rate_per_second == 0]
    print(f"\nmedian ratio: time {np.median(time):.2f}, money {np.median(money):.2f}; money within")
    print(f"15 % in {np.mean(abs(money - 1) < 0.15):.0%} of {len(made)} replays; median hours up")
    print(f"between interruptions {between:.2f}; never interrupted: {', '.join(quiet) or 'none'}")


if __name__ == "__main__":
    main()
