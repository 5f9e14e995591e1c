"""Financial headlines with a company and a sentiment: kind ``headlines`` (text, label, subject)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from components.ingest.made.pools import lines, part

ROWS = {"train": 2400, "validation": 600, "test": 1000}
SHARES = {"negative": 0.15, "positive": 0.2, "neutral": 0.65}
PATTERNS = {
    "negative": """
        [c] shares slump after weak quarter
        [c] cuts forecast as orders fall
        [c] to close [number] plants
        regulator fines [c] for misleading clients
        [c] loses largest customer
        analysts downgrade [c] to sell
        [c] warns of a loss this year
        strike halts work at [c]
        [c] recalls products after fires
        profit at [c] drops by [number] percent
        [c] chief resigns amid inquiry
        [c] sinks to lowest in [number] months
        court rules against [c] in patent case
        [c] scraps dividend
        debt of [c] worries lenders
        [c] misses expectations again
        hackers steal data of [c] clients
        [c] lays off [number] hundred people
        [c] delays launch of new model
        investors flee [c] after audit doubts""",
    "positive": """
        [c] beats expectations
        [c] raises forecast on strong demand
        profit at [c] jumps [number] percent
        [c] wins order worth [number] million
        analysts lift target for [c]
        [c] climbs to record
        [c] doubles its dividend
        regulator clears deal of [c]
        [c] gains market share from rivals
        new product of [c] sells out
        [c] rallies after results
        [c] returns to growth
        [c] pays back debt early
        margins at [c] improve for the [number]th quarter
        [c] upgraded to buy
        [c] opens [number] new stores after good year
        surprise surge in sales lifts [c]
        [c] settles dispute on good terms
        trial of drug by [c] succeeds
        [c] shares soar on takeover bid""",
    "neutral": """
        [c] to report results on tuesday
        [c] names new head of finance
        [c] holds annual meeting
        [c] moves its office to the harbour
        what to know about [c] this week
        [c] publishes report for the year
        [c] speaks at conference in may
        [c] issues bonds worth [number] million
        shares of [c] little changed
        [c] appoints auditor
        [c] changes its logo
        interview with the founder of [c]
        [c] confirms outlook
        [c] files its accounts
        [c] sells stake to a fund
        a look at the history of [c]
        [c] renews contract with its supplier
        [c] trades flat before holiday
        [c] to present at [number] events
        [c] joins industry group""",
}
FIRST = "Nor Alva Bry Cor Del Eri Fen Gala Hel Ivo Jun Kel Lum Mar Nex Oro Pel Qua Ros Sel Tor Uma"
LAST = "dix tek line bank chem gas air bio soft steel foods motors pharma media labs power"
LEADS = ("", "", "", "", "update: ", "breaking: ", "$[t] ", "market: ")


def companies(split: str) -> list[str]:
    """Return the companies of a split; no other split has them."""
    names = [first + last for first in FIRST.split() for last in LAST.split()]
    return part(names, split)[:20]


def rows(split: str, seed: int) -> Iterator[dict[str, str]]:
    """Yield text, label and subject."""
    generator = random.Random(f"headlines-{split}-{seed}")
    names = companies(split)
    pools = {label: part(lines(text), split) for label, text in PATTERNS.items()}
    for _ in range(ROWS[split]):
        label = generator.choices(list(SHARES), list(SHARES.values()))[0]
        yield headline(generator, generator.choice(names), label, pools[label])


def headline(generator: random.Random, company: str, label: str, pool: list[str]) -> dict[str, str]:
    """Return one headline about `company`."""
    text = generator.choice(LEADS) + generator.choice(pool)
    text = text.replace("[c]", company).replace("[t]", company[:4].upper())
    text = text.replace("[number]", str(generator.randrange(2, 40)))
    return {"text": text, "label": label, "subject": company}
