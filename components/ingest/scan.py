"""First pass over a source: validate every row and keep what later passes decide with.

Memory is bounded: 20 bytes a row (label number, group, text hash) of the first `KEPT_ROWS`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.contract import DataError
from components.ingest.examples import Example, fail
from components.ingest.quality import NEAR_ROWS, sketch
from components.ingest.tags import SchemeEvidence, to_bio2

# Splits of larger sources are drawn row by row, and their repeats are counted among so many rows.
KEPT_ROWS = 4_000_000


@dataclass(slots=True)
class Scan:
    """What one source holds.

    Attributes:
        label_counts: label (tag type's entities for NER) to number of rows (entities).
        first_seen: label to ``file:line`` of its first row, for messages.
        label_numbers: label to its place in order of first sight (text and images).
        row_labels: number of each row's label in order of first sight; NER: 0.
        groups: document or query number of each row; empty for tasks without.
        hashes: 64-bit hash of each row's text.
        near: MinHash sketches of the first rows, joined.
        evidence: tag prefixes and transitions seen (NER).
    """

    rows: int = 0
    words: int = 0
    characters: int = 0
    empty_texts: int = 0
    first_empty: str = ""
    label_counts: dict[str, int] = field(default_factory=dict)
    first_seen: dict[str, str] = field(default_factory=dict)
    label_numbers: dict[str, int] = field(default_factory=dict)
    row_labels: array[int] = field(default_factory=lambda: array("i"))
    groups: array[int] = field(default_factory=lambda: array("q"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    near: bytearray = field(default_factory=bytearray)
    evidence: SchemeEvidence = field(default_factory=SchemeEvidence)


def scan(task: str, examples: Iterable[tuple[Path, Example]], *, labelled: bool = True) -> Scan:
    """Read every example once.

    Raises:
        DataError: no rows, or a row that its task cannot use; names file and line.
    """
    result = Scan()
    take = _sentence if task == "token-classification" else _row
    take = take if labelled else _unlabelled
    path = None
    for path, example in examples:
        result.rows += 1
        take(result, task, path, example)
        if result.rows <= KEPT_ROWS:
            _keep(result, task, example)
        if result.rows <= NEAR_ROWS and task != "image-classification":
            result.near += sketch(example)
    if not result.rows:
        raise DataError(
            f"{path or 'source'}: no rows of data", remedy="check the file and data.format"
        )
    return result


GROUPED = ("token-classification", "text-pair-ranking")
LABELLED = ("text-classification", "image-classification")


def _keep(result: Scan, task: str, example: Example) -> None:
    result.hashes.append(text_hash(task, example))
    if task in GROUPED:
        result.groups.append(example.group or 0)
    if task in LABELLED and example.label is not None:
        result.row_labels.append(result.label_numbers[example.label])


def text_hash(task: str, example: Example) -> int:
    """Hash what the model would see, so equal inputs are equal whatever their label."""
    if task == "image-classification":
        body = example.text if isinstance(example.text, bytes) else Path(example.text).read_bytes()
    elif task == "token-classification":
        body = "\x1f".join(example.text).encode()
    else:
        body = f"{example.text}\x1f{example.pair or ''}".encode()
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big")


def _sentence(result: Scan, task: str, path: Path, example: Example) -> None:
    where = f"{path}:{example.line}"
    result.evidence.add(example.label, where)
    result.words += len(example.text)
    for tag in to_bio2(example.label):
        if tag[0] == "B":
            kind = tag[2:]
            if kind not in result.label_counts:
                result.first_seen[kind] = where
            result.label_counts[kind] = result.label_counts.get(kind, 0) + 1


def _unlabelled(result: Scan, task: str, path: Path, example: Example) -> None:
    if isinstance(example.text, list):
        result.words += len(example.text)
    else:
        result.characters += len(example.text)


def _row(result: Scan, task: str, path: Path, example: Example) -> None:
    if isinstance(example.text, str):
        result.characters += len(example.text) + len(example.pair or "")
        if not example.text.strip() and not (example.pair or "").strip():
            result.empty_texts += 1
            result.first_empty = result.first_empty or f"{path}:{example.line}"
    if task in ("text-classification", "image-classification"):
        label = example.label
        if not label:
            raise fail(path, example.line, "label is empty", remedy="give every row a label")
        if label not in result.label_counts:
            result.first_seen[label] = f"{path}:{example.line}"
            result.label_numbers[label] = len(result.label_numbers)
            result.label_counts[label] = 0
        result.label_counts[label] += 1


def label_list(task: str, train: Scan) -> list[str]:
    """Return the labels in logit order: as numbers when all are numbers, else as text."""
    if task not in ("text-classification", "image-classification"):
        return []
    labels = list(train.label_counts)
    if all(label.lstrip("-").isdigit() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def check_labels(scans: dict[str, Scan]) -> None:
    """Refuse labels that train never shows: no model can predict them.

    Raises:
        DataError: names the first row with such a label.
    """
    known = scans["train"].label_counts
    for split, found in scans.items():
        for label, where in found.first_seen.items():
            if label not in known:
                raise DataError(
                    f"{where}: label {label!r} of the {split} split does not occur in train",
                    remedy=f"train has {', '.join(sorted(known)[:20])}; fix or drop the rows",
                )


CODES = {"validation": 1, "test": 2}


def assign(scan: Scan, fractions: dict[str, float], seed: int) -> np.ndarray:
    """Decide for each row of train whether it goes to validation (1), test (2) or stays (0).

    Stratified by label, or by whole documents or query groups where there are several, so that
    no document stands on both sides. Rows with equal text move together: a duplicate on both
    sides would be leakage.

    Raises:
        DataError: too few rows to take from.
    """
    hashes = np.frombuffer(scan.hashes, np.uint64)
    if scan.rows > len(hashes):
        return draw(np.array(units_of(scan)), fractions, seed)
    several = has_groups(scan)
    _, units = np.unique(scan.groups if several else hashes, return_inverse=True)
    first_row = np.full(units.max() + 1, len(units), np.int64)
    np.minimum.at(first_row, units, np.arange(len(units)))
    unit_label = np.zeros(len(first_row), np.int64)
    if scan.row_labels and not several:
        unit_label = np.frombuffer(scan.row_labels, np.int32)[first_row].astype(np.int64)
    unit_code = np.zeros(len(first_row), np.int8)
    generator = np.random.default_rng(seed)
    for label in range(int(unit_label.max()) + 1):
        members = np.flatnonzero(unit_label == label)
        # In order of first appearance: the numbering of hashes must not matter.
        members = generator.permutation(members[np.argsort(first_row[members])])
        at = 0
        for split, fraction in fractions.items():
            count = min(round(len(members) * fraction), max(0, len(members) - 1 - at))
            unit_code[members[at : at + count]] = CODES[split]
            at += count
    assignment: np.ndarray = unit_code[units]
    for split, fraction in fractions.items():
        if not (assignment == CODES[split]).any():
            raise DataError(
                f"train has {scan.rows} rows: too few to take {fraction:g} of them for {split}",
                remedy=f"give data.{split} a larger fraction or its own uri",
            )
    return assignment


def has_groups(scan: Scan) -> bool:
    """True when there are enough documents or query groups to divide the data by them."""
    return len(set(scan.groups)) >= 20


def units_of(scan: Scan) -> np.ndarray:
    """Return what `draw` decides by for each kept row: its group where there are several."""
    if has_groups(scan):
        return np.frombuffer(scan.groups, np.int64).astype(np.uint64)
    return np.frombuffer(scan.hashes, np.uint64)


def draw(units: np.ndarray, fractions: dict[str, float], seed: int) -> np.ndarray:
    """Draw the split of each unit from its hash alone, for sources of more than `KEPT_ROWS`: no
    table of rows is needed, equal units move together, and at this size the law of large numbers
    stratifies."""
    mixed = units * np.uint64(0x9E3779B97F4A7C15) + np.uint64((2 * seed + 1) & 0xFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    place = (mixed >> np.uint64(40)).astype(np.float64) / float(1 << 24)
    codes, low = np.zeros(len(units), np.int8), 0.0
    for split, fraction in fractions.items():
        codes[(place >= low) & (place < low + fraction)] = CODES[split]
        low += fraction
    return codes
