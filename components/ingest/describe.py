"""Statistics and warnings of a dataset, from its scans."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from components.ingest import quality
from components.ingest.scan import Scan
from components.lib.dataset import SPLITS


def describe(
    scans: dict[str, Scan], codes: np.ndarray | None, redacted: Counter[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return statistics and warnings for the manifest.

    Args:
        codes: split number of each kept row of train's source (0 train, 1 validation, 2 test),
            or None when every row is train.
    """
    hashes, near = {}, {}
    for split, found in scans.items():
        values = np.frombuffer(found.hashes, np.uint64)
        keys = np.frombuffer(found.near, np.uint32).reshape(-1, quality.HASHES)
        keys = keys[: len(values)]
        if split == "train" and codes is not None:
            for code, part in enumerate(SPLITS):
                if part == "train" or (codes == code).any():
                    hashes[part] = values[codes == code]
                    near[part] = keys[codes[: len(keys)] == code]
        else:
            hashes[split], near[split] = values, keys
    figures, warnings = quality.report(hashes, near)
    figures["rows_compared"] = {split: len(values) for split, values in hashes.items()}
    figures["splits"] = {
        split: {
            "label_counts": dict(sorted(found.label_counts.items())),
            "rows": found.rows,
            "words": found.words,
            "characters": found.characters,
        }
        for split, found in scans.items()
    }
    if redacted:
        figures["redacted"] = dict(sorted(redacted.items()))
    for split, found in scans.items():
        if found.empty_texts:
            warnings.append(
                f"{split}: {found.empty_texts:,} rows have no text, first {_place(found)}"
            )
        warnings += _rare(split, found)
    return figures, warnings


def _place(found: Scan) -> str:
    """File name and line: the folder is of no concern to readers of the artifact."""
    return found.first_empty.rsplit("/", 1)[-1]


def _rare(split: str, found: Scan) -> list[str]:
    """Warn of labels too rare to learn."""
    rare = sorted(label for label, count in found.label_counts.items() if count < 5)
    if split != "train" or not rare:
        return []
    shown = ", ".join(rare[:10]) + (" …" if len(rare) > 10 else "")
    return [f"train: fewer than 5 of {shown}"]
