"""Data sets that the project makes itself: ``synthetic://<kind>/<split>?seed=17``.

The other kinds are in `components.ingest.made`; here is ``ner``, the default job's.

Names and sentence patterns of one split occur in no other, so memorising names scores near zero;
names that may be a person, a place, a company or a product need their sentence; decoy words look
like names and are none; casing is unreliable and words carry typos. The same URI always gives the
same text.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.contract import SpecError
from components.ingest import synthetic_words as words
from components.ingest.made import hands, headlines, intents, shop

Row = tuple[str, str]  # word, BIO2 tag
# Kinds that are JSON lines: what makes their rows.
MADE: dict[str, Callable[[str, int], Iterator[dict[str, Any]]]] = {
    "headlines": headlines.rows,
    "intents": intents.intent_rows,
    "ranking": shop.rows,
    "replies": intents.reply_rows,
}
KINDS = ("ner", *MADE, "hands")

ROWS = {"train": 2600, "validation": 600, "test": 800}
DEFAULT_SEED = 17
# Share of each pool by split.
SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}
AMBIGUOUS_SHARE = 0.25
LOWERCASE_SHARE = 0.25
UPPERCASE_SHARE = 0.04
TYPO_SHARE = 0.04
LEAD_SHARE = 0.2
TAIL_SHARE = 0.2
TYPES = {"PER": "person", "LOC": "location", "ORG": "organisation", "PRO": "product"}
SLOT = re.compile(r"\[(PER|LOC|ORG|PRO)\]")
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


def sentences(uri: str) -> list[list[Row]]:
    """Return the sentences that `uri` names.

    Raises:
        SpecError: not ``synthetic://ner/(train|validation|test)[?seed=<n>]``.
    """
    split, seed = _parse(uri)
    return list(_generate(split, seed))


def figures(rows: list[list[Row]]) -> dict[str, int]:
    """Return ``{rows, words, bytes}`` of a split: what its CoNLL file will hold."""
    return {
        "rows": len(rows),
        "words": sum(map(len, rows)),
        "bytes": len(_conll(rows).encode()),
    }


def write(uri: str, folder: Path) -> Path:
    """Write the split below `folder` as its task reads it and return the path.

    Raises:
        SpecError: no such data set.
    """
    kind, split, seed = _address(uri)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"synthetic-{kind}-{split}-{seed}"
    if kind == "hands":
        return hands.write(split, seed, folder / name)
    if kind == "ner":
        path = folder / f"{name}.conll"
        path.write_text(_conll(sentences(uri)), encoding="utf-8")
        return path
    path = folder / f"{name}.jsonl"
    rows = MADE[kind](split, seed)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _conll(rows: list[list[Row]]) -> str:
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows)


def _parse(uri: str) -> tuple[str, int]:
    kind, split, seed = _address(uri)
    if kind != "ner":
        raise SpecError(f"data: {uri!r} holds no sentences with tags")
    return split, seed


def _address(uri: str) -> tuple[str, str, int]:
    parts = urlsplit(uri)
    split = parts.path.strip("/")
    options = parse_qs(parts.query)
    seed = options.pop("seed", [str(DEFAULT_SEED)])[0]
    known = parts.scheme == "synthetic" and parts.netloc in KINDS and split in ROWS
    if not known or options or not seed.isdigit():
        raise SpecError(
            f"data: {uri!r} is not known",
            remedy="use synthetic://ner/train?seed=17, …/validation or …/test; other sets: "
            + ", ".join(KINDS[1:]),
        )
    return parts.netloc, split, int(seed)


def part(pool: Sequence[str], split: str) -> list[str]:
    """Return the split's own part of a pool; the parts are disjoint and do not depend on seeds."""
    shuffled = sorted(pool)
    random.Random(len(shuffled)).shuffle(shuffled)
    low, high = SHARES[split]
    return shuffled[round(low * len(shuffled)) : round(high * len(shuffled))]


