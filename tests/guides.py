"""What the guides tell people to type, and the specs they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import REPOSITORY

FENCE = re.compile(r"^ {0,3}```(\w*)")
PROGRAMS = (
    "suanli", "python", "make", "kubectl", "git", "pip", "mkdocs", "docker", "echo", "cd", "pytest",
)  # fmt: skip
INLINE = re.compile(r"`((?:suanli|python -m|make) [^`\n]+)`")


@dataclass(frozen=True)
class Command:
    """One command line of a guide; `inline` ones stand in a sentence and may leave things out."""

    page: str
    line: int
    words: tuple[str, ...]
    inline: bool

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All guides and the pages at the top."""
    top = [p for p in REPOSITORY.glob("*.md") if p.name != "CHANGELOG.md"]
    return sorted(top) + sorted((REPOSITORY / "docs").rglob("*.md"))


def blocks(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, language, lines) of fenced and of indented blocks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            end = number + 1
            while end < len(lines) and not FENCE.match(lines[end]):
                end += 1
            yield number + 2, fence[1], lines[number + 1 : end]
            number = end + 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and lines[end].startswith("    "):
                end += 1
            yield number + 1, "", [line[4:] for line in lines[number:end]]
            number = end
        else:
            number += 1


def commands() -> list[Command]:
    """Every command of every guide; lines joined by a backslash are one."""
    found = []
    for page in pages():
        name = page.relative_to(REPOSITORY).as_posix()
        for start, language, lines in blocks(page):
            if language not in ("", "sh", "bash", "console"):
                continue
            joined, at = "", start
            for offset, line in enumerate(lines):
                at = at if joined else start + offset
                joined += line
                if joined.endswith("\\"):
                    joined = joined[:-1]
                    continue
                found += _split(name, at, joined)
                joined = ""
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for match in INLINE.finditer(line):
                words = _words(match[1])
                if words:
                    found.append(Command(name, number, words, inline=True))
    return found


def _split(page: str, line: int, text: str) -> Iterator[Command]:
    for part in re.split(r"&&|\|(?!\|)|;", text):
        words = _words(part)
        if words and words[0] in PROGRAMS:
            yield Command(page, line, words, inline=False)


def _words(text: str) -> tuple[str, ...]:
    text = re.sub(r"\s#\s.*$|\s{3,}(writes|needs).*$", "", text)
    text = re.sub(r"<[^<> ]*( [^<>]*)?>", lambda m: m[0].replace(" ", "-"), text)
    text = re.sub(r"\s[<>] ?(\S+)\s*$", "", text)  # redirections
    try:
        words = shlex.split(text.rstrip("& "), comments=True)
    except ValueError:
        return ()
    return tuple(words)
