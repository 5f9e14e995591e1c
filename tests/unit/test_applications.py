"""The benchmark of the applications: its specs are specs, and it finds its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from benchmarks import applications, replies
from benchmarks.applications import APPLICATIONS
from components.lib import modelling
from components.lib.references import (
    PACKAGED_VOCABULARY,
    load_tokenizer,
    resolve_tokenizer_folder,
)
from pipelines.spec import parse_spec
from tests.support import SHARED, needs_shared


@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_an_application_is_its_example_with_other_data(name: str):
    application = APPLICATIONS[name]
    example = yaml.safe_load(
        (applications.EXAMPLES / f"{application.example}.yaml").read_text(encoding="utf-8")
    )
    spec = application.spec(Path("shared"))
    parse_spec(yaml.safe_dump(spec), source=name, folder=Path())
    assert spec["model"] == example["model"]
    if application.name is None:
        assert spec == example
    else:
        assert set(spec["data"]) >= {"train", "validation", "test"}
        assert spec["training"].items() >= application.training.items()


@needs_shared
@pytest.mark.parametrize("name", sorted(n for n, a in APPLICATIONS.items() if a.files))
def test_its_data_is_there(name: str):
    for value in APPLICATIONS[name].files.values():
        assert isinstance(value, float) or (SHARED / "data" / value).exists()


def test_the_base_is_made_first_and_the_newest_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[tuple[str, ...]] = []

    def suanli(*arguments: str) -> None:
        said.append(arguments)
        if arguments[0] == "run":
            name = yaml.safe_load(Path(arguments[1]).read_text())["name"]
            folder = tmp_path / name / f"run-{len(said)}"
            folder.mkdir(parents=True)
            (folder / "report.json").write_text(json.dumps(report(0.95)))

    monkeypatch.setattr(applications, "suanli", suanli)
    folder, wall_s = applications.run("support-replies", Path("shared"), tmp_path)
    assert [words[0] for words in said] == ["run", "tier", "run"]
    base = tmp_path / "support-replies-base" / "run-1"
    assert said[1][1:] == ("restore", "--run", str(base), "--to", str(tmp_path / "base-model"))
    assert folder == tmp_path / "support-replies" / "run-3"
    assert wall_s >= 0


@pytest.mark.parametrize(("value", "met"), [(0.91, True), (0.89, False), (None, False)])
def test_a_bar_is_met_or_not(value: float | None, met: bool, tmp_path: Path):
    (tmp_path / "report.json").write_text(json.dumps(report(value)))
    found = applications.figures("banking77", tmp_path, 1600.0)
    assert found["bars"]["accuracy"] == {"bar": 0.90, "value": value, "met": met}
    assert (found["in_time"], found["steps_s"]) == (False, 7)


def report(accuracy: float | None) -> dict[str, Any]:
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    steps = [{"measured": {"seconds": 7.0}, "predicted": {"seconds": 5.0}}, {"measured": None,
             "predicted": None}]  # fmt: skip
    return {
        "status": "succeeded", "steps": steps, "selected": "int8", "variants": [],
        "hardware": {"cpu_count": 2, "cpu_model": "x"},
        "test": {"tuned": {"metrics": metrics}, "selected": {"metrics": metrics}},
    }  # fmt: skip


class Parrot:
    """Answers every question as its second word says."""

    templates: ClassVar = {"a": "do [order]", "b": "leave it", "none_of_these": "a person"}

    def answer(self, question: str) -> dict[str, Any]:
        intent = question.split()[0]
        return {"answer": self.templates[intent], "person": intent == "none_of_these"}

    def likelihood(self, question: str, intent: str) -> float:
        return float(question.split()[1] == intent)


def test_shares_of_right_answers():
    questions = [
        ("a a", "a", "do [order]"),  # right by both
        ("b a", "a", "do [order]"),  # right by likelihood only
        ("none_of_these b", "b", "leave it"),  # sent to a person, but likelihood knows
        ("none_of_these x", "none_of_these", "a person"),
        ("b x", "none_of_these", "a person"),
    ]
    found = replies.shares(Parrot(), questions)
    assert (found["in_scope"], found["out_of_scope"]) == (0.3333, 0.5)
    assert replies.by_likelihood(Parrot(), questions) == 1.0


def test_models_from_scratch_by_name_have_a_tokenizer():
    """`support-replies-base.yaml` starts from one."""
    texts = {n for n, c in modelling.KNOWN_CONFIGS.items() if "image_size" not in c}
    assert texts == set(PACKAGED_VOCABULARY)
    for name in texts:
        folder = resolve_tokenizer_folder({"config": name})
        size = load_tokenizer(folder).get_vocab_size()
        assert size <= modelling.KNOWN_CONFIGS[name]["vocab_size"]
