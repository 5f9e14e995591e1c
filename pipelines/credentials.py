"""Refuse credentials where many can read: compiled pipelines, rendered files, run parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from components.contract import SpecError

# Query parameters that carry a secret in signed and tokened URLs.
SECRET_PARAMETERS = (
    "x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-goog-signature", "sig",
    "signature", "token", "access_token", "key", "secret", "password",
)  # fmt: skip


def refuse_credentials(value: Any, name: str = "") -> None:
    """Refuse URIs with credentials in them, however deep in `value`.

    Args:
        name: what `value` is called in the error.

    Raises:
        SpecError: naming the field, never the value.
    """
    for path, text in _strings(value, name):
        parts = _split(text)
        if parts is None:
            continue
        secret = [key for key, _ in parse_qsl(parts.query) if key.lower() in SECRET_PARAMETERS]
        if parts.password or secret:
            raise SpecError(
                f"{path}: the URI carries a credential{f' ({secret[0]})' if secret else ''}",
                remedy="name a secret in storage.credentials instead",
            )


def _split(text: str) -> Any:
    try:
        return urlsplit(text) if "://" in text else None
    except ValueError:  # no URI that anything could open
        return None


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
