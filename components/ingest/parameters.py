"""Parameters of a run that change what ingest reads (pipelines compiled with dynamic requests)."""

from __future__ import annotations

import json

from components.contract import canonical_json


def with_parameters(
    config: str, *, train_uri: str, validation_uri: str, test_uri: str, seed: int
) -> str:
    """Return the step's config with other data and another seed; an empty URI leaves the split as
    it was compiled."""
    settings = json.loads(config)
    arguments = settings["arguments"]
    sources = {"train": train_uri, "validation": validation_uri, "test": test_uri}
    given = {name: {"uri": uri.strip()} for name, uri in sources.items() if uri.strip()}
    arguments["data"] = {**arguments.get("data", {}), **given}
    arguments["seed"] = int(seed)
    return canonical_json(settings)
