"""Compare text with a golden file; `SUANLI_UPDATE_GOLDEN=1` writes it anew for review."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Assert that `text` equals the golden file `name`."""
    path = GOLDEN / name
    if os.environ.get("SUANLI_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no golden file {path.name}: run with SUANLI_UPDATE_GOLDEN=1"
    assert text == path.read_text(encoding="utf-8")
