"""From a row of named or numbered cells to an `Example`, by task and the spec's columns."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.contract import SpecError
from components.ingest.examples import Example, fail

# Names tried, in this order, when the spec's data.columns does not name the column.
DEFAULT_NAMES: dict[str, tuple[str, ...]] = {
    "tokens": ("tokens", "words"),
    "labels": ("labels", "tags", "ner_tags"),
    "text": ("text", "sentence", "query", "question"),
    "text_pair": ("text_pair", "passage", "document", "answer"),
    "label": ("label", "category", "intent", "class", "relevance", "score"),
    "group": ("group", "query_id", "qid"),
    "prompt": ("prompt", "instruction", "question"),
    "completion": ("completion", "response", "answer", "output"),
}
# Not a task of its own: texts without labels, for any task (unlabelled.py).
UNLABELLED_TASK = "unlabelled"
# Positions for rows that are lists, as in CLINC150's [text, intent].
DEFAULT_POSITIONS = {"text": 0, "label": 1, "tokens": 0, "labels": 1, "prompt": 0, "completion": 1}
NEEDED = {
    "token-classification": ("tokens", "labels"),
    "text-classification": ("text", "label"),
    "text-pair-ranking": ("text", "text_pair", "label", "group"),
    "causal-lm": ("prompt", "completion"),
    UNLABELLED_TASK: ("text",),
}
CELL_LIMIT_CHARACTERS = 4 << 20

Row = Mapping[str, Any] | Sequence[Any]


class RowMapper:
    """Maps the rows of one file; the first row fixes where each field is found."""

    def __init__(
        self,
        path: Path,
        task: str,
        columns: dict[str, Any],
        *,
        label_names: dict[str, list[str]] | None = None,
    ) -> None:
        """
        Args:
            label_names: names of integer labels by column, as Hugging Face's ClassLabel has them.
        """
        self._path = path
        self._task = task
        self._columns = columns
        self._label_names = label_names or {}
        self._keys: dict[str, str | int] = {}
        self._groups: dict[str, int] = {}
        self._make: Callable[[Row, int], Example] = {
            "token-classification": self._words,
            "text-classification": self._text,
            "text-pair-ranking": self._pair,
            "causal-lm": self._completion,
            UNLABELLED_TASK: self._plain,
        }[task]
        self._names = DEFAULT_NAMES
        if task == UNLABELLED_TASK:
            names = (*DEFAULT_NAMES["text"], *DEFAULT_NAMES["tokens"])
            self._names = {**DEFAULT_NAMES, "text": names}

    def example(self, row: Row, line: int) -> Example:
        """Return the row as an `Example`.

        Raises:
            SpecError: a column that the file does not have.
            DataError: a cell of the wrong type.
        """
        if isinstance(row, str | bytes) or not isinstance(row, Mapping | Sequence):
            raise fail(self._path, line, f"row is {_kind(row)}, not an object or a list")
        if not self._keys:
            self._keys = self._find_columns(row, line)
        return self._make(row, line)

    # -- by task ---------------------------------------------------------------------------------

    def _words(self, row: Row, line: int) -> Example:
        words, tags = self._cell(row, "tokens", line), self._cell(row, "labels", line)
        for name, value in (("tokens", words), ("labels", tags)):
            if not isinstance(value, list) or not value:
                raise fail(self._path, line, f"{name} is {_kind(value)}, not a filled list")
        if len(words) != len(tags):
            raise fail(self._path, line, f"{len(words)} words but {len(tags)} labels")
        names = self._label_names.get(str(self._keys["labels"]))
        words = [self._string(word, "tokens", line) for word in words]
        tags = [self._label(tag, "labels", line, names) for tag in tags]
        if "" in words or "" in tags:
            raise fail(self._path, line, "empty word or label")
        return Example(line, words, None, tags, 0)

    def _text(self, row: Row, line: int) -> Example:
        names = self._label_names.get(str(self._keys["label"]))
        return Example(
            line,
            self._string(self._cell(row, "text", line), "text", line),
            None,
            self._label(self._cell(row, "label", line), "label", line, names),
        )

    def _pair(self, row: Row, line: int) -> Example:
        value = self._cell(row, "label", line)
        try:
            relevance = float(value)
        except (TypeError, ValueError):
            relevance = math.nan
        if not math.isfinite(relevance):
            raise fail(self._path, line, f"label {_shown(value)} is not a finite number")
        key = str(self._cell(row, "group", line))
        return Example(
            line,
            self._string(self._cell(row, "text", line), "text", line),
            self._string(self._cell(row, "text_pair", line), "text_pair", line),
            relevance,
            self._groups.setdefault(key, len(self._groups)),
        )

    def _completion(self, row: Row, line: int) -> Example:
        prompt = self._cell(row, "prompt", line) if "prompt" in self._keys else ""
        completion = self._string(self._cell(row, "completion", line), "completion", line)
        return Example(line, self._string(prompt, "prompt", line), completion)

    def _plain(self, row: Row, line: int) -> Example:
        value = self._cell(row, "text", line)
        if isinstance(value, list):
            return Example(line, [self._string(word, "text", line) for word in value])
        return Example(line, self._string(value, "text", line))

    # -- cells -----------------------------------------------------------------------------------

    def _find_columns(self, row: Row, line: int) -> dict[str, str | int]:
        wanted = dict.fromkeys(NEEDED[self._task])
        if self._task == "causal-lm" and not self._present(row, "prompt"):
            wanted.pop("prompt")
            if not self._present(row, "completion"):
                # Plain running text: all of it is learnt.
                self._columns = {"completion": self._columns.get("text", "text"), **self._columns}
        return {field: self._find(row, field, line) for field in wanted}

    def _present(self, row: Row, field: str) -> bool:
        if field in self._columns:
            return True
        if isinstance(row, Mapping):
            return any(name in row for name in DEFAULT_NAMES[field])
        return len(row) > DEFAULT_POSITIONS[field]

    def _find(self, row: Row, field: str, line: int) -> str | int:
        key = self._columns.get(field)
        if not isinstance(row, Mapping):
            key = DEFAULT_POSITIONS.get(field) if key is None else key
            if isinstance(key, bool) or not isinstance(key, int):
                raise SpecError(
                    f"{self._place(field)}: rows of {self._path} are lists, so give a position"
                )
            return key
        names = [str(name) for name in row]
        if key is None:
            for name in self._names[field]:
                if name in row:
                    return name
        elif isinstance(key, int) and -len(names) <= key < len(names):
            return names[key]
        elif isinstance(key, str) and _dig(row, key) is not _MISSING:
            return key
        raise self._no_column(field, key, names, line)

    def _place(self, field: str) -> str:
        """Where in the spec the column is named."""
        return (
            "data.unlabelled.column" if self._task == UNLABELLED_TASK else f"data.columns.{field}"
        )

    def _no_column(self, field: str, key: Any, names: list[str], line: int) -> SpecError:
        near = difflib.get_close_matches(str(key or field), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"set {self._place(field)} to one of them"
        return SpecError(
            f"{self._place(field)}: {self._path}:{line} has no column "
            f"{key if key is not None else field!r}; it has {', '.join(names[:12]) or 'none'}",
            remedy=hint,
        )

    def _cell(self, row: Row, field: str, line: int) -> Any:
        key = self._keys[field]
        if isinstance(row, Mapping):
            value = _dig(row, str(key))
        else:
            position = int(key)
            inside = -len(row) <= position < len(row)
            value = row[position] if inside else _MISSING
        if value is _MISSING or value is None:
            raise fail(self._path, line, f"{field} is missing", remedy="fill it or drop the row")
        return value

    def _string(self, value: Any, field: str, line: int) -> str:
        if not isinstance(value, str):
            raise fail(self._path, line, f"{field} is {_kind(value)}, not text: {_shown(value)}")
        if len(value) > CELL_LIMIT_CHARACTERS:
            raise fail(self._path, line, f"{field} has {len(value):,} characters")
        if "\0" in value:
            raise fail(self._path, line, f"{field} holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise fail(self._path, line, f"{field} holds half a surrogate pair") from None
        return value

    def _label(self, value: Any, field: str, line: int, names: list[str] | None) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            if names is None:
                return str(value)
            if not 0 <= value < len(names):
                raise fail(self._path, line, f"{field} {value} is outside 0..{len(names) - 1}")
            return names[value]
        return self._string(value, field, line).strip()


_MISSING = object()


def _dig(row: Mapping[str, Any], key: str) -> Any:
    """Follow ``a.b.c`` unless the row has that very key."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
