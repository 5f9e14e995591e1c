"""What the monitor remembers: one JSON file, replaced atomically, and files that only grow.

``state.json`` holds how far each input was read, the detectors, and the length of each growing
file. After a crash the growing files are cut back to the length that the state knows, and reading
goes on where the state says: nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.contract import DataError

STATE_VERSION = 1
STATE_FILE = "state.json"
ALERTS_FILE = "alerts.jsonl"
SCORES_FILE = "scores.jsonl"


class StateFolder:
    """The monitor's folder; one process at a time.

    Raises:
        DataError: another monitor has it, or state.json is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as error:
            raise DataError(f"{folder}: {error.strerror}", remedy="give --state a folder") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"{folder}: another monitor uses this state", remedy="give each its own --state"
            ) from None
        self.document = self._read()
        self._lengths: dict[str, int] = dict(self.document.get("lengths", {}))
        for name in (ALERTS_FILE, SCORES_FILE):
            self._cut(name)

    def _read(self) -> dict[str, Any]:
        path = self.folder / STATE_FILE
        if not path.exists():
            return {}
        try:
            document = json.loads(path.read_bytes())
            if document["schema_version"] != STATE_VERSION:
                raise DataError(
                    f"{path}: schema_version {document['schema_version']!r} is not {STATE_VERSION}",
                    remedy="start with a new --state folder",
                )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: not a monitor's state: {error}", remedy="start with a new --state folder"
            ) from None
        found: dict[str, Any] = document
        return found

    def _cut(self, name: str) -> None:
        path, length = self.folder / name, self._lengths.get(name, 0)
        if path.exists() and path.stat().st_size > length:
            os.truncate(path, length)

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines to a growing file; they count from the next commit on."""
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if not body:
            return
        with (self.folder / name).open("ab") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        self._lengths[name] = self._lengths.get(name, 0) + len(body)

    def commit(self, document: dict[str, Any]) -> None:
        """Make `document` the state, whole or not at all."""
        whole = {"schema_version": STATE_VERSION, **document, "lengths": self._lengths}
        partial = self.folder / f".{STATE_FILE}.partial"
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(whole, stream, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.folder / STATE_FILE)
        self.document = whole
