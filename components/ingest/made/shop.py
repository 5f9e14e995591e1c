"""Recommendation: kind ``ranking`` (text, text_pair, label, group), made of a shop's clicks.

A reader has two subjects at heart and a history of six titles. Twenty candidates are shown, some
of the reader's subjects and the rest by popularity; clicks follow both. Titles of the same subject
share few words, so that counting common words (BM25) does not settle it, nor does popularity.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from components.ingest.made.pools import lines, part

READERS = {"train": 260, "validation": 60, "test": 120}
CANDIDATES = 20
HISTORY = 6
OF_INTEREST = 5
SUBJECTS = {
    "cooking": "recipe soup bread oven spices pasta "
    "grill sauce dessert vegetables baking chef",
    "gardening": "roses soil seeds lawn pruning compost "
    "tulips hedge greenhouse herbs bulbs spade",
    "astronomy": "planets telescope stars comet galaxy orbit "
    "eclipse moon rocket nebula mars cosmos",
    "cycling": "bicycle pedals saddle gravel helmet tyres "
    "sprint derailleur handlebar tour velodrome climb",
    "history": "empire king medieval treaty battle castle "
    "roman ancient dynasty revolution archive ruins",
    "music": "piano violin melody orchestra guitar chords "
    "choir concerto drums opera rhythm songbook",
    "investing": "stocks bonds dividends portfolio inflation savings "
    "broker index funds retirement market interest",
    "sailing": "yacht harbour anchor sails knots tide "
    "rudder regatta mast navigation crew waves",
    "health": "vitamins sleep posture stretching heart diet "
    "breathing doctor muscles stress yoga immune",
    "programming": "python compiler database algorithms debugging software "
    "functions servers code testing kernel variables",
    "painting": "watercolour canvas brushes portrait oil palette "
    "sketch perspective pigment landscape easel gallery",
    "travel": "passport backpack trains hostels islands itinerary "
    "customs airport beaches guidebook border mountains",
}  # fmt: skip
FORMS = """
    the big book of [a]
    [a] and [b] for beginners
    all about [a]
    a year with [a]
    [a], [b] and other joys
    the secret of good [a]
    understanding [a]
    from [a] to [b]
    my life with [a]
    how [a] works
    the art of [a]
    [a] in ten lessons
    notes on [a] and [b]
    what [a] can teach us
    a field guide to [a]"""


def titles() -> list[tuple[str, str]]:
    """Return 600 items as (title, subject); item number gives popularity by rank."""
    generator = random.Random("shop")
    forms, seen, items = lines(FORMS), set(), []
    while len(items) < 600:
        subject = generator.choice(sorted(SUBJECTS))
        a, b = generator.sample(SUBJECTS[subject].split(), 2)
        title = generator.choice(forms).replace("[a]", a).replace("[b]", b)
        if title not in seen:
            seen.add(title)
            items.append((title, subject))
    return items


def rows(split: str, seed: int) -> Iterator[dict[str, str | int]]:
    """Yield history, candidate, clicked or not, and reader. Readers and half of the items of a
    split stand in no other; the others are sold to everyone."""
    generator = random.Random(f"shop-{split}-{seed}")
    everything = titles()
    own = set(part(range(len(everything) // 2, len(everything)), split))
    items = [
        (number, *item)
        for number, item in enumerate(everything)
        if number < len(everything) // 2 or number in own
    ]
    half = len(everything) // 2
    popularity = {number: 1.0 / (1.0 + number % half) ** 0.5 for number, _, _ in items}
    offset = {"train": 0, "validation": 10_000, "test": 20_000}[split]
    for reader in range(READERS[split]):
        liked = generator.sample(sorted(SUBJECTS), 2)
        mine = [item for item in items if item[2] in liked]
        history = generator.sample(mine, HISTORY)
        shown = _shown(generator, items, popularity, mine, {item[0] for item in history})
        text = " ; ".join(title for _, title, _ in history)
        for position, (number, title, subject) in enumerate(shown):
            chance = 0.7 + 0.3 * popularity[number] if subject in liked else 0.06
            clicked = generator.random() < chance or (position == 0 and subject in liked)
            yield {
                "text": text, "text_pair": title, "label": int(clicked),
                "group": offset + reader, "item": number,
            }  # fmt: skip


def _shown(
    generator: random.Random,
    items: list[tuple[int, str, str]],
    popularity: dict[int, float],
    mine: list[tuple[int, str, str]],
    known: set[int],
) -> list[tuple[int, str, str]]:
    """Five of the reader's subjects, the popular ones rather, among others by chance."""
    chosen: dict[int, tuple[int, str, str]] = {}
    weights = [popularity[item[0]] for item in mine]
    while len(chosen) < CANDIDATES:
        few = len(chosen) < OF_INTEREST
        item = generator.choices(mine, weights)[0] if few else generator.choice(items)
        if item[0] not in known:
            chosen.setdefault(item[0], item)
    return list(chosen.values())
