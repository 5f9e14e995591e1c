"""Which version of a published model is current, and what it was before.

``published/<name>/latest.json`` is written after the version's artifact, atomically: a reader sees
the old version or the new one, complete.
"""

from __future__ import annotations

from typing import Any

from components.contract import SpecError
from components.storage import Store

POINTER_VERSION = 1


def key(name: str) -> str:
    """Return where the pointer lives."""
    return f"published/{name}/latest.json"


def read(store: Store, name: str) -> dict[str, Any] | None:
    """Return the pointer, None when nothing was published under `name`."""
    return store.get_json(key(name))


def history(latest: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return every version published so far, oldest first."""
    return [] if latest is None else list(latest["history"])


def advance(store: Store, name: str, *, version: int, uri: str, identity: str) -> None:
    """Point to `version`; publishing what is current already changes nothing."""
    latest = read(store, name)
    if latest is not None and latest["uri"] == uri:
        return
    entry = {"version": version, "uri": uri, "identity": identity}
    past = [item for item in history(latest) if item["version"] != version]
    _write(store, name, entry, [*past, entry], previous=_entry(latest))


def rollback(store: Store, name: str) -> dict[str, Any]:
    """Point back to the version before the current one and return the new pointer.

    Raises:
        SpecError: there is none.
    """
    latest = read(store, name)
    if latest is None or latest["previous"] is None:
        raise SpecError(f"{name}: no earlier version to go back to", remedy="publish one first")
    older = [e for e in latest["history"] if e["version"] < latest["previous"]["version"]]
    _write(
        store,
        name,
        latest["previous"],
        latest["history"],
        previous=max(older, key=lambda e: e["version"], default=None),
    )
    found = read(store, name)
    assert found is not None
    return found


def _entry(latest: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if latest is None else {k: latest[k] for k in ("version", "uri", "identity")}


def _write(
    store: Store,
    name: str,
    entry: dict[str, Any],
    entries: list[dict[str, Any]],
    *,
    previous: dict[str, Any] | None,
) -> None:
    document = {
        "schema_version": POINTER_VERSION,
        "name": name,
        **entry,
        "previous": previous,
        "history": entries,
    }
    store.put_json(key(name), document)
