"""HTML that cannot be broken by what it shows.

Only `Markup` goes into the page as it is; every other value is escaped on its way in.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pipelines.reporting import figures

# C0 and C1 controls are errors in HTML, lone surrogates cannot be encoded, and bidirectional
# overrides reorder the text around them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufeff]"
)
LONG_NAME = 28  # characters beyond which a name may break over lines
_VOID = {"br", "hr", "img", "link", "meta", "path", "line", "rect", "circle", "polyline"}


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Return `value` as HTML text that is also safe inside a quoted attribute."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(plain(value), quote=True))


def plain(value: object) -> str:
    """Return `value` as text without characters that HTML or a terminal must not get."""
    return _UNSAFE.sub("\ufffd", str(value))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """Concatenate `parts`, escaping those that are not markup."""
    return Markup(separator.join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Attribute names are given as Python identifiers: a trailing underscore is dropped, the others
    become hyphens; True gives a bare attribute, None and False give none.
    """
    written = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {attribute}")
        elif value is not None and value is not False:
            written.append(f' {attribute}="{escape(value)}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def name(value: object) -> Markup:
    """A name that came from outside (label, node, run), isolated from the text around it."""
    text = plain(value)
    long = len(text) > LONG_NAME
    return tag("bdi", text if text.strip() else f"“{text}”", class_="long" if long else None)


def code(value: object) -> Markup:
    """A name that is typed by people: command, file, hash."""
    return tag("code", value)


def number(value: object, formatter: figures.Formatter) -> Markup:
    """A number of report.json: readable text, with the exact value kept in the element.

    Its spaces do not break, so that a unit never stands alone on the next line.
    """
    if not figures.is_number(value):
        return tag("span", figures.MISSING, class_="none")
    words = figures.show(value, formatter).replace(" ", "\u00a0")
    return tag("data", words, value=json.dumps(value))


def table(
    caption: str,
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    row_classes: list[str] | None = None,
    text: Collection[int] = (0,),
    class_: str = "",
    sortable: bool = False,
    cards: bool = False,
) -> Markup:
    """A table whose first column heads its rows; columns not in `text` hold numbers.

    The caption is read by screen readers; the scroll box can be reached by keyboard. With `cards`
    each row becomes a card of named figures where the page is too narrow for its columns.
    """
    sides = ["text" if index in text else "figure" for index in range(len(heads))]
    head = [tag("th", h, scope="col", class_=s) for h, s in zip(heads, sides, strict=True)]
    body = []
    for index, row in enumerate(rows):
        cells = [tag("th", row[0], scope="row", class_="text")]
        cells += [
            tag("td", c, class_=s, data_label=h if cards else None)
            for c, s, h in zip(row[1:], sides[1:], heads[1:], strict=True)
        ]
        body.append(tag("tr", *cells, class_=row_classes[index] if row_classes else None))
    inner = tag(
        "table",
        tag("caption", caption, class_="hidden"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        class_=f"{class_} {'cards' if cards else ''}".strip() or None,
        data_sortable=sortable,
    )
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def embedded_json(document: Any) -> Markup:
    """JSON that can stand inside a script element: no ``<``, no line separators."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
