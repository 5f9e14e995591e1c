"""How often the best answer template is found, with and without the language model.

    python -m benchmarks.replies --intents RUNDIR --replies RUNDIR

Test questions of the made shop (their wording is in no other split) go through
`pipelines/examples/answer.py`. Right is: the template of the question's intent, or a person where
the question is out of scope. ``chosen by the language model alone`` ranks all templates by their
likelihood after the question. Writes benchmarks/results/replies.json.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.ingest.made import intents
from pipelines.cli_monitor import model_folder
from pipelines.examples.answer import Answerer

RESULTS = Path(__file__).parent / "results" / "replies.json"


def main() -> None:
    """Answer the test questions and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--intents", type=Path, required=True, help="run or published folder")
    parser.add_argument("--replies", type=Path, required=True, help="run or published folder")
    parser.add_argument("--seed", type=int, default=17, help="of the data, as in the specs")
    options = parser.parse_args()
    questions = list(intents.questions("test", options.seed))
    templates = intents.templates()
    both = Answerer(model_folder(options.intents), model_folder(options.replies), templates)
    alone = Answerer(model_folder(options.intents), None, templates)
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "questions": len(questions),
        "in_scope": sum(intent != intents.OUT_OF_SCOPE for _, intent, _ in questions),
        "intents alone": shares(alone, questions),
        "intents and language model": shares(both, questions),
        "language model alone": {"in_scope": by_likelihood(both, questions)},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def shares(answerer: Answerer, questions: list[intents.Question]) -> dict[str, Any]:
    """Share of right answers in and out of scope, and milliseconds a question."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    start = time.perf_counter()
    for text, intent, expected in questions:
        found = answerer.answer(text)
        inside = intent != intents.OUT_OF_SCOPE
        right[inside].append(found["answer"] == expected if inside else found["person"])
    seconds = time.perf_counter() - start
    return {
        "in_scope": round(sum(right[True]) / len(right[True]), 4),
        "out_of_scope": round(sum(right[False]) / len(right[False]), 4),
        "ms": round(1000 * seconds / len(questions), 2),
    }


def by_likelihood(answerer: Answerer, questions: list[intents.Question]) -> float:
    """Share of questions in scope whose template is the likeliest of all in scope."""
    names = [name for name in answerer.templates if name != intents.OUT_OF_SCOPE]
    inside = [(text, intent) for text, intent, _ in questions if intent != intents.OUT_OF_SCOPE]
    right = [
        intent == max(names, key=lambda name: answerer.likelihood(text, name))
        for text, intent in inside
    ]
    return round(sum(right) / len(right), 4)


if __name__ == "__main__":
    main()
