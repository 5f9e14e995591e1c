"""What several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

needs_shared = pytest.mark.skipif(
    not (SHARED / "README.md").exists(), reason="needs ../shared (public data for tests)"
)


def suanli(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 600.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a child process and return what it printed and its exit code.

    An error that nobody raised on purpose shows its traceback, so that no test takes it for a
    refusal.
    """
    environment = {"SUANLI_TRACEBACK": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd or REPOSITORY,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", **environment},
    )
