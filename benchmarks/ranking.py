"""NDCG@10 of a published ranker, of popularity and of BM25 on the made shop's test readers.

    python -m benchmarks.ranking runs/shop-ranking/<run-id>

Popularity counts clicks of the training split. BM25 (k1 = 1.2, b = 0.75) takes the reader's history
as the query and the training candidates as the collection. Ties are broken by chance, by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from components.ingest.made import shop
from components.lib.metrics import ndcg_by_group
from pipelines.cli_monitor import model_folder

RESULTS = Path(__file__).parent / "results" / "ranking.json"
K1, B = 1.2, 0.75


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", help="run or published folder")
    parser.add_argument("--seed", type=int, default=17, help="of the data, as in the spec")
    options = parser.parse_args()
    train, test = (list(shop.rows(split, options.seed)) for split in ("train", "test"))
    scores = {"chance": [0.0] * len(test), "popularity": popularity(train, test),
              "bm25": bm25(train, test)}  # fmt: skip
    if options.model:
        scores["model"] = model(options.model, test)
    labels = np.array([row["label"] for row in test], dtype=float)
    readers = np.array([row["group"] for row in test])
    chance = np.random.default_rng(0).random(len(test)) * 1e-6
    document: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "readers": len(set(readers.tolist())),
        "ndcg@10": {
            name: round(float(ndcg_by_group(np.array(found) + chance, labels, readers).mean()), 4)
            for name, found in scores.items()
        },
    }
    if options.model:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def popularity(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> list[float]:
    """Clicks of each candidate in training."""
    clicks = Counter[int]()
    for row in train:
        clicks[row["item"]] += row["label"]
    return [float(clicks[row["item"]]) for row in test]


def bm25(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> list[float]:
    """Okapi BM25 of the candidate for the history's words."""
    collection = [_words(row["text_pair"]) for row in train]
    documents = Counter(word for words in collection for word in set(words))
    mean = sum(map(len, collection)) / len(collection)

    def score(query: list[str], words: list[str]) -> float:
        total, counts = 0.0, Counter(words)
        for word in set(query) & set(words):
            rare = math.log(1 + (len(collection) - documents[word] + 0.5) / (documents[word] + 0.5))
            length = K1 * (1 - B + B * len(words) / mean)
            total += rare * counts[word] * (K1 + 1) / (counts[word] + length)
        return total

    return [score(_words(row["text"]), _words(row["text_pair"])) for row in test]


def model(path: Path, test: list[dict[str, Any]]) -> list[float]:
    """The published model's scores, by its own predict.py."""
    from pipelines.examples.answer import load

    predictor = load(model_folder(path))
    return [row["score"] for row in predictor.predict([(r["text"], r["text_pair"]) for r in test])]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


if __name__ == "__main__":
    main()
