"""The rule: among variants that keep quality and latency, the cheapest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from numpy.typing import NDArray

from components.contract import SpecError
from components.lib import interval

GATES = ("point", "bound")
OBJECTIVES = ("cost", "time")
# Scores of one and the same data differ by rounding in the last bits.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the selected variant must keep, and what it should be best at.

    Attributes:
        max_quality_drop: absolute, on the main metric, against the tuned model.
        gate: ``point`` compares the point estimate, ``bound`` the one-sided 95 % bound.
        p99_latency_ms: of a single request; None for no limit.
        minimize: ``cost`` takes the highest throughput, ``time`` the lowest median latency.
    """

    max_quality_drop: float
    gate: str
    p99_latency_ms: float | None
    minimize: str

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Promise:
        """Read the step's arguments.

        Raises:
            SpecError: unknown gate or objective, or a budget below 0.
        """
        promise = cls(
            max_quality_drop=float(arguments.get("max_quality_drop", 0.01)),
            gate=arguments.get("gate", "point"),
            p99_latency_ms=arguments.get("p99_latency_ms"),
            minimize=arguments.get("minimize", "cost"),
        )
        if promise.gate not in GATES:
            raise SpecError(f"compression.gate: {promise.gate!r}", remedy=f"one of {GATES}")
        if promise.minimize not in OBJECTIVES:
            raise SpecError(
                f"objective.minimize: {promise.minimize!r}", remedy=f"one of {OBJECTIVES}"
            )
        if not promise.max_quality_drop >= 0:
            raise SpecError(f"compression.max_quality_drop: {promise.max_quality_drop} is below 0")
        return promise

    def text(self, metric: str) -> str:
        """Say the promise in words."""
        bound = "95 % bound of the " if self.gate == "bound" else ""
        latency = f", p99 <= {self.p99_latency_ms:g} ms" if self.p99_latency_ms else ""
        return f"{bound}drop of {metric} <= {self.max_quality_drop:g}{latency}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One evaluated variant; `drop`, `accepted` and `reason` are filled in by `judge`."""

    name: str
    metric: str
    evaluation: dict[str, Any]
    counts: NDArray[Any]
    drop: interval.Drop | None = None
    accepted: bool = False
    reason: str = ""

    @classmethod
    def of(cls, evaluation: dict[str, Any], counts: NDArray[Any]) -> Candidate:
        return cls(
            name=evaluation["variant"],
            metric=evaluation["metric"],
            evaluation=evaluation,
            counts=counts,
        )

    def row(self) -> dict[str, Any]:
        """Return the row of report.json's `variants`."""
        found = self.evaluation
        keys = ("size_bytes", "parameters", "latency_ms", "throughput_per_s", "usd_per_million",
                "provider", "parity_max_abs_diff", "tokens_per_s", "peak_memory_bytes",
                "latency_with_tokenisation_ms", "joules_per_1k_tokens", "fusion")  # fmt: skip
        return {
            "name": self.name,
            "quality_validation": found["value"],
            "quality_ci95": found["ci95"],
            "metrics": found["metrics"],
            **{key: found.get(key) for key in keys},
            "drop": self.drop.to_json() if self.drop else None,
            "accepted": self.accepted,
            "reason": self.reason,
        }


def judge(
    candidates: list[Candidate], reference: str, promise: Promise, *, seed: int
) -> list[Candidate]:
    """Compare every candidate with the reference and with the promise."""
    tuned = next(c for c in candidates if c.name == reference)
    judged = []
    for candidate in candidates:
        drop = interval.drop_of(
            tuned.metric,
            tuned.counts,
            candidate.counts,
            budget=promise.max_quality_drop,
            seed=seed,
        )
        faults = faults_of(candidate, drop, promise)
        judged.append(
            replace(
                candidate,
                drop=drop,
                accepted=not faults,
                reason="; ".join(faults) or "keeps quality and latency",
            )
        )
    return judged


def faults_of(candidate: Candidate, drop: interval.Drop, promise: Promise) -> list[str]:
    """Say what of the promise the candidate breaks."""
    faults = []
    lost = drop.value if promise.gate == "point" else drop.upper95
    if lost > promise.max_quality_drop + ROUNDING:
        what = "loses" if promise.gate == "point" else "may lose (95 % bound)"
        faults.append(f"{what} {lost:.4f} {candidate.metric}, allowed {promise.max_quality_drop:g}")
    p99 = candidate.evaluation["latency_ms"]["p99"]
    if promise.p99_latency_ms is not None and p99 > promise.p99_latency_ms:
        faults.append(f"p99 {p99:.2f} ms, allowed {promise.p99_latency_ms:g} ms")
    return faults


def pick(judged: list[Candidate], promise: Promise) -> Candidate | None:
    """Return the best accepted candidate, None when there is none.

    On one machine money per request is time per request, so `cost` means the highest throughput;
    ties go to the smaller model.
    """
    accepted = [candidate for candidate in judged if candidate.accepted]

    def price(candidate: Candidate) -> tuple[float, int]:
        found = candidate.evaluation
        if promise.minimize == "time":
            return found["latency_ms"]["p50"], found["size_bytes"]
        return 1.0 / found["throughput_per_s"], found["size_bytes"]

    return min(accepted, key=price, default=None)


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the variants out for a terminal."""
    lines = [f"{'variant':<16}{'quality':>9}{'drop':>9}{'p99 ms':>9}{'MB':>8}{'req/s':>9}  verdict"]
    for row in rows:
        lines.append(
            f"{row['name']:<16}{row['quality_validation']:>9.4f}{row['drop']['value']:>9.4f}"
            f"{row['latency_ms']['p99']:>9.2f}{row['size_bytes'] / 1e6:>8.1f}"
            f"{row['throughput_per_s']:>9.1f}  {row['reason']}"
        )
    return "\n".join(lines)
