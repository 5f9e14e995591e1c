"""Answer customers with two published models and a file of answer templates.

    echo "where is order 1234" | python answer.py --intents INTENTS --replies REPLIES

The answer is retrieved, not made up: of the likeliest intents, each template is judged by the
probability of its intent and by how likely the language model finds it after the question. A
question that is out of scope gets the template of that label and ``"person": true``. Needs
onnxruntime and tokenizers only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

CANDIDATES = 3
# Weight of the language model's log-likelihood a token beside the intent's log-probability.
REPLY_WEIGHT = 1.0
ORDER = re.compile(r"\b\d{4,}\b")


def load(folder: Path) -> Any:
    """Return the `Predictor` of a published model folder."""
    spec = importlib.util.spec_from_file_location(f"predict_{folder.name}", folder / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Predictor(folder)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Return log-probabilities along the last axis."""
    top = scores.max(axis=-1, keepdims=True)
    shifted: np.ndarray = scores - top
    shares: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shares


class Answerer:
    """Retrieves the best template for a question."""

    def __init__(self, intents: Path, replies: Path | None, templates: dict[str, str]) -> None:
        self.intents = load(intents)
        self.replies = load(replies) if replies else None
        self.templates = templates
        self.scope = self.intents.info.get("scope")

    def answer(self, question: str) -> dict[str, Any]:
        """Return ``{intent, answer, person}``."""
        (best,) = self.intents.predict([question])
        if self.scope and best["label"] == self.scope["label"]:
            return self._result(question, best["label"], person=True)
        ids = self.intents.tokenizer.encode(question).ids
        shares = log_softmax(self.intents.logits([ids])[0])
        candidates = [
            (float(shares[n]), self.intents.labels[n])
            for n in shares.argsort()[::-1]
            if self.intents.labels[n] in self.templates
            and not (self.scope and self.intents.labels[n] == self.scope["label"])
        ][:CANDIDATES]
        scored = [
            (prior + REPLY_WEIGHT * self.likelihood(question, intent), intent)
            for prior, intent in candidates
        ]
        return self._result(question, max(scored)[1], person=False)

    def likelihood(self, question: str, intent: str) -> float:
        """Mean log-probability of the template's tokens after the question."""
        if self.replies is None:
            return 0.0
        encode = self.replies.tokenizer.encode
        prompt = encode(f"customer: {question} answer:", add_special_tokens=False).ids
        reply = encode(self.fill(question, intent), add_special_tokens=False).ids
        ids = (prompt + reply)[-self.replies.max_length :]
        reply = ids[-min(len(reply), len(ids) - 1) :]
        found = log_softmax(self.replies.logits([ids])[0][-len(reply) - 1 : -1])
        return float(found[np.arange(len(reply)), reply].mean())

    def fill(self, question: str, intent: str) -> str:
        """Return the template with the order of the question."""
        number = ORDER.search(question)
        order = f"order {number[0]}" if number else "your order"
        return self.templates[intent].replace("[order]", order)

    def _result(self, question: str, intent: str, *, person: bool) -> dict[str, Any]:
        return {"intent": intent, "answer": self.fill(question, intent), "person": person}


def main() -> None:
    """Answer each line of standard input with a JSON object."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--intents", type=Path, required=True, help="published model folder")
    parser.add_argument("--replies", type=Path, help="published model folder")
    parser.add_argument("--templates", type=Path, default=here / "answers.json")
    options = parser.parse_args()
    templates = json.loads(options.templates.read_text(encoding="utf-8"))
    answerer = Answerer(options.intents, options.replies, templates)
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answerer.answer(line.strip()), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
