"""Which storage class an artifact should be in from now on, judged by how it has been used.

An artifact is either in use, read at some rate until people lose interest, or dormant. The longer
nobody has read it, the likelier it is dormant (Fader, Hardie & Lee 2005 use the same model,
BG/NBD, for customers). The choice weighs what it costs to keep and read it in each class over the
rest of its life, what it costs to move there, and the days a class bills at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.cost.catalog import StorageClass

GB = 1e9
DAYS_PER_MONTH = 30.4
PART_BYTES = 8 << 20
RESTORE_SECONDS = {"archive": 12 * 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is known of one artifact.

    Attributes:
        reads: reads so far; `idle_days` since the last one (or since it was made).
        remaining_days: how much longer it is kept.
        deadline_seconds: how long a reader can wait; classes that restore more slowly are out.
        published: deployments pull it, so it counts as in use.
    """

    bytes: float
    files: int
    age_days: float
    idle_days: float
    reads: int
    remaining_days: float = 365.0
    deadline_seconds: float = 60.0
    published: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """How artifacts of one kind are used, from the step reports of many runs.

    Attributes:
        reads_per_day: while in use.
        days_in_use: mean time until nobody reads it any more.
        dormant_share: artifacts that nobody reads at all.
        revival_per_day: rate at which a dormant one is read once (an audit, a comparison).
    """

    reads_per_day: float = 0.2
    days_in_use: float = 14.0
    dormant_share: float = 0.3
    revival_per_day: float = 0.002


def chance_in_use(usage: Usage, interest: Interest) -> float:
    """Return the probability that the artifact is still in use, given its silence.

    In use it stays silent for t days with probability e^-(r + d)t, where r is the reading rate and
    d = 1/days_in_use; having lost interest meanwhile has probability d/(r + d) (1 - e^-(r + d)t).
    """
    if usage.published:
        return 1.0
    rate, loss = interest.reads_per_day, 1.0 / interest.days_in_use
    if usage.reads:
        # The artifact's own rate, drawn towards its kind's by one read's worth of evidence.
        active = max(usage.age_days - usage.idle_days, 1.0)
        rate = (usage.reads + 1.0) / (active + 1.0 / rate)
    still = math.exp(-(rate + loss) * usage.idle_days)
    lost = loss / (rate + loss) * (1.0 - still)
    share = 1.0 if usage.reads else 1.0 - interest.dormant_share
    dormant = 0.0 if usage.reads else interest.dormant_share
    return share * still / (share * (still + lost) + dormant)


def expected_reads(usage: Usage, interest: Interest) -> float:
    """Return how often it will still be read."""
    if usage.published:
        return usage.remaining_days
    rate = interest.reads_per_day
    if usage.reads:
        active = max(usage.age_days - usage.idle_days, 1.0)
        rate = (usage.reads + 1.0) / (active + 1.0 / rate)
    chance = chance_in_use(usage, interest)
    days = interest.days_in_use * (1.0 - math.exp(-usage.remaining_days / interest.days_in_use))
    return chance * rate * days + interest.revival_per_day * usage.remaining_days


def read_usd(usage: Usage, prices: StorageClass) -> float:
    """Money of reading it once."""
    requests = usage.files + usage.bytes / PART_BYTES
    gigabytes = usage.bytes / GB
    return requests / 1000 * prices.get_usd_per_1000 + gigabytes * prices.retrieval_usd_per_gb


def day_usd(usage: Usage, prices: StorageClass) -> float:
    """Money of keeping it for a day; small objects are billed at the class's least size."""
    billed = max(usage.bytes, usage.files * prices.min_object_bytes)
    return billed / GB * prices.usd_per_gb_month / DAYS_PER_MONTH


def move_usd(
    usage: Usage, here: StorageClass | None, there: StorageClass, days_here: float
) -> float:
    """Money of moving it: a put in the new class, a read and what is left of the least days in
    the old one."""
    if here is not None and here.name == there.name:
        return 0.0
    requests = usage.files + usage.bytes / PART_BYTES
    put = requests / 1000 * there.put_usd_per_1000
    if here is None:
        return put
    early = max(0.0, here.min_days - days_here) * day_usd(usage, here)
    return put + read_usd(usage, here) + early


def allowed(usage: Usage, prices: StorageClass) -> bool:
    """A class whose restore takes longer than a reader can wait is out, whatever it saves."""
    return RESTORE_SECONDS.get(prices.name, 0.0) <= usage.deadline_seconds


def best_class(
    usage: Usage,
    classes: Mapping[str, StorageClass],
    *,
    interest: Interest | None = None,
    here: str | None = None,
    days_here: float = 0.0,
) -> str:
    """Return the key of the class that is expected to cost least from now on.

    The choice is looked at again at every sweep, so cost in an expensive class is counted until
    the artifact is expected to be dormant and in the cheapest one from then on.
    """
    interest = interest or Interest()
    possible = {key: prices for key, prices in classes.items() if allowed(usage, prices)}
    if not possible:
        possible = dict(classes)
    reads = expected_reads(usage, interest)
    chance = chance_in_use(usage, interest)
    in_use_days = min(chance * interest.days_in_use, usage.remaining_days)
    if usage.published:
        in_use_days = usage.remaining_days
    cheapest = min(possible.values(), key=lambda prices: day_usd(usage, prices))
    rest = usage.remaining_days - in_use_days

    def total(key: str) -> float:
        prices = possible[key]
        start = move_usd(usage, classes[here] if here else None, prices, days_here)
        keep = in_use_days * day_usd(usage, prices)
        later = min(
            rest * day_usd(usage, prices),
            move_usd(usage, prices, cheapest, in_use_days) + rest * day_usd(usage, cheapest),
        )
        short = max(0.0, prices.min_days - usage.remaining_days) * day_usd(usage, prices)
        return start + keep + later + short + reads * read_usd(usage, prices)

    return min(possible, key=lambda key: (total(key), key != here))
