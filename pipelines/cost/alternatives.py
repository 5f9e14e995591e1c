"""The ways that were not taken, each with the reason."""

from __future__ import annotations

import numpy as np

from pipelines.cost.estimate import Alternative
from pipelines.cost.search import ACCEPTED_RISK, Choice, Space
from pipelines.cost.totals import choice_of, label, precision_of, totals
from pipelines.cost.words import dollars, duration

MAX_ALTERNATIVES = 36
MAX_FRONT = 16


def alternatives(space: Space, chosen: Choice) -> tuple[Alternative, ...]:
    """Return the chosen way, the Pareto front over time, money and risk, and the nearest others,
    each with the reason why it was not taken."""
    groups = [g for g in _best_of_groups(space) if g.row != chosen.row]
    groups = _one_a_kind(space, [chosen, *groups])[1:]
    front = _front([chosen, *groups])
    listed = [c for c in front if c is not chosen][:MAX_FRONT]
    nearby = sorted(
        (g for g in groups if g not in listed), key=lambda g: (_distance(g, chosen), g.row)
    )
    # The nearest of each GPU first: "why not an A100" is what people ask.
    kinds = {space.offers[int(space.rows.offer[c.row])].instance.gpu for c in [chosen, *listed]}
    for c in nearby:
        gpu = space.offers[int(space.rows.offer[c.row])].instance.gpu
        if gpu not in kinds:
            kinds.add(gpu)
            listed.append(c)
    rest = [c for c in nearby if c not in listed]
    listed = [*listed, *rest][:MAX_ALTERNATIVES]
    shown = [chosen, *sorted(listed, key=lambda c: (c.usd, c.seconds, c.row))]
    return tuple(_alternative(space, c, chosen, c in front) for c in shown)


def _one_a_kind(space: Space, found: list[Choice]) -> list[Choice]:
    """Keep the best place of each (instance, capacity, nodes, GPUs); the first one wins ties."""
    by_time = space.job.spec.objective.minimize == "time"
    best: dict[tuple[str, str, int, int], Choice] = {}
    for c in found:
        offer = space.offers[int(space.rows.offer[c.row])]
        key = (offer.instance.name, offer.capacity, *_group(space, c.row)[1:])
        have = best.get(key)
        figures = (c.seconds, c.usd) if by_time else (c.usd, c.seconds)
        if have is None or (have is not found[0] and figures < (
            (have.seconds, have.usd) if by_time else (have.usd, have.seconds)
        )):  # fmt: skip
            best[key] = c
    return list(best.values())


def _group(space: Space, row: int) -> tuple[int, int, int]:
    layout = int(space.rows.layout[row])
    gpus = space.timed.layouts[layout].gpus if layout >= 0 else 0
    return int(space.rows.offer[row]), int(space.rows.nodes[row]), gpus


def _best_of_groups(space: Space) -> list[Choice]:
    """The best row of each (offer, nodes, GPUs) by the objective, with the light node of its
    place that serves it best."""
    by_time = space.job.spec.objective.minimize == "time"
    layout = np.maximum(space.rows.layout, 0)
    gpus = np.array([x.gpus for x in space.timed.layouts] or [0], dtype=np.int64)[layout]
    gpus = np.where(space.rows.layout < 0, 0, gpus)
    key = (space.rows.offer * 64 + space.rows.nodes.astype(np.int64)) * 64 + gpus
    value = space.rows.seconds if by_time else space.rows.usd
    order = np.lexsort((space.rows.preference, value, space.rows.preference > 0, key))
    _, first = np.unique(key[order], return_index=True)
    wins = np.zeros(len(key), dtype=bool)
    wins[order[first]] = True
    parts = totals(space)
    figures = np.full((2, len(key)), np.inf)  # by the objective, then by the other
    where = np.zeros((2, len(key)), dtype=np.int64)  # part, and place in it
    for number, part in enumerate(parts):
        index = np.flatnonzero(wins[part.rows])
        rows = part.rows[index]
        both = (part.seconds[index], part.usd[index])
        value, other = both if by_time else both[::-1]
        have, have_other = figures[:, rows]
        better = (value < have) | ((value == have) & (other < have_other))
        figures[0, rows[better]], figures[1, rows[better]] = value[better], other[better]
        where[0, rows[better]], where[1, rows[better]] = number, index[better]
    return [
        choice_of(space, parts[where[0, row]], int(where[1, row]))
        for row in np.flatnonzero(np.isfinite(figures[0])).tolist()
    ]


def _front(found: list[Choice]) -> list[Choice]:
    """Choices that no other beats in time, money and risk at once."""
    ordered = sorted(found, key=lambda c: (c.usd, c.seconds, c.risk, c.row))
    kept: list[Choice] = []
    for c in ordered:
        if not any(k.seconds <= c.seconds and k.risk <= c.risk + 1e-12 for k in kept):
            kept.append(c)
    return kept


def _distance(one: Choice, chosen: Choice) -> float:
    money = abs(np.log(max(one.usd, 1e-6) / max(chosen.usd, 1e-6)))
    return float(money + 0.5 * abs(np.log(one.seconds / chosen.seconds)))


def _alternative(space: Space, one: Choice, chosen: Choice, on_front: bool) -> Alternative:
    offer = space.offers[int(space.rows.offer[one.row])]
    nodes, gpus = _group(space, one.row)[1:]
    return Alternative(
        label=label(space, one.row), node=offer.instance.name, nodes=nodes, gpus=nodes * gpus,
        capacity=offer.capacity, precision=precision_of(space, one.row), seconds=one.seconds,
        usd=one.usd, risk=round(one.risk, 6), on_front=on_front, chosen=one is chosen,
        reason="chosen" if one is chosen else reason(space, one, chosen),
    )  # fmt: skip


def reason(space: Space, one: Choice, chosen: Choice) -> str:
    """Say why `one` was not taken: the first limit it breaks, else what the objective says."""
    objective = space.job.spec.objective
    if objective.budget_usd is not None and one.usd > objective.budget_usd:
        return f"over budget: {dollars(one.usd)} of {dollars(objective.budget_usd)}"
    deadline = objective.deadline_s
    if deadline is not None and one.seconds > deadline:
        return f"misses the deadline: {duration(one.seconds)} of {duration(deadline)}"
    if deadline is not None and one.high > deadline and chosen.high <= deadline:
        return f"may miss the deadline ({one.risk:.0%}, accepted {ACCEPTED_RISK:.0%})"
    if space.rows.preference[one.row] > space.rows.preference[chosen.row]:
        layout = space.timed.layouts[int(space.rows.layout[one.row])]
        return f"fits with {layout.optimizer} only, which changes the result"
    more_usd, more_s = one.usd - chosen.usd, one.seconds - chosen.seconds
    if objective.minimize == "time":
        if more_s > 0:
            return f"takes {duration(more_s)} longer (+{more_s / chosen.seconds:.0%})"
        return f"as fast, costs {dollars(max(more_usd, 0.0))} more"
    if more_usd > 0:
        text = f"costs {dollars(more_usd)} more (+{more_usd / max(chosen.usd, 1e-9):.0%})"
        return text + (f" for {duration(-more_s)} less" if more_s < -1 else "")
    if more_s > 0.5:
        return f"takes {duration(more_s)} longer at the same price"
    return "as good; the first in the catalogue was taken"
