"""The second sentence of a receipt: time and money, and money against the naive plan.

The same words for page, terminal and summary; a figure stays exact until it is shown.
"""

from __future__ import annotations

from typing import Any

from pipelines.reporting import figures

Json = dict[str, Any]
Part = str | tuple[float, figures.Formatter]


def deck(report: Json) -> list[Part]:
    """Return the sentence in parts, words and figures; empty before the first step ended."""
    verdict, took = report["verdict"], report["prediction"]["measured_seconds"]
    if took is None:
        return []
    done, spent = report["progress"], report["cost"]["measured_usd"]
    here = report["decision"]["node"] == "here"
    if report["error"]:
        parts: list[Part] = [(done["done"], figures.count), " of "]
        parts += [(done["steps"], figures.count), " steps finished in "]
    else:
        parts = ["Made on this machine in " if here else "Made in "]
    parts.append((took, figures.seconds))
    if spent is not None:
        parts += [" for ", (spent, figures.usd)]
    times = verdict["times_cheaper_than_one_node"]
    if report["error"]:
        return [*parts, ". A new run of the same spec takes them over and repeats none."]
    if figures.is_number(times):
        return [*parts, ", ", *_cheaper(times, verdict["one_node_usd"]), "."]
    return [*parts, ".", *_elsewhere(report["unrestricted"])]


def _cheaper(times: float, naive: float) -> list[Part]:
    if times < 1:
        return ["against ", (naive, figures.usd), " for one node kept throughout"]
    return [
        (times, figures.ratio),
        " cheaper than one node kept throughout (",
        (naive, figures.usd),
        ")",
    ]


def _elsewhere(free: Json | None) -> list[Part]:
    """What any hardware would have cost, for a run tied to a machine without a price."""
    if not free or not figures.is_number((free["usd"] or {}).get("value")):
        return []
    parts: list[Part] = [" With any hardware it would cost ", (free["usd"]["value"], figures.usd)]
    if figures.is_number(free["times_cheaper"]):
        parts += [", ", *_cheaper(free["times_cheaper"], free["one_node_usd"])]
    return [*parts, "."]


def as_text(parts: list[Part]) -> str:
    """The sentence for a terminal."""
    return "".join(part if isinstance(part, str) else part[1](part[0]) for part in parts)
