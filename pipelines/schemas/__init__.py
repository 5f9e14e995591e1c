"""JSON Schemas of everything that other programs may read or write.

Schemas of types come from the types themselves; documents that have no type of their own are
written out in the files beside this one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.contract import SpecError

FOLDER = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
WRITTEN = ("dataset-manifest", "artifact-manifest", "error", "report", "predict-columns")
NOUNS = ("spec", "plan", "step-report", *WRITTEN)


def schema(noun: str) -> dict[str, Any]:
    """Return the JSON Schema of `noun`, one of `NOUNS`.

    Raises:
        SpecError: there is no such schema.
    """
    if noun in WRITTEN:
        document: dict[str, Any] = json.loads((FOLDER / f"{noun}.schema.json").read_text())
        return document
    from pydantic import TypeAdapter

    from components.contract import StepReport
    from pipelines.plan import Plan
    from pipelines.spec import Spec

    types = {"spec": Spec, "plan": Plan, "step-report": StepReport}
    if noun not in types:
        raise SpecError(f"no schema called {noun!r}", remedy=f"one of: {', '.join(NOUNS)}")
    return {"$schema": DIALECT, **TypeAdapter(types[noun]).json_schema()}
