"""Run the ingest step as the pipeline does, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.ingest import step
from components.lib.dataset import read_manifest
from components.runtime import execute
from components.storage import Store, Tiers


def ingest_uri(workdir: Path, data: dict[str, Any], **arguments: Any) -> str:
    """Run ingest in `workdir` and return the dataset's URI."""
    settings = {"name": "sample", "model": {"id": "minilm-l6"}, "data": data, **arguments}
    config = {"step": "ingest", "arguments": settings, "plan_hash": "0" * 64, "requested": {}}
    return execute(
        "ingest",
        step.run,
        config=json.dumps(config),
        inputs={},
        store=Tiers.under(workdir).to_json(),
        run_id="test",
        external=step.external,
    )


def ingest(
    workdir: Path, data: dict[str, Any], task: str = "token-classification", **arguments: Any
) -> tuple[Path, dict[str, Any]]:
    """Run ingest and return the fetched dataset folder and its manifest."""
    uri = ingest_uri(workdir, data, task=task, **arguments)
    folder = Store(Tiers.under(workdir)).fetch(uri, workdir / "fetched" / uri[-16:])
    return folder, read_manifest(folder)


def write(folder: Path, name: str, content: str | bytes) -> dict[str, str]:
    """Write a source file and return the spec's entry for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return {"uri": str(path)}
