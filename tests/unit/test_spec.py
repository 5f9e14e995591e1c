"""The spec is read strictly; every error names file, line, key and remedy."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from components.contract import TASKS, SpecError
from pipelines.spec import Spec, load_spec, parse_spec
from pipelines.spec_sections import parse_duration
from tests.support import REPOSITORY, SHARED, needs_shared

MINIMAL = """\
name: tiny
task: text-classification
model: {id: minilm-l6}
data:
  train: {uri: train.csv}
"""


def parse(text: str) -> Spec:
    return parse_spec(text, source="s.yaml", folder=Path("/data"))


def test_four_keys_are_enough() -> None:
    spec = parse(MINIMAL)
    assert spec.data.validation.fraction == 0.1
    assert spec.training.epochs == 3
    assert spec.objective.deadline_s is None
    assert spec.locate("train.csv") == "/data/train.csv"
    assert spec.locate("s3://bucket/x") == "s3://bucket/x"


def test_document_round_trips() -> None:
    spec = parse(MINIMAL + "objective: {deadline: 1h30m, budget_usd: 5}\n")
    again = Spec.model_validate(spec.document)
    assert again.document == spec.document
    assert again.objective.deadline_s == 5400


def test_tasks_match_the_contract() -> None:
    assert typing.get_args(Spec.model_fields["task"].annotation) == TASKS


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        ("training: {epoch: 3}", 6, ["training.epoch", "unknown key", "'epochs'"]),
        ("traning: {epochs: 3}", 6, ["traning", "did you mean 'training'"]),
        ("training:\n  epochs: three", 7, ["training.epochs", "integer", "'three'"]),
        ("training:\n  epochs: 0", 7, ["training.epochs", "greater than 0"]),
        ("training: {learning_rate: fast}", 6, ["training.learning_rate", "'auto'", "'fast'"]),
        ("objective: {deadline: 2x}", 6, ["objective.deadline", "2h", "'2x'"]),
        ("objective: {budget_usd: -1}", 6, ["objective.budget_usd", "greater than 0"]),
        ("objective: {budget_usd: .inf}", 6, ["objective.budget_usd", "finite"]),
        ("compression: {variants: [int9]}", 6, ["compression.variants.0", "prune<percent>"]),
        ("compression: {max_quality_drop: 2}", 6, ["compression.max_quality_drop"]),
        ("schema_version: 2", 6, ["schema_version 2", "schema_version: 1"]),
        ("training: {lora: {rank: 8}}", 6, ["training.lora", "method: lora"]),
        ("name: other", 6, ["also given on line 1"]),
        ("storage: {credentials: {secret: 3}}", 6, ["storage.credentials.secret", "string"]),
    ],
)
def test_bad_keys_and_values(change: str, line: int, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse(MINIMAL + change + "\n")
    text = str(caught.value)
    assert f"s.yaml:{line}" in text
    for word in words:
        assert word in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL.replace("text-classification", "sentiment"), ["s.yaml:2", "task", "'sentiment'"]),
        (MINIMAL.replace("tiny", "Tiny_1"), ["s.yaml:1", "name", "DNS-1123"]),
        (MINIMAL.replace("{id: minilm-l6}", "{}"), ["s.yaml:3", "model", "exactly one"]),
        (MINIMAL.replace("train.csv", "ftp://x/y"), ["data.train.uri", "'ftp'"]),
        (MINIMAL.replace("uri: train.csv", "fraction: 0.2"), ["data", "train needs a uri"]),
        ("name: tiny\n", ["task: required", "model: required", "data: required"]),
        ("- a\n", ["mapping"]),
        ("", ["mapping"]),
        ("a: [", ["not YAML"]),
        ("a: !!python/object:os.system x", ["not YAML"]),
        ("[" * 5000, ["not YAML"]),
    ],
)
def test_bad_documents(text: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such spec"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(SpecError, match="UTF-8"):
        load_spec(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("45m", 2700), ("1d2h3m4s", 93784), (90, 90)]
)
def test_durations(text: str | int, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "1h 2m", 0, -5])
def test_bad_durations(text: str | int) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_the_examples_parse() -> None:
    examples = sorted((REPOSITORY / "pipelines" / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        load_spec(path)


@needs_shared
def test_shared_specs_parse() -> None:
    specs = sorted((SHARED / "specs").glob("*.yaml"))
    assert len(specs) >= 4
    for path in specs:
        spec = load_spec(path)
        assert Path(spec.locate(spec.data.train.uri or "")).exists()
