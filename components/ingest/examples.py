"""The one row type that every reader yields and every encoder takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from components.contract import DataError


class Example(NamedTuple):
    """One row of data before tokenisation.

    Attributes:
        line: where it starts in its file (1-based line, or row for formats without lines).
        text: token-classification: list of words; image-classification: file path or image bytes;
            causal-lm: the prompt; else the text.
        pair: second text, or causal-lm's completion, else None.
        label: token-classification: list of tags, one a word; text and images: label's name;
            ranking: relevance; causal-lm: None.
        group: token-classification: document number; ranking: the query's group, else None.
    """

    line: int
    text: Any
    pair: str | None = None
    label: Any = None
    group: Any = None


# A file's examples; readers raise DataError naming file and line.
Examples = Iterator[Example]

# No word, cell or line of real text comes near it; a file without line ends would fill memory.
LINE_LIMIT_BYTES = 16 << 20


def fail(path: Path | str, line: int, problem: str, *, remedy: str = "") -> DataError:
    """Return a DataError that names file and line."""
    return DataError(f"{path}:{line}: {problem}", remedy=remedy)
