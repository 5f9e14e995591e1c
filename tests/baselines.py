"""What a model must beat to have learnt anything: majority tags and a list of known names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Row = Sequence[tuple[str, str]]


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return (start, stop, type) of the entities in BIO2 tags."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag[0] != "I":
            found.add((start, place, tags[start][2:]))
            start = None
        if tag[0] == "B":
            start = place
    return found


def f1(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Return micro entity F1."""
    true = predicted = right = 0
    for left, other in zip(gold, found, strict=True):
        wanted, given = spans(left), spans(other)
        true, predicted, right = (
            true + len(wanted),
            predicted + len(given),
            right + len(wanted & given),
        )
    return 2 * right / (true + predicted) if true + predicted else 0.0


def majority_f1(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Each word gets the tag it has most often in train, unknown words the most frequent tag."""
    counts: dict[str, Counter[str]] = {}
    for row in train:
        for word, tag in row:
            counts.setdefault(word.lower(), Counter())[tag] += 1
    most = Counter(tag for row in train for _, tag in row).most_common(1)[0][0]

    def tag(word: str) -> str:
        seen = counts.get(word.lower())
        return seen.most_common(1)[0][0] if seen else most

    return f1([[t for _, t in row] for row in test], [[tag(w) for w, _ in row] for row in test])


def gazetteer_f1(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Mark every longest match of a name that train knows, with its most frequent type."""
    names: dict[tuple[str, ...], Counter[str]] = {}
    for row in train:
        for start, stop, kind in spans([tag for _, tag in row]):
            name = tuple(word.lower() for word, _ in row[start:stop])
            names.setdefault(name, Counter())[kind] += 1
    longest = max(map(len, names))
    found = [_marked([word.lower() for word, _ in row], names, longest) for row in test]
    return f1([[tag for _, tag in row] for row in test], found)


def _marked(
    words: list[str], names: dict[tuple[str, ...], Counter[str]], longest: int
) -> list[str]:
    tags, place = ["O"] * len(words), 0
    while place < len(words):
        for length in range(longest, 0, -1):
            seen = names.get(tuple(words[place : place + length]))
            if seen and place + length <= len(words):
                kind = seen.most_common(1)[0][0]
                tags[place : place + length] = [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
                place += length
                break
        else:
            place += 1
    return tags