def _generate(split: str, seed: int) -> Iterator[list[Row]]:
    generator = random.Random(f"{split}-{seed}")
    names = _Names(split, generator)
    patterns = [line for line in words.PATTERNS[split].splitlines() if line]
    decoys = part(words.DECOYS, split)
    leads, tails = part(words.LEADS, split), part(words.TAILS, split)
    for _ in range(ROWS[split]):
        pattern = _expand(generator.choice(patterns), generator)
        pattern = pattern.replace("<decoy>", generator.choice(decoys))
        if generator.random() < LEAD_SHARE:
            pattern = f"{generator.choice(leads)} {pattern}"
        if pattern.endswith(" .") and generator.random() < TAIL_SHARE:
            pattern = pattern.removesuffix(".") + generator.choice(tails)
        rows: list[Row] = []
        for piece in pattern.split():
            slot = SLOT.fullmatch(piece)
            if slot is None:
                rows.append((piece, "O"))
            else:
                rows += names.rows(slot[1])
        yield _noise(rows, generator)


def _expand(pattern: str, generator: random.Random) -> str:
    return CHOICE.sub(lambda match: generator.choice(match[1].split("|")), pattern)


class _Names:
    """Draws names of one split."""

    def __init__(self, split: str, generator: random.Random) -> None:
        self._random = generator
        self._first = part(words.FIRST_NAMES, split)
        self._last = part(words.SURNAMES, split)
        self._cities = part(words.CITIES, split)
        self._ambiguous = part(words.AMBIGUOUS, split)
        self._onsets = part(words.ONSETS, split)

    def rows(self, slot: str) -> list[Row]:
        """Return one name of type `slot` as tagged words, with its title where it has one."""
        draw = {"PER": self._person, "LOC": self._place, "ORG": self._company}.get(
            slot, self._product
        )
        kind = TYPES[slot]
        name = draw()
        lead: list[Row] = []
        if slot == "PER" and len(name) == 1 and self._random.random() < 0.25:
            lead = [(self._random.choice(["Mr.", "Mrs.", "Dr.", "President", "Coach"]), "O")]
        tags = [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1)
        return lead + list(zip(name, tags, strict=True))

    def _pick(self, pool: list[str]) -> str:
        return self._random.choice(pool)

    def _is_ambiguous(self) -> bool:
        return self._random.random() < AMBIGUOUS_SHARE

    def _person(self) -> list[str]:
        last = self._pick(self._ambiguous if self._is_ambiguous() else self._last)
        first = self._pick(self._ambiguous if self._is_ambiguous() else self._first)
        style = self._random.random()
        if style < 0.5:
            return [first, last]
        if style < 0.7:
            return [first]
        if style < 0.9:
            return [last]
        return [first[0] + ".", last]

    def _place(self) -> list[str]:
        if self._is_ambiguous():
            return [self._pick(self._ambiguous)]
        if self._random.random() < 0.4:
            return [self._pick(self._cities)]
        made = self._pick(self._onsets) + self._pick(words.PLACE_ENDS)
        lead = [self._pick(words.PLACE_LEADS)] if self._random.random() < 0.3 else []
        return [*lead, made]

    def _company(self) -> list[str]:
        if self._is_ambiguous():
            return [self._pick(self._ambiguous)]
        style = self._random.random()
        if style < 0.2:
            return ["University", "of", *self._place()]
        if style < 0.35:
            letters = [onset[0] for onset in self._onsets]
            return ["".join(self._random.choices(letters, k=self._random.choice([3, 4])))]
        base = self._pick(self._onsets) + self._pick(words.COMPANY_ENDS)
        tail = [self._pick(words.COMPANY_TAILS)] if self._random.random() < 0.6 else []
        return [base if style < 0.8 else self._pick(self._last), *tail]

    def _product(self) -> list[str]:
        base = self._pick(self._onsets) + self._pick(words.PRODUCT_ENDS)
        if self._is_ambiguous():
            base = self._pick(self._ambiguous)
        tail = [self._pick(words.PRODUCT_TAILS)] if self._random.random() < 0.5 else []
        return [base, *tail]


def _noise(rows: list[Row], generator: random.Random) -> list[Row]:
    """Change casing of whole sentences and misspell single words; tags stay."""
    style = generator.random()
    noisy = []
    for word, tag in rows:
        if generator.random() < TYPO_SHARE and len(word) > 3 and word.isalpha():
            word = _misspell(word, generator)
        if style < LOWERCASE_SHARE:
            word = word.lower()
        elif style < LOWERCASE_SHARE + UPPERCASE_SHARE:
            word = word.upper()
        noisy.append((word, tag))
    return noisy


def _misspell(word: str, generator: random.Random) -> str:
    at = generator.randrange(1, len(word) - 1)
    change = generator.choice(["swap", "drop", "double"])
    if change == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if change == "drop" else word[:at] + word[at] + word[at:]
