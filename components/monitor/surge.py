"""A sequential test for a rising share of negative texts, one statistic a subject.

Null hypothesis: each subject has a share of negatives of its own that does not change; the shares
are draws of a beta distribution whose mean and concentration are learnt from all subjects. Given
the past of a subject (``k`` negatives of ``n``), its next text is negative with probability

    p = (a + k) / (a + b + n)

so the uncertainty of the baseline is inside ``p``: a subject seen ten times needs more evidence
than one seen a thousand times. Against it stand shares ``r p`` for several ratios `RATIOS`. With
``L`` the likelihood ratio of the newest text, the Shiryaev-Roberts e-detector (Shin, Ramdas and
Rinaldo, "E-detectors", 2022) of the subject is

    R <- (R + w) L        averaged over the ratios; alarm when R >= c, then R = 0.

``L`` has mean 1 under the null, so the sum of all subjects' R, plus c for each alarm so far, grows
by ``w`` a text on average, and the weights ``w`` add up to at most one a text. Hence the expected
number of false alarms among N texts is at most N / c, whatever the number of subjects and however
their texts are interleaved: watching more subjects costs texts, not false alarms, and no
correction for multiplicity is needed.

The weights, chosen before the text is seen, say where that budget goes. A surge of a subject that
is rarely in bad news is hard to tell from chance, one of a subject with a high share is not, so
``w`` falls with the cube of p (`weight`); a subject with a long history needs less.

R jumps over c: with jumps of ln r an alarm costs c r ln(r) / (r - 1) of the budget (the overshoot
of a renewal process whose steps end uniformly in the jump), 1.4 c. And of the budget of subjects
with a few hundred texts a third stands in evidence that never comes to an alarm. So c is
`SHARE_PER_ALARM` of the texts that are promised between alarms, chosen by simulation on seeds that
no figure is reported of; the bound that needs no simulation is one alarm in c texts.

After an alarm the subject is in surge: its texts no longer teach the baseline and it raises no
second alarm, until its recent share is back below `CALM_RATIO` times it, or the surge lasts so
long that it is the new normal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

# Below the threefold surge that is looked for, since the p of a subject with a low share is
# too high: it leans towards the others'.
RATIOS = (1.75, 2.5)
# Expected texts between false alarms, at least.
TEXTS_PER_FALSE_ALARM = 10_000.0
# The threshold, as a share of those: see above.
SHARE_PER_ALARM = 0.5
# Most weight of a text; the part of the budget that is planned to be spent, so that there is
# something left for a text that needs much.
MOST_WEIGHT = 8.0
PLANNED = 0.97
# Texts of a subject beyond which each weighs less, and the least part of its weight.
LONG_HISTORY = 300
LEAST_PART = 0.3
# Beta(1/2, 1/2), Jeffreys' prior, where nothing is known.
JEFFREYS = 0.5
# Concentration of the beta distribution of shares over subjects: while too few subjects are known,
# and at most (a subject's own history must be able to speak).
UNKNOWN_CONCENTRATION = 20.0
MOST_CONCENTRATION = 500.0
# Subjects with so many texts tell how shares differ between subjects; so many are needed.
TELLING_TEXTS = 10
TELLING_SUBJECTS = 5
# The concentration is learnt again after so many texts.
LEARN_EVERY = 128
# A surge is over when the recent share is below so many times the baseline.
CALM_RATIO = 1.5
# Memory of the recent share, in texts of the subject.
RECENT = 30.0
# A surge of so many texts of the subject is its new normal.
NEW_NORMAL = 500
# Subjects kept; the one not seen for longest is forgotten first.
MOST_SUBJECTS = 20_000


@dataclass(slots=True)
class Subject:
    """What is known of one subject.

    Attributes:
        texts, negatives: its history outside surges: the baseline.
        evidence: the statistic R for each of `RATIOS`.
        recent: exponential average of the last `RECENT` texts' negativity.
        surge_texts: texts since the alarm; 0 outside a surge.
        surge_negatives: negatives among them.
        last: number of the subject's newest text in the stream.
    """

    texts: int = 0
    negatives: int = 0
    evidence: list[float] = field(default_factory=lambda: [0.0] * len(RATIOS))
    recent: float = 0.0
    surge_texts: int = 0
    surge_negatives: int = 0
    last: int = 0

    def to_json(self) -> list[Any]:
        return [
            self.texts, self.negatives, self.evidence, self.recent,
            self.surge_texts, self.surge_negatives, self.last,
        ]  # fmt: skip


class SurgeDetector:
    """Counts by subject and the alarms they raise; deterministic."""

    def __init__(self, *, texts_per_false_alarm: float = TEXTS_PER_FALSE_ALARM) -> None:
        self.texts_per_false_alarm = texts_per_false_alarm
        self.subjects: dict[str, Subject] = {}
        self.texts = 0
        self.negatives = 0
        self.seen = 0
        self.concentration = UNKNOWN_CONCENTRATION
        self.spent = 0.0
        self.wanted = 0.0

    @property
    def threshold(self) -> float:
        """What the evidence must reach."""
        return SHARE_PER_ALARM * self.texts_per_false_alarm

    def add(self, name: str, negative: bool) -> dict[str, Any] | None:
        """Take one text of subject `name`; returns the alert that it raises, if any."""
        subject = self.subjects.get(name)
        if subject is None:
            self._make_room()
            subject = self.subjects[name] = Subject()
        self.seen += 1
        subject.last = self.seen
        if self.seen % LEARN_EVERY == 0:
            self.concentration = concentration(list(self.subjects.values()))
        p = self.baseline(subject)
        if subject.texts == 0 and subject.surge_texts == 0:
            subject.recent = p
        subject.recent += (negative - subject.recent) / RECENT
        if subject.surge_texts:
            return self._in_surge(name, subject, negative, p)
        weight = self._weight(subject, p)
        for position, ratio in enumerate(RATIOS):
            q = min(ratio * p, (1.0 + p) / 2.0)
            likelihood = q / p if negative else (1.0 - q) / (1.0 - p)
            subject.evidence[position] = (subject.evidence[position] + weight) * likelihood
        evidence = sum(subject.evidence) / len(RATIOS)
        if evidence >= self.threshold:
            subject.evidence = [0.0] * len(RATIOS)
            subject.surge_texts, subject.surge_negatives = 1, int(negative)
            return {
                "kind": "surge",
                "subject": name,
                "share": round(subject.recent, 4),
                "baseline": round(p, 4),
                "baseline_texts": subject.texts,
                "evidence": round(evidence, 1),
                "threshold": round(self.threshold, 1),
            }
        self._learn(subject, 1, int(negative))
        return None

    def baseline(self, subject: Subject) -> float:
        """Probability that the subject's next text is negative, if nothing has changed."""
        others, negatives = self.texts - subject.texts, self.negatives - subject.negatives
        mean = (negatives + JEFFREYS) / (others + 2 * JEFFREYS)
        # Variances add: between subjects, and of the mean that so many other texts have taught.
        weight = 1.0 / (1.0 / self.concentration + 1.0 / others) if others else 0.0
        a = mean * weight + JEFFREYS + subject.negatives
        return a / (weight + 2 * JEFFREYS + subject.texts)

    def _weight(self, subject: Subject, p: float) -> float:
        """Weight of the coming text in the evidence: ``(mean / p)^3``, at most `MOST_WEIGHT`,
        relative to its average so far; all weights add up to one a text at most."""
        mean = (self.negatives + JEFFREYS) / (self.texts + 2 * JEFFREYS)
        wanted = min((mean / p) ** 3, MOST_WEIGHT)
        self.wanted += wanted
        weight = PLANNED * wanted * self.seen / self.wanted
        weight *= min(1.0, max(LEAST_PART, LONG_HISTORY / max(subject.texts, 1)))
        weight = min(weight, self.seen - self.spent)
        self.spent += weight
        return weight

    def _learn(self, subject: Subject, texts: int, negatives: int) -> None:
        subject.texts += texts
        subject.negatives += negatives
        self.texts += texts
        self.negatives += negatives

    def _in_surge(
        self, name: str, subject: Subject, negative: bool, p: float
    ) -> dict[str, Any] | None:
        subject.surge_texts += 1
        subject.surge_negatives += int(negative)
        share = subject.surge_negatives / subject.surge_texts
        texts = subject.surge_texts
        if texts >= NEW_NORMAL:
            # The old baseline is gone: only what happened since the alarm describes the subject.
            self._learn(subject, -subject.texts, -subject.negatives)
            self._learn(subject, texts, subject.surge_negatives)
            subject.surge_texts = subject.surge_negatives = 0
            return {"kind": "new normal", "subject": name, "share": round(share, 4),
                    "baseline": round(p, 4), "texts": texts}  # fmt: skip
        if texts >= RECENT and subject.recent < CALM_RATIO * p:
            subject.surge_texts = subject.surge_negatives = 0
            return {"kind": "surge over", "subject": name, "share": round(subject.recent, 4),
                    "baseline": round(p, 4), "texts": texts}  # fmt: skip
        return None

    def _make_room(self) -> None:
        if len(self.subjects) >= MOST_SUBJECTS:
            oldest = min(self.subjects, key=lambda name: self.subjects[name].last)
            gone = self.subjects.pop(oldest)
            self.texts -= gone.texts
            self.negatives -= gone.negatives

    # -- state -----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "texts_per_false_alarm": self.texts_per_false_alarm,
            "seen": self.seen,
            "spent": self.spent,
            "wanted": self.wanted,
            "concentration": self.concentration,
            "subjects": {name: s.to_json() for name, s in self.subjects.items()},
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        detector = cls(texts_per_false_alarm=document["texts_per_false_alarm"])
        detector.seen = document["seen"]
        # States of before the weights: one each.
        detector.spent = document.get("spent", float(detector.seen))
        detector.wanted = document.get("wanted", float(detector.seen))
        detector.concentration = document["concentration"]
        detector.subjects = {name: Subject(*row) for name, row in document["subjects"].items()}
        for subject in detector.subjects.values():
            if len(subject.evidence) != len(RATIOS):  # of other ratios
                subject.evidence = [0.0] * len(RATIOS)
        detector.texts = sum(s.texts for s in detector.subjects.values())
        detector.negatives = sum(s.negatives for s in detector.subjects.values())
        return detector


