"""Why nothing works, and the smallest relaxation that helps."""

from __future__ import annotations

import numpy as np

from components.contract import InfeasiblePlanError
from pipelines.cost.catalog import Instance
from pipelines.cost.chain import GIB
from pipelines.cost.hardware import find_gpu
from pipelines.cost.search import Choice, Space
from pipelines.cost.totals import Totals, choice_of, label, least
from pipelines.cost.words import dollars, duration


def explain_infeasible(
    space: Space, every: list[Totals], deadline: float, budget: float
) -> InfeasiblePlanError:
    """Return the error that names what binds: memory, placement, deadline, budget, or the last two
    together."""
    if not every:
        return _nothing_to_run_on(space)
    quickest = _extreme(space, every, by_time=True)
    cheapest = _extreme(space, every, by_time=False)
    in_budget = _extreme(space, every, by_time=True, budget=budget)
    in_time = _extreme(space, every, by_time=False, deadline=deadline)
    texts, remedies = [], []
    if in_budget is not None and deadline < np.inf:
        texts.append(
            f"objective.deadline {duration(deadline)}: the fastest plan"
            + (f" within {dollars(budget)}" if budget < np.inf else "")
            + f" takes {duration(in_budget.seconds)} on {label(space, in_budget.row)}"
            + _other_steps(in_budget)
        )
        remedies.append(f"relax objective.deadline to {duration(in_budget.seconds)}")
    if in_time is not None and budget < np.inf:
        texts.append(
            f"objective.budget_usd {dollars(budget)}: the cheapest plan"
            + (f" within {duration(deadline)}" if deadline < np.inf else "")
            + f" costs {dollars(in_time.usd)} on {label(space, in_time.row)}"
        )
        remedies.append(f"raise objective.budget_usd to {_amount(in_time.usd)}")
    if not texts and quickest is not None and cheapest is not None:
        texts = [
            f"objective.deadline {duration(deadline)} and objective.budget_usd {dollars(budget)}: "
            f"the fastest plan takes {duration(quickest.seconds)} for {dollars(quickest.usd)} on "
            f"{label(space, quickest.row)}, the cheapest costs {dollars(cheapest.usd)} in "
            f"{duration(cheapest.seconds)} on {label(space, cheapest.row)}"
        ]
        remedies = [
            f"relax both: objective.deadline to {duration(cheapest.seconds)} and "
            f"objective.budget_usd to {_amount(cheapest.usd)}"
        ]
    quick = in_budget or quickest
    if space.job.target == "cpu" and quick is not None and _other_steps(quick):
        remedies.append("set serving.target: gpu, so that variants are measured on one")
    return InfeasiblePlanError("; ".join(texts), remedy=", or ".join(remedies))


def _other_steps(choice: Choice) -> str:
    """Name the node of the steps around training where they take most of the time."""
    others = choice.light.seconds.value
    if others < 0.5 * choice.seconds:
        return ""
    return f", {duration(others)} of it in the steps on {choice.light.light.instance.name}"


def _amount(usd: float) -> str:
    return dollars(usd).removesuffix(" USD").replace(",", "")


def _extreme(
    space: Space, every: list[Totals], *, by_time: bool, deadline: float = np.inf,
    budget: float = np.inf,
) -> Choice | None:  # fmt: skip
    """The quickest (or cheapest) candidate within the given limits."""
    best: tuple[tuple[float, float], Totals, int] | None = None
    for part in every:
        ok = (part.usd <= budget) & (part.seconds <= deadline)
        if not ok.any():
            continue
        first, second = (part.seconds, part.usd) if by_time else (part.usd, part.seconds)
        index = least(first, second, ok)
        key = (float(first[index]), float(second[index]))
        if best is None or key < best[0]:
            best = (key, part, index)
    return None if best is None else choice_of(space, best[1], best[2])


def _nothing_to_run_on(space: Space) -> InfeasiblePlanError:
    """No candidate at all: memory, or a placement constraint that forbids everything."""
    objective = space.job.spec.objective
    if space.offers and not len(space.rows.offer):
        memory = space.timed.memory_high
        need = float(memory.min()) / GIB if len(memory) else 0.0
        largest = max((o.instance for o in space.offers), key=_gpu_bytes)
        method = space.job.spec.training.method
        return InfeasiblePlanError(
            f"memory: training needs at least {need:.1f} GiB a GPU however it is laid out, the "
            f"largest allowed has {_gpu_bytes(largest) / GIB:.0f} GiB ({largest.name})"
            if len(memory)
            else "memory: no allowed node has enough for training on its CPU, and none has a GPU",
            remedy=("set training.method: lora, " if method == "full" else "")
            + "allow larger GPUs in objective.hardware, or lower training.max_length",
        )
    if space.offers:
        return InfeasiblePlanError(
            "no CPU node is allowed beside "
            f"{space.offers[0].instance.name} for the steps that need no GPU",
            remedy="allow one in objective.hardware or add it to the catalogue",
        )
    if not space.forbidden:
        return InfeasiblePlanError(
            f"objective.capacity {objective.capacity}: nothing in the catalogue is sold that way",
            remedy="set objective.capacity: [on-demand, spot]",
        )
    name, count = max(space.forbidden.items(), key=lambda item: item[1])
    value = getattr(objective, name.removeprefix("objective."), None)
    regions = ", ".join(sorted(space.catalog.regions()))
    return InfeasiblePlanError(
        f"{name} {value}: forbids {count} of {len(space.catalog.instances)} instances of the "
        "catalogue, and the other constraints the rest",
        remedy=f"regions with prices: {regions}"
        if name in ("objective.regions", "objective.max_network_latency_ms")
        else f"relax {name}",
    )


def _gpu_bytes(instance: Instance) -> float:
    gpu = find_gpu(instance.gpu) if instance.gpu else None
    return gpu.usable_bytes if gpu else 0.0
