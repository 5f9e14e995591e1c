"""Renewing and removing objects without a lock.

Stores have no removal that depends on another object, so both sides say what they are about to do
before they look: a renewal writes a mark, then looks for a removal under way; a removal announces
itself, then looks for the mark. At least one sees the other, for stores show every finished write
to every later read.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from components.contract import StepError
from components.lib.buckets import Entry

# Longer than a request with all its repetitions: then the process that was removing is dead.
REMOVAL_SECONDS = 600.0
WAIT_SECONDS = 0.5


class Objects(Protocol):
    """What this needs of a bucket."""

    uri: str

    def read(self, key: str) -> bytes | None: ...
    def write(self, key: str, body: bytes, *, create_only: bool = False) -> bool: ...
    def entry(self, key: str) -> Entry | None: ...
    def delete(self, key: str) -> bool: ...
    def now(self) -> float: ...


def mark_of(key: str) -> str:
    """Return the key of the empty object whose time is that of the last renewal of `key`."""
    return f"renewed/{key}"


def _announcement(key: str) -> str:
    return f"removing/{key}"


def renew(objects: Objects, key: str, *, older_than_seconds: float) -> bool:
    """Return whether the object is there; if so, and it is older than that, make it look new.

    Raises:
        StepError: it is being removed all the time.
    """
    found = objects.entry(key)
    if found is None:
        return False
    if older_than_seconds > 0 and found.modified > time.time() - older_than_seconds:
        return True
    end = time.monotonic() + 2 * REMOVAL_SECONDS
    while time.monotonic() < end:
        objects.write(mark_of(key), b"")
        removal = objects.entry(_announcement(key))
        if removal is None:
            return objects.entry(key) is not None
        if removal.modified < objects.now() - REMOVAL_SECONDS:
            objects.delete(_announcement(key))  # its process was killed
        else:
            time.sleep(WAIT_SECONDS)
    raise StepError(f"{objects.uri}/{key}: being removed for too long", remedy="run again")


def delete_unless(objects: Objects, key: str, *, newer_than: float) -> bool:
    """Remove the object if it was not renewed since; return whether it went."""
    announcement, token = _announcement(key), secrets.token_hex(8).encode()
    begun = time.monotonic()
    if not _announce(objects, announcement, token):
        return False  # another process is about to remove it
    found, mark = objects.entry(key), objects.entry(mark_of(key))
    removed = False
    if found and max(found.modified, mark.modified if mark else 0.0) <= newer_than:
        # Still ours, and long before anybody may take this process for dead? If the removal
        # fails, it may yet happen, and the announcement stays.
        in_time = time.monotonic() - begun < REMOVAL_SECONDS / 10
        if in_time and objects.read(announcement) == token:
            removed = objects.delete(key)
            objects.delete(mark_of(key))
    if objects.read(announcement) == token:
        objects.delete(announcement)
    return removed


def _announce(objects: Objects, announcement: str, token: bytes) -> bool:
    for _ in range(2):
        if objects.write(announcement, token, create_only=True):
            return True
        if objects.read(announcement) == token:
            return True  # written, but the answer was lost
        other = objects.entry(announcement)
        if other is not None and other.modified >= objects.now() - REMOVAL_SECONDS:
            return False
        objects.delete(announcement)  # its process was killed
    return False