def concentration(subjects: list[Subject]) -> float:
    """Estimate a + b of the beta distribution of shares over subjects, by the method of moments.

    Of the between-subject variance the upper end (one standard error) is taken: subjects that
    are taken to differ more than they do are given more weight of their own, which is the careful
    side.
    """
    telling = [s for s in subjects if s.texts >= TELLING_TEXTS]
    texts = sum(s.texts for s in telling)
    negatives = sum(s.negatives for s in telling)
    if len(telling) < TELLING_SUBJECTS or negatives in (0, texts):
        return UNKNOWN_CONCENTRATION
    mean, groups = negatives / texts, len(telling)
    unit = mean * (1.0 - mean)
    scatter = sum(s.texts * (s.negatives / s.texts - mean) ** 2 for s in telling)
    # E[scatter] = unit (g - 1) + unit * correlation * (N - sum n^2 / N - (g - 1))
    room = unit * (texts - sum(s.texts**2 for s in telling) / texts - (groups - 1))
    if room <= 0.0:
        return UNKNOWN_CONCENTRATION
    excess = scatter - unit * (groups - 1) + unit * (2.0 * (groups - 1)) ** 0.5
    correlation = min(max(excess / room, 1.0 / (MOST_CONCENTRATION + 1.0)), 0.5)
    return 1.0 / correlation - 1.0
