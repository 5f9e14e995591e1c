"""The decision as the receipt tells it: what was chosen, what else there was, and why not."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
# Beyond the front, so many of the best alternatives are worth a reader's time.
MAX_DOMINATED = 60
SECONDS_PER_HOUR = 3600


def decision(plan: Json) -> Json:
    """Return the plan's decision: estimate, alternatives worth showing, first-order formula."""
    alternatives = list(plan.get("alternatives", []))
    front = [a for a in alternatives if a.get("on_front") or a.get("chosen")]
    rest = [a for a in alternatives if not (a.get("on_front") or a.get("chosen"))]
    rest.sort(key=lambda a: (a.get("usd") is None, a.get("usd") or 0.0, a.get("seconds", 0.0)))
    train = next((s for s in plan["steps"] if s["kind"] == "train"), None)
    usd = plan.get("usd")
    objective = plan.get("spec", {}).get("objective") or {}
    one_node = one_node_usd(plan, train)
    return {
        "one_node_usd": one_node,
        "times_cheaper": one_node / usd["value"] if one_node and usd and usd["value"] else None,
        "node": train["node"] if train else None,
        "capacity": train["capacity"] if train else None,
        "nodes": train["nodes"] if train else None,
        "why": train["why"] if train else "",
        "seconds": plan.get("seconds"),
        "usd": plan.get("usd"),
        "deadline_s": _seconds(objective.get("deadline")),
        "budget_usd": objective.get("budget_usd"),
        "first_order": plan.get("first_order") or {},
        "candidates": plan.get("candidates", {}),
        "alternatives": front + rest[:MAX_DOMINATED],
        "alternatives_left_out": max(0, len(rest) - MAX_DOMINATED),
    }


def _seconds(deadline: Any) -> int | None:
    from pipelines.spec_sections import parse_duration

    try:
        return parse_duration(deadline)
    except (TypeError, ValueError):
        return None


def one_node_usd(plan: Json, train: Json | None) -> float | None:
    """Money of the naive way: the training nodes, on demand, kept for the whole job.

    None where the node is not in the shipped catalogue (an owned machine, this machine).
    """
    if train is None or plan.get("seconds") is None:
        return None
    from pipelines.cost.catalog import load_catalog

    catalog = load_catalog()
    prices = [
        catalog.price(instance, "on-demand")
        for instance in catalog.instances
        if instance.name == train["node"]
    ]
    known = [price for price in prices if price is not None]
    if not known:
        return None
    hours = float(plan["seconds"]["value"]) / SECONDS_PER_HOUR
    # The same type has a price a region; the cheapest is the fairest opponent.
    return min(known) * int(train["nodes"]) * hours
