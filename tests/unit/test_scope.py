"""Out-of-scope labels: the threshold comes from in-scope validation rows and is used everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml

from components.contract import DataError, SpecError
from components.lib import quality, scope
from components.lib.dataset import Split
from components.lib.metrics import softmax
from components.publish.step import write_model
from pipelines.examples.answer import Answerer, load
from pipelines.spec import load_spec
from tests.monitoring import publish
from tests.support import REPOSITORY

LABELS = ["cancel", "other", "track"]


def rows(count: int, outside: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and true labels: in-scope rows are confident and mostly right, others are not."""
    dice = np.random.default_rng(seed)
    true = np.where(dice.random(count) < outside, 1, dice.choice([0, 2], count))
    logits = dice.normal(0.0, 0.4, (count, 3))
    inside = true != 1
    logits[inside, true[inside]] += dice.normal(3.0, 1.0, inside.sum())
    return logits, true


def test_the_threshold_costs_what_it_may_and_no_more():
    logits, true = rows(5000, 0.03, 1)
    plain = (logits.argmax(1) == true)[true != 1].mean()
    chosen = scope.choose(logits, true, LABELS, "other")
    found = scope.figures(true, chosen.predict(logits, LABELS), LABELS, "other")
    assert plain - 0.02 - 1e-9 <= found["in_scope_accuracy"] <= plain - 0.015
    higher = scope.Scope(label="other", threshold=chosen.threshold + 0.01)
    worse = scope.figures(true, higher.predict(logits, LABELS), LABELS, "other")
    assert worse["in_scope_accuracy"] < plain - 0.02


def test_out_of_scope_rows_do_not_move_the_threshold():
    logits, true = rows(4000, 0.2, 2)
    inside = true != 1
    whole = scope.choose(logits, true, LABELS, "other")
    assert whole == scope.choose(logits[inside], true[inside], LABELS, "other")
    strange = logits.copy()
    strange[~inside] *= -9.0
    assert scope.choose(strange, true, LABELS, "other") == whole


def test_it_finds_what_the_class_alone_does_not():
    chosen = scope.choose(*rows(4000, 0.0, 3), LABELS, "other")
    logits, true = rows(4000, 0.3, 4)
    plain = scope.figures(true, logits.argmax(1), LABELS, "other")
    found = scope.figures(true, chosen.predict(logits, LABELS), LABELS, "other")
    assert found["out_of_scope_recall"] > plain["out_of_scope_recall"] + 0.3


def test_a_label_that_is_not_there_is_named():
    with pytest.raises(DataError, match="no row of train has the label 'nothing'"):
        scope.choose(*rows(10, 0.0, 5), LABELS, "nothing")


def test_evaluation_chooses_and_test_takes_over(monkeypatch: pytest.MonkeyPatch):
    """`assess` chooses on the split when it gets the label, and uses what it gets as a `Scope`."""
    validation, test = rows(2000, 0.05, 6), rows(2000, 0.3, 7)

    def assess(data: tuple[np.ndarray, np.ndarray], outside: object) -> quality.Quality:
        logits, true = data

        class Fake:
            info: ClassVar = {"task": "text-classification"}

            def run(self, split: Split) -> np.ndarray:
                return logits

        empty = np.zeros(0, np.int32)
        split = Split(
            name="s", rows=len(true), offsets=np.zeros(1, np.int64), input_ids=empty,
            lengths=empty, columns={"label": true},
        )  # fmt: skip
        return quality.assess(Fake(), split, "text-classification", LABELS, outside=outside)

    first = assess(validation, "other")
    assert first.scope is not None
    assert first.to_json()["scope"] == {"label": "other", "threshold": first.scope.threshold}
    second = assess(test, first.scope)
    assert second.scope == first.scope
    assert second.value == pytest.approx((first.scope.predict(test[0], LABELS) == test[1]).mean())
    assert set(scope.figures(*[np.zeros(1, int)] * 2, LABELS, "other")) < set(second.metrics)
    assert assess(test, None).scope is None
    assert "scope" not in assess(test, None).to_json()


