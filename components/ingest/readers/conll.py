"""CoNLL files: one word a line, sentences apart by blank lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.contract import SpecError
from components.ingest.examples import Example, Examples, fail
from components.ingest.readers.lines import read_lines

DOCUMENT_MARK = "-DOCSTART-"
# CoNLL-U style metadata that opens a document; other comments are skipped.
DOCUMENT_COMMENTS = ("# newdoc", "#begin document", "# begin document")
WORD_LIMIT_CHARACTERS = 10_000


def read_conll(path: Path, columns: dict[str, Any], *, labelled: bool = True) -> Examples:
    """Yield the sentences of a CoNLL file.

    A line of white space only ends a sentence (WNUT-17's training file separates by a tab).
    Columns are separated by tabs when the first row has one, else by runs of blanks. A line that
    starts with ``# `` or is ``#`` alone, at the start of a sentence, is a comment: a lone ``#``
    as a word has its tag in the same row, so it keeps its columns.

    Args:
        path: the file.
        columns: ``{tokens: 0, labels: -1}``, positions of the two columns.
        labelled: without, tags are read over, and need not be there.

    Raises:
        DataError: a row whose number of columns differs from the first row's, an empty word.
        SpecError: a column position outside the rows.
    """
    reader = _Reader(path, columns, labelled)
    words: list[str] = []
    tags: list[str] = []
    document, document_has_words, start = 0, False, 0
    for number, line in read_lines(path):
        if not line.strip():
            mark = "blank"
        elif line.startswith(DOCUMENT_MARK) or (not words and line.startswith(DOCUMENT_COMMENTS)):
            mark = "document"
        elif not words and reader.is_comment(line):
            continue
        else:
            mark = ""
        if mark:
            if words:
                yield Example(start, words, None, tags, document)
                words, tags = [], []
            if mark == "document" and document_has_words:
                document, document_has_words = document + 1, False
            continue
        if not words:
            start, document_has_words = number, True
        word, tag = reader.row(line, number)
        words.append(word)
        tags.append(tag)
    if words:
        yield Example(start, words, None, tags, document)


class _Reader:
    """Splits rows; the first row fixes the separator and the number of columns."""

    def __init__(self, path: Path, columns: dict[str, Any], labelled: bool) -> None:
        self._path = path
        self._labelled = labelled
        self._token = _position(columns, "tokens", 0)
        self._label = _position(columns, "labels", -1)
        self._separator: str | None = None
        self._width = 0

    def is_comment(self, line: str) -> bool:
        if not line.startswith("#") or (len(line) > 1 and line[1] not in " \t"):
            return False
        # "# O" in a two-column file is the word "#"; "# sent_id = 3" and "# text" are comments.
        cells = self._split(line)
        if len(cells) != (self._width or len(cells)) or len(cells) < 2:
            return True
        tag = cells[self._label] if -len(cells) <= self._label < len(cells) else ""
        return tag != "O" and tag[1:2] != "-"

    def row(self, line: str, number: int) -> tuple[str, str]:
        if not self._width:
            self._first(line, number)
        cells = self._split(line)
        if len(cells) != self._width:
            raise fail(
                self._path,
                number,
                f"{len(cells)} columns where the first row has {self._width}: {_shown(line)}",
                remedy="each row needs the same columns; blank lines separate sentences",
            )
        word, tag = cells[self._token].strip(" "), cells[self._label].strip(" ")
        if not word or (self._labelled and not tag):
            what = "word" if not word else "label"
            raise fail(self._path, number, f"empty {what}: {_shown(line)}")
        if len(word) > WORD_LIMIT_CHARACTERS:
            raise fail(self._path, number, f"word of {len(word)} characters")
        return word, tag

    def _split(self, line: str) -> list[str]:
        if self._separator:
            return line.rstrip(" \t").split(self._separator)
        # Only ASCII blanks: a no-break or ideographic space may be part of a word.
        return [cell for cell in line.replace("\t", " ").split(" ") if cell]

    def _first(self, line: str, number: int) -> None:
        self._separator = "\t" if "\t" in line.strip() else None
        self._width = len(self._split(line))
        if self._width < 2 and self._labelled:
            raise fail(
                self._path,
                number,
                f"one column only ({_shown(line)}): a word and its label are needed",
                remedy="give a file with labels",
            )
        for name, position in (("tokens", self._token), ("labels", self._label)):
            if not -self._width <= position < self._width:
                raise SpecError(
                    f"data.columns.{name}: {position} is outside the {self._width} columns of "
                    f"{self._path}:{number}"
                )


def _position(columns: dict[str, Any], name: str, default: int) -> int:
    value = columns.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(
            f"data.columns.{name}: {value!r} is not a position",
            remedy="CoNLL columns are numbered from 0; -1 is the last",
        )
    return value


def _shown(line: str, limit: int = 60) -> str:
    return repr(line if len(line) <= limit else line[:limit] + "…")
