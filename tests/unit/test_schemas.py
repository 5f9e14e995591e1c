"""Every contract has a schema; golden files make any change of one visible in review.

After a meant change: `SUANLI_UPDATE_GOLDEN=1 pytest tests/unit/test_schemas.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from components.contract import SpecError
from pipelines.schemas import NOUNS, WRITTEN, schema

GOLDEN = Path(__file__).parents[1] / "golden" / "schemas"


@pytest.mark.parametrize("noun", NOUNS)
def test_schemas_are_valid(noun: str) -> None:
    document = schema(noun)
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("noun", sorted(set(NOUNS) - set(WRITTEN)))
def test_generated_schemas_match_their_golden_files(noun: str) -> None:
    path = GOLDEN / f"{noun}.schema.json"
    text = json.dumps(schema(noun), indent=1, sort_keys=True) + "\n"
    if os.environ.get("SUANLI_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert json.loads(path.read_text()) == json.loads(text)


def test_unknown_noun_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match="step-report"):
        schema("plant")