def test_the_spec_takes_it_for_classes_only(tmp_path: Path):
    text = (REPOSITORY / "pipelines" / "examples" / "support-intents.yaml").read_text()
    document = yaml.safe_load(text)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**document, "task": "token-classification"}))
    with pytest.raises(SpecError, match="out_of_scope means nothing for token-classification"):
        load_spec(path)


@pytest.fixture
def intents(tmp_path: Path) -> Path:
    """A published classifier (bad or not) with a threshold, as `publish` writes it."""
    source = publish(tmp_path / "source", sharpness=2.0)
    (source / "labels.json").write_text(json.dumps(["complaint", "praise"]))
    export = json.loads((source / "export.json").read_text())
    parity = {"batches": 1, "lengths": [1, 2], "max_abs_diff": 0.0, "tolerance": 1.0,
              "equal_predictions": 1.0}  # fmt: skip
    export |= {"size_bytes": 1, "opset": 18, "parity": parity, "fusion": "", "precision": "fp32",
               "fallbacks": []}  # fmt: skip
    (source / "export.json").write_text(json.dumps(export))
    figures = {"metric": "accuracy", "split": "test", "tuned": 1.0, "selected": 1.0, "drop": 0.0,
               "tuned_ci95": [1, 1], "ci95": [1, 1], "drop_ci95": [0, 0],
               "p_drop_exceeds_budget": 0.0}  # fmt: skip
    selection = {
        "selected": "fp32",
        "quality": figures,
        "promise": {"max_quality_drop": 0.01},
        "variants": [],
        "test": {"selected": {"scope": {"label": "neither", "threshold": 0.95}}},
    }
    manifest = {"task": "text-classification", "splits": {}, "sources": [], "warnings": []}
    folder = tmp_path / "published"
    write_model(folder, source, selection, manifest, "intents", 1)
    return folder


def test_the_published_model_rejects_below_the_threshold(intents: Path):
    (row,) = load(intents).predict(["bad news"])
    sure = float(softmax(np.array([[2.0, 0.0]])).max())
    assert sure < 0.95
    assert row == {"label": "neither", "score": pytest.approx(1.0 - sure)}
    export = json.loads((intents / "export.json").read_text())
    (intents / "export.json").write_text(
        json.dumps({**export, "scope": {"label": "neither", "threshold": 0.5}})
    )
    (row,) = load(intents).predict(["bad news"])
    assert row["label"] == "complaint"


TEMPLATES = {
    "complaint": "Sorry for [order].",
    "praise": "Glad about [order].",
    "neither": "A person comes.",
}
REPLIES = '''
import numpy as np
class Predictor:
    """Finds the tokens of "Glad" likely."""
    max_length = 64
    def __init__(self, folder):
        self.tokenizer = self
    def encode(self, text, add_special_tokens=True):
        self.ids = [{"Glad": 1, "Sorry": 2}.get(word, 3) for word in text.split()]
        return self
    def logits(self, sequences):
        return [np.tile([0.0, 9.0, 0.0, 1.0], (len(ids), 1)) for ids in sequences]
'''


def test_answers_are_retrieved(intents: Path, tmp_path: Path):
    rejected = Answerer(intents, None, TEMPLATES).answer("bad order 1234")
    assert rejected == {"intent": "neither", "answer": "A person comes.", "person": True}
    export = json.loads((intents / "export.json").read_text())
    (intents / "export.json").write_text(json.dumps({**export, "scope": None}))
    plain = Answerer(intents, None, TEMPLATES).answer("bad order 1234")
    assert plain == {"intent": "complaint", "answer": "Sorry for order 1234.", "person": False}
    replies = tmp_path / "replies"
    replies.mkdir()
    (replies / "predict.py").write_text(REPLIES)
    judged = Answerer(intents, replies, TEMPLATES).answer("bad news")
    assert judged["answer"] == "Glad about your order.", "the language model outweighs the intent"
    shutil.rmtree(replies)


def test_the_shipped_templates_are_those_of_the_data():
    from components.ingest.made.intents import templates

    path = REPOSITORY / "pipelines" / "examples" / "answers.json"
    assert json.loads(path.read_text()) == templates()
