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
RATE_SHAPE = 2.0
HOT_DAYS = 1.0
LOOK_AHEAD_DAYS = (7.0, 30.0, 90.0)
RESTORE_SECONDS = {"archive": 12 * 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is known of one artifact.

    Attributes:
        reads: reads so far; `idle_days` since the last one (or since it was made).
        remaining_days: how much longer it is kept.
        deadline_seconds: how long a reader can wait; classes that restore more slowly are out.
        published: deployments pull it, so it counts as in use.
        planned_reads_per_day, planned_days: what the plan says of the time ahead (a retraining
            schedule, a deployment's term); None when nothing is planned.
    """

    bytes: float
    files: int
    age_days: float
    idle_days: float
    reads: int
    remaining_days: float = 365.0
    deadline_seconds: float = 60.0
    published: bool = False
    planned_reads_per_day: float = 0.0
    planned_days: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """How artifacts of one kind are used, from the step reports of many runs.

    Attributes:
        reads_per_day: while in use.
        days_in_use: mean time until nobody reads it any more.
        dormant_share: artifacts that nobody reads at all.
        abandoned_per_day: rate at which planned use ends before its term.
        revival_per_day: rate at which a dormant one is read once (an audit, a comparison).
    """

    reads_per_day: float = 0.2
    days_in_use: float = 14.0
    dormant_share: float = 0.3
    revival_per_day: float = 0.002
    abandoned_per_day: float = 0.001


def reading_rate(usage: Usage, interest: Interest) -> float:
    """Return reads a day while in use: the kind's rate until the artifact shows its own.

    Rates differ between artifacts of one kind like a gamma distribution of shape `RATE_SHAPE`,
    whose posterior mean this is.
    """
    active = max(usage.age_days - usage.idle_days, 1.0) if usage.reads else 0.0
    return (usage.reads + RATE_SHAPE) / (active + RATE_SHAPE / interest.reads_per_day)


def chance_in_use(usage: Usage, interest: Interest) -> float:
    """Return the probability that the artifact is still in use, given its silence.

    In use it stays silent for t days with probability e^-(r + d)t, where r is the reading rate and
    d = 1/days_in_use; having lost interest meanwhile has probability d/(r + d) (1 - e^-(r + d)t).
    """
    if usage.published:
        return 1.0
    rate, loss = reading_rate(usage, interest), 1.0 / interest.days_in_use
    if usage.planned_days is not None:
        if usage.planned_days <= 0:
            return 0.0
        rate, loss = usage.planned_reads_per_day, interest.abandoned_per_day
    still = math.exp(-(rate + loss) * usage.idle_days)
    lost = loss / (rate + loss) * (1.0 - still)
    known = usage.reads > 0 or usage.planned_days is not None
    dormant = 0.0 if known else interest.dormant_share
    return (1.0 - dormant) * still / ((1.0 - dormant) * (still + lost) + dormant)


def expected_reads(usage: Usage, interest: Interest, days: float) -> float:
    """Return how often it will be read in the next `days`."""
    if usage.published:
        return max(reading_rate(usage, interest), 1.0) * days
    revived = interest.revival_per_day * days
    if usage.planned_days is not None:
        ahead = max(0.0, min(days, usage.planned_days))
        return chance_in_use(usage, interest) * usage.planned_reads_per_day * ahead + revived
    span = interest.days_in_use * (1.0 - math.exp(-days / interest.days_in_use))
    in_use = chance_in_use(usage, interest) * reading_rate(usage, interest) * span
    return in_use + revived


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
    usage: Usage,
    here: StorageClass | None,
    there: StorageClass,
    days_here: float,
    *,
    at_hand: bool = False,
) -> float:
    """Money of moving it: a put in the new class, a read of the old one unless the hot tier still
    holds a copy (`at_hand`), and what is left of the old class's least days."""
    if here is not None and here.name == there.name:
        return 0.0
    requests = usage.files + usage.bytes / PART_BYTES
    put = requests / 1000 * there.put_usd_per_1000
    if here is None:
        return put
    early = max(0.0, here.min_days - days_here) * day_usd(usage, here)
    return put + (0.0 if at_hand else read_usd(usage, here)) + early


def is_at_hand(usage: Usage) -> bool:
    """True right after a read: the hot tier keeps what was fetched for a day at least."""
    return usage.reads > 0 and usage.idle_days <= HOT_DAYS


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

    Compared is what each class costs when it is kept for some days (`LOOK_AHEAD_DAYS`, or for the
    rest) and the class that is best after that is entered then. Classes that restore more slowly
    than a reader can wait are left out, unless nothing else is there.
    """
    interest = interest or Interest()
    possible = {key: prices for key, prices in classes.items() if allowed(usage, prices)}
    possible = possible or dict(classes)
    rest = usage.remaining_days
    ends = () if usage.planned_days is None else (usage.planned_days,)
    spans = [days for days in (*LOOK_AHEAD_DAYS, *ends) if 0 < days < rest] + [rest]
    reads = {days: expected_reads(usage, interest, days) for days in spans}
    day = {key: day_usd(usage, prices) for key, prices in possible.items()}
    read = {key: read_usd(usage, prices) for key, prices in possible.items()}
    current = classes[here] if here else None

    def total(key: str) -> float:
        start = move_usd(usage, current, possible[key], days_here, at_hand=is_at_hand(usage))
        stayed = days_here if key == here else 0.0
        costs: list[float] = []
        for days in spans:
            keep = days * day[key] + reads[days] * read[key]
            short = max(0.0, possible[key].min_days - stayed - days) * day[key]
            after = min(
                move_usd(usage, possible[key], possible[other], stayed + days)
                + (rest - days) * day[other]
                + (reads[rest] - reads[days]) * read[other]
                for other in possible
            )
            costs.append(keep + (after if days < rest else short))
        cheapest: float = start + min(costs)
        return cheapest

    return min(possible, key=lambda key: (total(key), key != here))
