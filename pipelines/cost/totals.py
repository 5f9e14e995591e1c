"""Totals of the whole chain for every candidate, and the names of candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.cost.offers import LightPlan
from pipelines.cost.search import CPU_PRECISIONS, Choice, Floats, Ints, Space, risk_of

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals of the whole chain for every training row with one light node: seconds, their 90 %
    point, money of the run, and money of the run and of keeping its artifacts."""

    rows: Ints
    light: LightPlan
    seconds: Floats
    high: Floats
    usd: Floats
    whole_usd: Floats


def totals(space: Space) -> list[Totals]:
    """Add the parts up, for each place and each light node worth taking there."""
    places = [offer.place for offer in space.offers]
    number = {place: n for n, place in enumerate(dict.fromkeys(places))}
    of_offer = np.array([number[place] for place in places], dtype=np.int64)
    of_row = of_offer[space.rows.offer] if len(places) else np.empty(0, dtype=np.int64)
    found = []
    for place, n in number.items():
        rows = np.flatnonzero(of_row == n)
        if not len(rows):
            continue
        keep = min((usd for _, usd in space.policies.get(place[0], [])), default=0.0)
        for light in space.lights.get(place, []):
            usd = space.rows.usd[rows] + light.usd
            found.append(
                Totals(
                    rows=rows, light=light, usd=usd, whole_usd=usd + keep,
                    seconds=space.rows.seconds[rows] + light.seconds.value,
                    high=space.rows.high[rows] + light.seconds.high,
                )
            )  # fmt: skip
    return found


def least(first: Floats, second: Floats, ok: Bools) -> int:
    index = np.flatnonzero(ok)
    ties = index[first[index] == first[index].min()]
    return int(ties[np.argmin(second[ties])])


def choice_of(space: Space, part: Totals, index: int) -> Choice:
    seconds, high = float(part.seconds[index]), float(part.high[index])
    deadline = space.job.spec.objective.deadline_s
    return Choice(
        row=int(part.rows[index]), light=part.light, seconds=seconds, high=high,
        usd=float(part.usd[index]), risk=risk_of(seconds, high, deadline),
    )  # fmt: skip


def label(space: Space, row: int) -> str:
    """Name a training row: ``2 x g5.12xlarge (4 of 4 A10G) spot, us-east-1``."""
    offer = space.offers[int(space.rows.offer[row])]
    text = f"{int(space.rows.nodes[row])} x {offer.instance.name}"
    if offer.instance.gpu:
        layout = space.timed.layouts[int(space.rows.layout[row])]
        text += f" ({layout.gpus} {offer.instance.gpu})"
    return f"{text} {offer.capacity}, {offer.instance.region}"


def precision_of(space: Space, row: int) -> str:
    layout = int(space.rows.layout[row])
    if layout < 0:
        return CPU_PRECISIONS[int(space.rows.cpu_precision[row])]
    return space.timed.layouts[layout].precision
