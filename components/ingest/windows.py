"""Cut sentences that are too long for the model into overlapping windows at word boundaries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

# Share of a window that repeats words scored elsewhere, so that words at a seam keep context.
OVERLAP_FRACTION = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Rows cut from sentences: word ranges [start, stop) with the part that is scored."""

    start: np.ndarray
    stop: np.ndarray
    score_start: np.ndarray
    score_stop: np.ndarray
    example: np.ndarray


def cut_windows(counts: np.ndarray, lengths: np.ndarray, capacity: int) -> Windows:
    """Cut sentences of more than `capacity` tokens at word boundaries, overlapping.

    Args:
        counts: words of each sentence.
        lengths: tokens of each word, all at most `capacity`.
    """
    stops = np.cumsum(counts)
    starts = stops - counts
    ends = np.concatenate([[0], np.cumsum(lengths)])
    long = (ends[stops] - ends[starts]) > capacity
    if not long.any():
        example = np.arange(len(counts))
        return Windows(
            start=starts, stop=stops, score_start=starts, score_stop=stops, example=example
        )
    rows: list[tuple[int, int, int, int, int]] = []
    for example, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        if long[example]:
            rows += [(*w, example) for w in _slide(start, stop, ends, capacity)]
        else:
            rows.append((start, stop, start, stop, example))
    columns = np.array(rows, np.int64).T
    return Windows(
        start=columns[0],
        stop=columns[1],
        score_start=columns[2],
        score_stop=columns[3],
        example=columns[4],
    )


def _slide(
    start: int, stop: int, ends: np.ndarray, capacity: int
) -> list[tuple[int, int, int, int]]:
    """Return (start, stop, score_start, score_stop) of each window over words [start, stop)."""
    spans = []
    at = start
    overlap = int(capacity * OVERLAP_FRACTION)
    while True:
        last = int(np.searchsorted(ends, ends[at] + capacity, side="right")) - 1
        spans.append((at, min(last, stop)))
        if last >= stop:
            break
        # Step back by `overlap` tokens, yet always forward by at least one word.
        at = max(at + 1, int(np.searchsorted(ends, ends[last] - overlap, side="left")))
    # Each seam is scored half by the window before, half by the one after.
    seams = [(left[1] + right[0] + 1) // 2 for left, right in itertools.pairwise(spans)]
    bounds = [start, *seams, stop]
    return [(*span, bounds[n], bounds[n + 1]) for n, span in enumerate(spans)]
