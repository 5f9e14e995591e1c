"""What a person should know of the data before spending money on it: repeats and leakage."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from components.ingest.encode import ranges
from components.ingest.examples import Example

# MinHash (Broder 1997) over word triples: two texts agree in each hash with probability s, their
# Jaccard similarity. Pairs that agree in one whole band are looked at (at s = 0.8: 1 - (1 -
# 0.8^6)^4 = 0.70 of them, at 0.9: 0.95) and count when they agree in `NEAR_SHARE` of all hashes.
BANDS, BAND_HASHES = 4, 6
HASHES = BANDS * BAND_HASHES
NEAR_SHARE = 0.8
SHINGLE_WORDS = 3
PAIRS = (
    ("train", "validation"), ("train", "test"), ("validation", "test"),
    ("unlabelled", "validation"), ("unlabelled", "test"),
)  # fmt: skip
# Near duplicates are looked for among this many rows of each split; exact ones among all.
NEAR_ROWS = 25_000
SKETCHED_WORDS = 256  # a long document is known by its beginning
PAIRS_A_ROW = 16  # candidates looked at for one row and band
_GENERATOR = np.random.default_rng(20_061)
# Multiply-shift hashing (Dietzfelbinger 1997): odd 64-bit factors, the high 32 bits of the product.
_FACTORS = _GENERATOR.integers(1, 1 << 63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_MIXERS = _FACTORS[:BAND_HASHES]


def sketch(example: Example) -> bytes:
    """Return the text's `HASHES` minimum hashes, as the bytes of uint32 numbers."""
    words = example.text if isinstance(example.text, list) else example.text.split()
    if len(words) < SHINGLE_WORDS + 2:
        words = list(" ".join(words))  # short or Chinese text: triples of characters
    text = [word.casefold() for word in words[:SKETCHED_WORDS]]
    shingles = {
        zlib.crc32(" ".join(text[n : n + SHINGLE_WORDS]).encode())
        for n in range(max(1, len(text) - SHINGLE_WORDS + 1))
    }
    values = np.fromiter(shingles, np.uint64, len(shingles))
    hashed = (values[:, None] * _FACTORS) >> np.uint64(32)
    return hashed.min(axis=0).astype(np.uint32).tobytes()


def report(
    hashes: dict[str, np.ndarray], near: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """Count duplicates within and between splits.

    Args:
        hashes: split to 64-bit text hashes of all its rows.
        near: split to sketches (rows, `HASHES`) of the rows that were looked at.

    Returns:
        The figures for the manifest, and warnings in words.
    """
    figures: dict[str, Any] = {"duplicates": {}, "leakage": {}}
    warnings = []
    for split, values in hashes.items():
        repeated = len(values) - len(np.unique(values))
        figures["duplicates"][split] = {"exact": repeated, "near": _repeats(near.get(split))}
        if repeated:
            warnings.append(f"{split}: {repeated:,} of {len(values):,} rows repeat another exactly")
    for left, right in PAIRS:
        if left not in hashes or right not in hashes:
            continue
        exact = int(np.isin(hashes[right], hashes[left]).sum())
        similar = _shared(near.get(left), near.get(right))
        figures["leakage"][f"{left}/{right}"] = {"exact": exact, "near": similar}
        if exact or similar:
            warnings.append(
                f"leakage: of {len(hashes[right]):,} {right} rows {exact:,} stand in {left} too"
                + (f", {similar:,} nearly so" if similar > exact else "")
            )
    return figures, warnings


def _repeats(sketches: np.ndarray | None) -> int:
    """Count rows that are nearly equal to an earlier row."""
    if sketches is None or not len(sketches):
        return 0
    return int(_near(sketches, sketches, earlier_only=True).sum())


def _shared(left: np.ndarray | None, right: np.ndarray | None) -> int:
    """Count rows of `right` that are nearly equal to a row of `left`."""
    if left is None or right is None or not len(left) or not len(right):
        return 0
    return int(_near(left, right, earlier_only=False).sum())


def _near(left: np.ndarray, right: np.ndarray, *, earlier_only: bool) -> np.ndarray:
    found = np.zeros(len(right), bool)
    for band in range(BANDS):
        part = slice(band * BAND_HASHES, (band + 1) * BAND_HASHES)
        left_keys = (left[:, part].astype(np.uint64) * _MIXERS).sum(axis=1)
        right_keys = (right[:, part].astype(np.uint64) * _MIXERS).sum(axis=1)
        order = np.argsort(left_keys, kind="stable")
        low = np.searchsorted(left_keys[order], right_keys, side="left")
        high = np.searchsorted(left_keys[order], right_keys, side="right")
        counts = np.minimum(high - low, PAIRS_A_ROW)
        rows = np.repeat(np.arange(len(right)), counts)
        others = order[ranges(low, counts)]
        agree = (left[others] == right[rows]).mean(axis=1) >= NEAR_SHARE
        if earlier_only:
            agree &= others < rows
        found[rows[agree]] = True
    return found
