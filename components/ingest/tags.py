"""Tag schemes of named entities: detect what a file uses, convert to BIO2, refuse the rest.

Reading IOB1 as BIO2 ruins nearly every entity, so the scheme is detected over all splits before
a tag is converted. References: Ramshaw & Marcus 1995 (IOB1), Sang & Veenstra 1999 (IOB2 = BIO2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from components.contract import DataError

OUTSIDE = "O"
# One-letter prefixes by scheme; BILOU writes L and U for E and S, BMES writes M for I.
END, SINGLE = {"E", "L"}, {"S", "U"}


@dataclass(slots=True)
class SchemeEvidence:
    """What the tags seen so far allow.

    A bare tag set (no ``B-``/``I-`` prefix) is its own scheme, ``IO``-like; it is read as types
    whose neighbouring equal tags are one entity.
    """

    prefixes: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    opens_with_inside: bool = False  # I-X after O, start or another type: legal in IOB1 only
    redundant_begin: bool = False  # B-X not right after an entity of type X: BIO2 and BIOES
    first_open: str = ""  # where an I- opened an entity, for messages

    def add(self, tags: Sequence[str], where: str) -> None:
        """Take in one sentence's tags.

        Raises:
            DataError: a tag that belongs to no known scheme.
        """
        previous_type: str | None = None
        for tag in tags:
            if tag == OUTSIDE:
                previous_type = None
                continue
            prefix, kind = _split(tag, where)
            self.prefixes.add(prefix)
            self.types.add(kind)
            if prefix == "I" and kind != previous_type:
                self.opens_with_inside = True
                self.first_open = self.first_open or f"{where}: {tag}"
            if prefix == "B" and kind != previous_type:
                self.redundant_begin = True
            previous_type = kind

    def scheme(self) -> str:
        """Return ``BIO2``, ``IOB1`` or ``BIOES``.

        BIO2 data with a few broken entities (I- after O beside B- after O) stays BIO2: `to_bio2`
        then opens an entity at the stray I-, as seqeval's default mode does.
        """
        if self.prefixes & (END | SINGLE | {"M"}):
            return "BIOES"
        if self.opens_with_inside and not self.redundant_begin:
            return "IOB1"
        return "BIO2"

    def merge(self, other: SchemeEvidence) -> None:
        self.prefixes |= other.prefixes
        self.types |= other.types
        self.opens_with_inside |= other.opens_with_inside
        self.redundant_begin |= other.redundant_begin
        self.first_open = self.first_open or other.first_open


def to_bio2(tags: Sequence[str]) -> list[str]:
    """Convert one sentence's tags of any known scheme to BIO2.

    An entity starts at B, S and U, at any tag whose type differs from the one before, and after
    an E, L, S or U; so valid input of each scheme converts exactly and broken input opens an
    entity rather than losing it.
    """
    result = []
    open_type: str | None = None
    for tag in tags:
        if tag == OUTSIDE:
            result.append(tag)
            open_type = None
            continue
        prefix, _, kind = tag.partition("-")
        begins = prefix == "B" or prefix in SINGLE or kind != open_type
        result.append(("B-" if begins else "I-") + kind)
        open_type = None if prefix in END or prefix in SINGLE else kind
    return result


def bio2_labels(types: Iterable[str]) -> list[str]:
    """Return the label list: O first, then B- and I- of each type in alphabetical order."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(types) for prefix in "BI")]


def _split(tag: str, where: str) -> tuple[str, str]:
    prefix, dash, kind = tag.partition("-")
    if not dash or not kind or prefix not in {"B", "I", "M"} | END | SINGLE:
        raise DataError(
            f"{where}: {tag!r} is no tag of a known scheme",
            remedy="use IOB1, BIO2 or BIOES: O, B-type, I-type, E-type, S-type",
        )
    if "," in kind or any(character.isspace() for character in kind):
        raise DataError(
            f"{where}: {tag!r} has several labels or white space in one tag",
            remedy="give each word one label",
        )
    return prefix, kind
