"""The decision as the receipt tells it: what was chosen, what else there was, and why not."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
# Beyond the front, so many of the best alternatives are worth a reader's time.
MAX_DOMINATED = 60


def decision(plan: Json) -> Json:
    """Return the plan's decision: estimate, alternatives worth showing, first-order formula."""
    alternatives = list(plan.get("alternatives", []))
    front = [a for a in alternatives if a.get("on_front") or a.get("chosen")]
    rest = [a for a in alternatives if not (a.get("on_front") or a.get("chosen"))]
    rest.sort(key=lambda a: (a.get("usd") is None, a.get("usd") or 0.0, a.get("seconds", 0.0)))
    train = next((s for s in plan["steps"] if s["kind"] == "train"), None)
    return {
        "node": train["node"] if train else None,
        "capacity": train["capacity"] if train else None,
        "nodes": train["nodes"] if train else None,
        "why": train["why"] if train else "",
        "seconds": plan.get("seconds"),
        "usd": plan.get("usd"),
        "first_order": plan.get("first_order") or {},
        "candidates": plan.get("candidates", {}),
        "alternatives": front + rest[:MAX_DOMINATED],
        "alternatives_left_out": max(0, len(rest) - MAX_DOMINATED),
    }
