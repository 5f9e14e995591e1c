"""Place: put the dataset on the tiers that the plan chose, and prove that it is there."""

from __future__ import annotations

from components.contract import SpecError
from components.runtime import StepContext
from components.storage import TIERS


def run(context: StepContext) -> str:
    """Copy the dataset to every planned tier and return its URI, which stays the same.

    Raises:
        SpecError: an unknown tier.
        DataError: a blob is missing or corrupted.
    """
    uri: str = context.inputs["dataset"]
    wanted = list(context.arguments.get("tiers") or ["hot"])
    unknown = [tier for tier in wanted if tier not in TIERS]
    if unknown:
        raise SpecError(f"tier {unknown[0]!r} is not one of {', '.join(TIERS)}")
    size = context.store.size_bytes(uri)
    present = context.store.tiers_of(uri)
    context.workload["bytes"] = size
    for number, tier in enumerate(wanted):
        context.progress(number / len(wanted), f"to {tier}", bytes=size)
        with context.phase(f"to_{tier}"):
            context.store.copy_to_tier(uri, tier)
        if tier not in present:
            context.bytes_out += size
    context.metrics["tiers"] = context.store.tiers_of(uri)
    return uri
