"""Replace personal data in text before anything is tokenised, and count what was replaced.

Patterns find what has a checkable form (e-mail, phone, card, IBAN, IP address, Chinese identity
number); names need a model and are not covered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from components.ingest.examples import Example

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)")
CHINESE_ID = re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)")
# International (+49 30 1234567), Chinese mobile (13812345678) and (415) 555-2671 / 415-555-2671.
PHONE = re.compile(
    r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|1[3-9]\d{9}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)"
)


def luhn(digits: str) -> bool:
    """True for card numbers (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and luhn(digits)


def _is_iban(text: str) -> bool:
    """Check digits by ISO 13616: the number modulo 97 is 1."""
    compact = text.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _is_ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


def _is_chinese_id(text: str) -> bool:
    """Check digit by GB 11643-1999."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(text, weights, strict=False))
    return "10X98765432"[total % 11] == text[17].upper()


def _always(_: str) -> bool:
    return True


RULES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("EMAIL", EMAIL, _always),
    ("IBAN", IBAN, _is_iban),
    ("ID", CHINESE_ID, _is_chinese_id),
    ("CARD", CARD, _is_card),
    ("PHONE", PHONE, _always),
    ("IP", IPV4, _is_ipv4),
)


def redact_text(text: str, counts: Counter[str]) -> str:
    """Return `text` with personal data replaced by ``<EMAIL>`` and so on; adds to `counts`."""
    if "@" not in text and not any(character.isdigit() for character in text):
        return text
    for name, pattern, holds in RULES:

        def replace(
            match: re.Match[str], name: str = name, holds: Callable[[str], bool] = holds
        ) -> str:
            if not holds(match[0]):
                return match[0]
            counts[name] += 1
            return f"<{name}>"

        text = pattern.sub(replace, text)
    return text


def redact(
    examples: Iterable[tuple[Path, Example]], counts: Counter[str]
) -> Iterator[tuple[Path, Example]]:
    """Redact every text; words of NER data one by one, so labels keep their place."""
    for path, example in examples:
        if isinstance(example.text, list):
            words = [redact_text(word, counts) for word in example.text]
            yield path, example._replace(text=words)
        else:
            pair = None if example.pair is None else redact_text(example.pair, counts)
            yield path, example._replace(text=redact_text(example.text, counts), pair=pair)
