"""Terminal tables that leave out their least important columns where the terminal is narrow.

A number is never cut or broken over two lines; names may wrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipelines.reporting.markup import plain

ALWAYS = ""
UNBOUNDED = 1000  # characters: wider than any table here


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of words, or of right-aligned figures; columns of one `group` go together."""

    head: str
    words: bool = False
    group: str = ALWAYS


class Fitted:
    """A table of `columns`. `groups` names the optional ones, the most important first.

    `below` holds the lines that say in words what a group's columns would have said.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        groups: Sequence[str] = (),
        below: dict[str, list[Text]] | None = None,
    ) -> None:
        self._columns = list(columns)
        self._groups = groups
        self._below = below or {}
        self._rows: list[Sequence[Text] | None] = []  # None is a rule

    def add_row(self, *cells: Text) -> None:
        """Add a row with a cell for every column, shown or not."""
        assert len(cells) == len(self._columns)
        self._rows.append(cells)

    def add_rule(self) -> None:
        self._rows.append(None)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        kept, unbounded = {ALWAYS}, options.update(width=UNBOUNDED)
        for group in self._groups:
            wider = self._table(kept | {group})
            if Measurement.get(console, unbounded, wider).maximum <= options.max_width:
                kept.add(group)
        yield self._table(kept)
        for group, lines in self._below.items():
            if group not in kept:
                yield from lines

    def _table(self, kept: set[str]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
        shown = [index for index, c in enumerate(self._columns) if c.group in kept]
        for index in shown:
            column = self._columns[index]
            made.add_column(
                column.head,
                justify="left" if column.words else "right",
                no_wrap=not column.words,
                overflow="fold",
            )
        for row in self._rows:
            if row is None:
                made.add_section()
            else:
                made.add_row(*(row[index] for index in shown))
        return made


def text(value: object, style: str = "") -> Text:
    """One line of outside text: never markup, no control characters."""
    return Text(" ".join(plain(value).split()), style=style)
