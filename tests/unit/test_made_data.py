"""The sets that the project makes: reproducible, apart by split, not trivial."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.ranking import bm25, popularity
from components.ingest import synthetic
from components.ingest.made import hands, headlines, intents, shop
from components.ingest.made.pools import SPLITS
from components.lib.metrics import ndcg_by_group


def rows(kind: str, split: str, seed: int = 17) -> list[dict]:
    return list(synthetic.MADE[kind](split, seed))


@pytest.mark.parametrize("kind", sorted(synthetic.MADE))
def test_the_same_uri_gives_the_same_rows(kind: str, tmp_path: Path):
    uri = f"synthetic://{kind}/test?seed=17"
    path = synthetic.write(uri, tmp_path)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert written == rows(kind, "test")
    assert written != rows(kind, "test", 18)


@pytest.mark.parametrize("kind", ["headlines", "intents", "replies"])
def test_no_text_stands_in_two_splits(kind: str):
    key = "prompt" if kind == "replies" else "text"
    texts = {split: {row[key] for row in rows(kind, split)} for split in SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not texts[one] & texts[other]


def test_companies_and_readers_are_apart():
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not set(headlines.companies(one)) & set(headlines.companies(other))
        readers = [{row["group"] for row in rows("ranking", split)} for split in (one, other)]
        assert not readers[0] & readers[1]


def test_every_intent_has_its_answer_and_some_questions_have_none():
    for split in SPLITS:
        labels = [row["label"] for row in rows("intents", split)]
        assert set(labels) == set(intents.ANSWERS)
        share = labels.count(intents.OUT_OF_SCOPE) / len(labels)
        assert share == pytest.approx(intents.OUT_OF_SCOPE_SHARE[split], abs=0.05)
    assert set(intents.QUESTIONS) | {intents.OUT_OF_SCOPE} == set(intents.ANSWERS)


def test_neither_popularity_nor_common_words_settle_the_ranking():
    train, test = rows("ranking", "train"), rows("ranking", "test")
    labels = np.array([row["label"] for row in test], dtype=float)
    readers = np.array([row["group"] for row in test])
    subject = dict(shop.titles())
    liked = {row["group"]: {subject[t] for t in row["text"].split(" ; ")} for row in test}
    truth = [float(subject[row["text_pair"]] in liked[row["group"]]) for row in test]
    found = {
        name: ndcg_by_group(np.array(scores), labels, readers).mean()
        for name, scores in (
            ("popularity", popularity(train, test)),
            ("bm25", bm25(train, test)),
            ("subjects", truth),
        )
    }
    assert found["subjects"] > 0.65
    assert max(found["popularity"], found["bm25"]) < 0.6


def test_hands_are_images_of_each_class(tmp_path: Path):
    folder = hands.write("validation", 3, tmp_path / "a")
    again = hands.write("validation", 3, tmp_path / "b")
    names = sorted(p.relative_to(folder) for p in folder.rglob("*.png"))
    assert len(names) == hands.CLASSES * hands.IMAGES["validation"]
    for name in names[::17]:
        assert (folder / name).read_bytes() == (again / name).read_bytes()
        with Image.open(folder / name) as image:
            assert image.size == (hands.SIDE, hands.SIDE)
