"""Sentences with what stands around them in their document, as BERT's authors tagged CoNLL-2003
("maximal document context", Devlin et al. 2019, 5.3)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.contract import IGNORED_LABEL, DataError

if TYPE_CHECKING:
    from components.lib.dataset import Split


def with_context(split: Split, max_length: int) -> Split:
    """Fill each sentence up to `max_length` tokens with its document's text before and after it.

    Half of the room goes to each side, and what one side can't use to the other. Context is read
    and not scored: its labels are ignored. Windows of a sentence that was too long are full and
    stay as they are; as a neighbour's context their overlap is read twice.

    Raises:
        DataError: the data names no documents.
    """
    document = split.columns["document"]
    if split.rows > 1 and len(np.unique(document)) == 1:
        raise DataError(
            f"training.document_context: the {split.name} split names no documents",
            remedy="mark them with -DOCSTART- lines, or set document_context: false",
        )
    lead, trail = _special_tokens(split)
    own = split.lengths.astype(np.int64) - lead - trail
    # All documents' texts, one after another: a sentence and its context are one piece of it.
    order = np.argsort(document, kind="stable")
    stream = _ranges(split.offsets[:-1][order] + lead, own[order])
    start = np.empty(split.rows, np.int64)
    start[order] = np.cumsum(own[order]) - own[order]
    _, first, inverse = np.unique(document[order], return_index=True, return_inverse=True)
    opens = start[order][first]
    closes = np.append(opens[1:], len(stream))
    number = np.empty(split.rows, np.int64)
    number[order] = inverse
    before, after = start - opens[number], closes[number] - start - own
    room = np.maximum(max_length - split.lengths, 0)
    left = np.minimum(before, room // 2)
    right = np.minimum(after, room - left)
    left = np.minimum(before, room - right)

    lengths = left + own + right + lead + trail
    offsets = np.append(0, np.cumsum(lengths))
    source = np.empty(offsets[-1], np.int64)
    source[_ranges(offsets[:-1] + lead, left + own + right)] = stream[
        _ranges(start - left, left + own + right)
    ]
    source[_ranges(offsets[:-1], np.full(split.rows, lead))] = _ranges(
        split.offsets[:-1], np.full(split.rows, lead)
    )
    source[_ranges(offsets[1:] - trail, np.full(split.rows, trail))] = _ranges(
        split.offsets[1:] - trail, np.full(split.rows, trail)
    )
    scored = np.zeros(offsets[-1], bool)
    scored[_ranges(offsets[:-1] + lead + left, own)] = True
    columns = dict(split.columns)
    for name in ("labels", "token_type_ids"):
        if name in columns:
            columns[name] = columns[name][source]
    columns["labels"] = np.where(scored, columns["labels"], IGNORED_LABEL).astype(np.int32)
    return dataclasses.replace(
        split,
        offsets=offsets,
        input_ids=split.input_ids[source],
        lengths=lengths.astype(np.int32),
        columns=columns,
    )


def _special_tokens(split: Split) -> tuple[int, int]:
    """How many tokens the tokenizer puts before and after a sentence: 1 where all rows agree."""
    full = split.lengths > 1
    first, last = split.offsets[:-1][full], split.offsets[1:][full] - 1
    ids, labels = split.input_ids, split.columns["labels"]

    def same(index: NDArray[Any]) -> int:
        agree = len(index) > 1 and len(np.unique(ids[index])) == 1
        return int(agree and bool((labels[index] == IGNORED_LABEL).all()) and bool(full.all()))

    return same(first), same(last)


def _ranges(starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """start, start + 1 … of each range, range after range."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
