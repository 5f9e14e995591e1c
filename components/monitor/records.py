"""One line of input becomes one text with its subjects, or a reason why not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

# Fields that hold text, subject and identity, unless the caller names them.
TEXT_FIELDS = ("text", "headline", "title")
SUBJECT_FIELDS = ("subject", "company", "ticker", "symbol")
ID_FIELD = "id"
MOST_CHARACTERS = 100_000
MOST_SUBJECT_CHARACTERS = 200
NO_SUBJECT = "(none)"


class MalformedLine(ValueError):
    """A line that holds no text; the message is the reason it is counted under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A text, whom it is about, and its identity where it has one."""

    text: str
    subjects: tuple[str, ...]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Names of the fields to read; None takes the first of the usual ones."""

    text: str | None = None
    subject: str | None = None

    def parse(self, line: bytes, *, plain_subject: str | None = None) -> Record:
        """Read one line.

        Args:
            line: without its newline.
            plain_subject: the line is the text itself, about this subject.

        Raises:
            MalformedLine: it is not a record.
        """
        try:
            body = line.decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedLine("not UTF-8") from None
        if plain_subject is not None:
            return Record(text=_text(body.strip()), subjects=(plain_subject,))
        try:
            value = json.loads(body.removeprefix("\ufeff"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise MalformedLine("not JSON") from None
        if not isinstance(value, dict):
            raise MalformedLine("not a JSON object")
        names = (self.text,) if self.text else TEXT_FIELDS
        text = next((value[n] for n in names if value.get(n) is not None), None)
        return Record(text=_text(text), subjects=self._subjects(value), id=_identity(value))

    def _subjects(self, value: dict[str, Any]) -> tuple[str, ...]:
        names = (self.subject,) if self.subject else SUBJECT_FIELDS
        found = next((value[n] for n in names if value.get(n) is not None), NO_SUBJECT)
        subjects = found if isinstance(found, list) else [found]
        for subject in subjects:
            if not isinstance(subject, str) or not 0 < len(subject) <= MOST_SUBJECT_CHARACTERS:
                raise MalformedLine("subject is not a short text")
            _encodable(subject)
        return tuple(dict.fromkeys(subjects)) or (NO_SUBJECT,)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedLine("no text")
    if not value.strip():
        raise MalformedLine("empty text")
    if len(value) > MOST_CHARACTERS:
        raise MalformedLine("text too long")
    _encodable(value)
    return value


def _identity(value: dict[str, Any]) -> str | None:
    found = value.get(ID_FIELD)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise MalformedLine("id is neither text nor a number")
    if isinstance(found, str):
        _encodable(found)
    return str(found)


def _encodable(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedLine("half a surrogate pair") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
