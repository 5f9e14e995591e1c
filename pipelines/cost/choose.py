"""Pick one candidate of the space."""

from __future__ import annotations

import numpy as np

from pipelines.cost.infeasible import explain_infeasible
from pipelines.cost.search import Choice, Floats, Space
from pipelines.cost.totals import Totals, choice_of, least, totals

PREFERENCES = 3


def choose(space: Space) -> Choice:
    """Return the best candidate.

    Candidates that keep their deadline with at least 90 % probability come first, then those whose
    expected time does; within them AdamW before optimizers that change the result; then the
    objective.

    Raises:
        InfeasiblePlanError: names what binds and the smallest relaxation that helps.
    """
    every = totals(space)
    objective = space.job.spec.objective
    deadline = np.inf if objective.deadline_s is None else float(objective.deadline_s)
    budget = np.inf if objective.budget_usd is None else float(objective.budget_usd)
    for promised in (True, False):
        for preference in range(PREFERENCES):
            found = _best(space, every, deadline, budget, promised, preference)
            if found is not None:
                return found
    raise explain_infeasible(space, every, deadline, budget)


def _best(
    space: Space, every: list[Totals], deadline: float, budget: float, promised: bool,
    preference: int,
) -> Choice | None:  # fmt: skip
    best: tuple[tuple[float, float], Totals, int] | None = None
    for part in every:
        ok = (part.usd <= budget) & (space.rows.preference[part.rows] == preference)
        ok &= (part.high if promised else part.seconds) <= deadline
        if not ok.any():
            continue
        first, second = _objective(space, part, promised)
        index = least(first, second, ok)
        key = (float(first[index]), float(second[index]))
        if best is None or key < best[0]:
            best = (key, part, index)
    if best is None:
        return None
    _, part, index = best
    return choice_of(space, part, index)


def _objective(space: Space, part: Totals, promised: bool) -> tuple[Floats, Floats]:
    """What to minimise, first and among equals; without a promise, the risk."""
    if not promised:
        return part.high, part.whole_usd
    if space.job.spec.objective.minimize == "time":
        return part.seconds, part.whole_usd
    return part.whole_usd, part.seconds


def feasible(space: Space) -> int:
    """Number of considered candidates within deadline (expected) and budget."""
    objective = space.job.spec.objective
    deadline = np.inf if objective.deadline_s is None else float(objective.deadline_s)
    budget = np.inf if objective.budget_usd is None else float(objective.budget_usd)
    count = 0
    for part in totals(space):
        policies = max(1, len(space.policies.get(part.light.light.place[0], [])))
        count += policies * int(((part.seconds <= deadline) & (part.usd <= budget)).sum())
    return count
