"""Find the structure that learns best: cut the model in several ways, train all a little, keep the
better half, train those longer, and so on; the last one is trained to the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from components.compress import recommend, repair, ways
from components.compress.latency import Table
from components.compress.material import Material
from components.compress.variant import Cut
from components.lib import distil
from components.lib.pruned import encoder_parameters, layers_of, sizes_of

# Validation rows that candidates are ranked on.
RANKING_ROWS = 256
# Share of a time budget that rounds may use where the plan does not say; the winner gets the rest.
ROUNDS_SHARE = 0.35
# Longest training that a generous budget buys, in epochs and, where these are short, in steps. (770
# rows of banking77, two of six layers: 600 steps left 0.02 and 0.01 behind 1,600 on validation.)
MOST_EPOCHS, LEAST_STEPS = 24, 2000

# A mended model of full depth starts near the tuned one: steps as large as those that rebuild
# missing layers drive it away first (WNUT-17, divergence after 50 steps: 0.025 against 0.011).
MENDED_RATE_FACTOR = 1.0

# Once the learning rate has fallen below this share, products are rounded as 8-bit graphs do: the
# weights settle where rounding hurts little (the last 30 % of the winner's training).
EIGHT_BITS_BELOW = 0.3

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a search may take.

    Attributes:
        epochs: of the winner's training.
        deadline: by time.perf_counter; None for no limit. With it, the winner trains until then,
            be it more or fewer epochs.
        predicted: what the plan says of this search, in seconds; None without a plan.
    """

    epochs: float
    deadline: float | None
    predicted: Predicted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Seconds that the plan expects: scoring structures, a candidate's rounds, the winner's end."""

    ways: int
    scoring_s: float
    round_s: tuple[float, ...]
    finish_s: float

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Predicted:
        """Read an entry of the step's argument `search`."""
        return cls(
            ways=int(entry["ways"]),
            scoring_s=float(entry["scoring_s"]),
            round_s=tuple(float(seconds) for seconds in entry["round_s"]),
            finish_s=float(entry["finish_s"]),
        )

    @property
    def rounds_share(self) -> float:
        """Share of the search that is over when the winner is known; the better half of the
        candidates goes on after each round."""
        alive = [-(-self.ways // 2**number) for number in range(len(self.round_s))]
        halving = sum(a * s for a, s in zip(alive, self.round_s, strict=True))
        before = self.scoring_s + halving
        share: float = before / (before + self.finish_s)
        return share

    def of(self, rounds: int, *, winner: bool) -> float:
        """Seconds of a candidate that took part in so many rounds."""
        return sum(self.round_s[:rounds]) + (self.finish_s if winner else 0.0)


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One way to cut, in training.

    Attributes:
        start: weights before training, of a mended model of full depth: they may be good enough.
        trained: whether the weights are those after training.
    """

    name: str
    student: repair.Student
    table_ms: float
    rounds: list[dict[str, float]] = field(default_factory=list)
    ranking_s: float = 0.0
    start: list[torch.Tensor] | None = None
    trained: bool = True

    def to_json(self, predicted: Predicted | None, *, winner: bool) -> dict[str, Any]:
        sizes = sizes_of(self.student.model)
        return {
            "name": self.name,
            "layers": [[s.heads, s.neurons] for s in sizes],
            "encoder_parameters": encoder_parameters(self.student.model),
            "table_ms": self.table_ms,
            "rounds": self.rounds,
            "steps": self.student.step,
            "seconds": round(self.student.seconds + self.ranking_s, 3),
            "predicted_s": predicted and round(predicted.of(len(self.rounds), winner=winner), 3),
            "won": winner,
            "trained": self.trained,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The winner and how it was found."""

    student: repair.Student
    candidates: list[dict[str, Any]]


def apply(
    cut: Cut,
    model: torch.nn.Module,
    teacher: distil.Teacher,
    material: Material,
    table: Table,
    settings: repair.Settings,
    limits: Limits,
    *,
    progress: Progress,
) -> Found:
    """Make `cut` of `model` in the best way found, and train the result.

    Args:
        cut: how much must go.
        model: fp32; left as it is.
        teacher: what the candidates learn from.
        material: what they learn on.
        table: what structures cost where they will serve.
        settings: how they are trained.
        limits: how long.
        progress: told how far the search is.
    """
    start = time.perf_counter()
    if cut.method == "distill":
        made_ways = ways.distil_ways(cut.amount, model)
    else:
        made_ways = ways.prune_ways(cut, model, material, table)
    candidates = []
    for name, made, layer_map in made_ways:
        near = cut.method != "distill" and len(layer_map) == len(layers_of(model))
        own = replace(settings, rate_factor=MENDED_RATE_FACTOR) if near else settings
        student = repair.Student(made, teacher, material, own, layer_map=layer_map)
        candidate = Candidate(name=name, student=student, table_ms=table.of_layers(sizes_of(made)))
        candidate.start = student.weights() if near else None
        candidates.append(candidate)
    rounds_end = None
    if limits.deadline is not None:
        share = limits.predicted.rounds_share if limits.predicted else ROUNDS_SHARE
        rounds_end = start + (limits.deadline - start) * share
    everyone = list(candidates)
    rounds = max(0, math.ceil(math.log2(len(candidates))))
    for number in range(rounds):
        progress(0.1 + 0.2 * number / rounds, f"{len(candidates)} ways to cut, round {number + 1}")
        candidates = _round(candidates, number, material, rounds - number, rounds_end)
    winner = candidates[0]
    _finish(winner, material, limits, progress)
    _keep_the_better(winner)
    told = [c.to_json(limits.predicted, winner=c is winner) for c in everyone]
    return Found(student=winner.student, candidates=told)


def _round(
    candidates: list[Candidate],
    number: int,
    material: Material,
    rounds_left: int,
    rounds_end: float | None,
) -> list[Candidate]:
    """Train all candidates some steps and return the better half."""
    steps = min(recommend.FIRST_ROUND_STEPS, material.steps_per_epoch) * 2**number
    for position, candidate in enumerate(candidates):
        deadline = None
        if rounds_end is not None:  # an equal share of what is left
            left = max(rounds_end - time.perf_counter(), 0.0) / rounds_left
            deadline = time.perf_counter() + left / (len(candidates) - position)
        before, steps_before = candidate.student.seconds, candidate.student.step
        candidate.student.advance(repair.constant(steps, deadline))
        start = time.perf_counter()
        divergence = candidate.student.divergence(RANKING_ROWS)
        ranking_s = time.perf_counter() - start
        candidate.ranking_s += ranking_s
        candidate.rounds.append(
            {
                "steps": candidate.student.step - steps_before,
                "seconds": round(candidate.student.seconds - before + ranking_s, 3),
                "divergence": divergence,
            }
        )
    ranked = sorted(candidates, key=lambda c: c.rounds[-1]["divergence"])
    return ranked[: math.ceil(len(ranked) / 2)]


def _finish(winner: Candidate, material: Material, limits: Limits, progress: Progress) -> None:
    """Train the winner with a falling rate: so many epochs, or until the deadline."""
    steps = max(1, round(limits.epochs * material.steps_per_epoch))
    if limits.deadline is not None:
        most = longest(material.steps_per_epoch, limits.epochs)
        steps = min(most, _steps_until(limits.deadline, winner))

    def report(done: int, loss: float) -> None:
        progress(0.3 + 0.65 * min(done / steps, 1.0), f"{winner.name}: loss {loss:.4f}")

    below = EIGHT_BITS_BELOW if winner.student.settings.eight_bits else 0.0
    schedule = repair.linear_decay(steps, limits.deadline)
    winner.student.advance(schedule, report=report, eight_bits_below=below)


def longest(steps_per_epoch: int, epochs: float) -> int:
    """Most steps that a winner trains while its budget lasts; `epochs` are those of the tuning."""
    return max(LEAST_STEPS, round(max(MOST_EPOCHS, epochs) * steps_per_epoch))


def _keep_the_better(winner: Candidate) -> None:
    """Go back to the weights before training if those score no worse on validation (rounded, where
    they will be)."""
    student = winner.student
    if winner.start is None or not student.step:
        return
    trained, learnt = student.weights(), _served_score(student)
    student.restore(winner.start)
    if _served_score(student) >= learnt:
        winner.trained = False
    else:
        student.restore(trained)
    winner.start = student.factors = None


def _served_score(student: repair.Student) -> float:
    if not student.settings.eight_bits:
        return student.main_score()
    student.factors = None  # the weights have moved
    with student.rounding():
        return student.main_score()


def _steps_until(deadline: float, winner: Candidate) -> int:
    """Steps that fit until the deadline at the speed seen so far; many when none was seen."""
    student = winner.student
    if not student.step:
        return 1 << 30
    left = max(deadline - time.perf_counter(), 0.0)
    # The last rounds computed the teacher's answers too; later steps are faster, and
    # `linear_decay` ends at the deadline whatever this says.
    return max(1, int(1.5 * left / (student.seconds / student.step)))
