"""Has the input changed? A two-sample test of windows of the stream against a reference.

Five features of each text need no label and no embedding: its tokens, its unknown words, its
new words (share of words that the reference had not), its non-ASCII characters and the model's
confidence. The reference is the first `REFERENCE` texts of the stream (or a file that the model
was trained on). Each feature is cut into at most `BINS` bins of equal weight in the reference; a
window of `WINDOW` texts is compared by Pearson's chi-square test for two samples, p-values are
multiplied by the number of features (Bonferroni).

The input has drifted when in two windows in a row the same feature has p < `ALPHA` and a
population stability index of `LEAST_PSI` at least: by chance the first part alone happens in one
window of a thousand, so twice in a row in one of a million; the index asks that the difference is
worth a retraining, since with enough texts any difference is significant.

New words are counted in the reference by leaving each text out (a word that occurs in no other
text is new there): counted in the reference itself, none would be.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

REFERENCE = 1000
WINDOW = 500
BINS = 8
ALPHA = 1e-3
LEAST_PSI = 0.1
FEATURES = ("tokens", "unknown", "new_words", "non_ascii", "confidence")


@dataclass(slots=True)
class DriftDetector:
    """Reference, the window being filled, and what was found.

    Attributes:
        rows: features of the texts of the reference until it is complete, then of the window.
        vocabulary: word hash to the number of the reference's texts that have it.
        edges: bin edges by feature, empty until the reference is complete.
        expected: the reference's counts by feature and bin.
        suspects: features that differed in the last window.
        drifted: the finding, until `forget` is called; None while there is none.
    """

    reference: int = REFERENCE
    window: int = WINDOW
    rows: list[list[float]] = field(default_factory=list)
    words: list[list[int]] = field(default_factory=list)
    vocabulary: dict[int, int] = field(default_factory=dict)
    edges: dict[str, list[float]] = field(default_factory=dict)
    expected: dict[str, list[int]] = field(default_factory=dict)
    suspects: list[str] = field(default_factory=list)
    windows: int = 0
    drifted: dict[str, Any] | None = None

    def add(
        self, text: str, *, tokens: int, unknown: float, confidence: float
    ) -> dict[str, Any] | None:
        """Take one text; returns the drift that it completes the evidence of, if any.

        Args:
            text: as it came.
            tokens: its length for the model.
            unknown: share of its tokens that the tokenizer does not know.
            confidence: the model's highest probability.
        """
        words = sorted({_hash(word) for word in text.lower().split()})
        new = sum(word not in self.vocabulary for word in words) / max(len(words), 1)
        strange = sum(ord(c) > 127 for c in text) / max(len(text), 1)
        self.rows.append([float(tokens), unknown, new, strange, confidence])
        if not self.edges:
            self.words.append(words)
            if len(self.rows) >= self.reference:
                self._freeze()
            return None
        if len(self.rows) < self.window:
            return None
        return self._compare()

    def _freeze(self) -> None:
        counts = Counter(word for words in self.words for word in words)
        for row, words in zip(self.rows, self.words, strict=True):
            row[FEATURES.index("new_words")] = sum(counts[w] == 1 for w in words) / max(
                len(words), 1
            )
        self.vocabulary = dict(counts)
        for position, feature in enumerate(FEATURES):
            values = sorted(row[position] for row in self.rows)
            quantiles = [values[len(values) * i // BINS] for i in range(1, BINS)]
            self.edges[feature] = sorted(set(quantiles))
            self.expected[feature] = _binned(values, self.edges[feature])
        self.rows, self.words = [], []

    def _compare(self) -> dict[str, Any] | None:
        self.windows += 1
        found = {}
        for position, feature in enumerate(FEATURES):
            seen = _binned([row[position] for row in self.rows], self.edges[feature])
            p, index = compare(self.expected[feature], seen)
            if p * len(FEATURES) < ALPHA and index >= LEAST_PSI:
                found[feature] = {"p": p * len(FEATURES), "stability_index": round(index, 4)}
        self.rows = []
        again = [feature for feature in found if feature in self.suspects]
        self.suspects = list(found)
        if not again or self.drifted is not None:
            return None
        self.drifted = {
            "kind": "drift",
            "features": {feature: found[feature] for feature in again},
            "window": self.windows,
        }
        return self.drifted

    # -- state -----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference, "window": self.window, "rows": self.rows,
            "words": self.words, "edges": self.edges, "expected": self.expected,
            "suspects": self.suspects, "windows": self.windows, "drifted": self.drifted,
            "vocabulary": [[word, count] for word, count in self.vocabulary.items()],
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "vocabulary": dict(document["vocabulary"])})


def compare(expected: list[int], seen: list[int]) -> tuple[float, float]:
    """Return the p-value of the two-sample chi-square test and the population stability index.

    Bins that are empty in both say nothing; of one that is empty in one sample the index counts
    half a text.
    """
    a, b = sum(expected), sum(seen)
    statistic, index, used = 0.0, 0.0, 0
    for e, s in zip(expected, seen, strict=True):
        if e + s == 0:
            continue
        used += 1
        statistic += (math.sqrt(b / a) * e - math.sqrt(a / b) * s) ** 2 / (e + s)
        share_e, share_s = max(e, 0.5) / a, max(s, 0.5) / b
        index += (share_s - share_e) * math.log(share_s / share_e)
    return (chi_square_tail(statistic, used - 1) if used > 1 else 1.0), index


def chi_square_tail(x: float, degrees: int) -> float:
    """P(chi-square with `degrees` > x): the finite sums for even and odd degrees (Abramowitz and
    Stegun 26.4.4 and 26.4.5)."""
    if x <= 0.0:
        return 1.0
    half = x / 2.0
    if degrees % 2 == 0:
        term = total = math.exp(-half)
        for i in range(1, degrees // 2):
            term *= half / i
            total += term
        return min(total, 1.0)
    total = math.erfc(math.sqrt(half))
    term = math.exp(-half) * math.sqrt(2.0 * x / math.pi)
    for i in range(1, degrees // 2 + 1):
        total += term
        term *= x / (2 * i + 1)
    return min(total, 1.0)


def _binned(values: list[float], edges: list[float]) -> list[int]:
    """Counts of ``value <= edges[0]``, …, ``value > edges[-1]``: zero has a bin of its own."""
    import numpy as np

    where = np.searchsorted(edges, values, side="left")
    counts: list[int] = np.bincount(where, minlength=len(edges) + 1).tolist()
    return counts


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6).digest(), "big")
