"""Label, confidence and input features of texts, with a published model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.contract import DataError, SpecError
from components.lib.metrics import softmax
from components.lib.references import load_tokenizer
from components.lib.runner import Runner

# What negative labels are called, when the caller does not say.
NEGATIVE_LABELS = ("negative", "bearish", "neg")
UNKNOWN_TOKENS = ("[UNK]", "<unk>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One text's result: label, its probability, tokens and the share of unknown ones."""

    label: str
    confidence: float
    negative: bool
    tokens: int
    unknown: float


class Scorer:
    """A published classifier and what it calls negative."""

    def __init__(self, folder: Path, *, negative: list[str] | None, threads: int) -> None:
        """Open the model.

        Raises:
            DataError: the folder holds no classifier of texts.
            SpecError: no label of it is called `negative`.
        """
        self.runner = Runner(folder, device="cpu", threads=threads)
        if self.runner.info["task"] != "text-classification":
            raise DataError(
                f"{folder}: a model for {self.runner.info['task']}",
                remedy="the monitor needs one for text-classification",
            )
        self.labels: list[str] = json.loads((folder / "labels.json").read_bytes())
        self.negative = negative or [
            label for label in self.labels if label.lower() in NEGATIVE_LABELS
        ]
        unknown = [label for label in self.negative if label not in self.labels]
        if unknown or not self.negative:
            raise SpecError(
                f"--negative: the model has no label {unknown[0]!r}" if unknown
                else "--negative: which label is negative?",
                remedy=f"its labels are {', '.join(self.labels[:20])}",
            )  # fmt: skip
        self.tokenizer = load_tokenizer(folder)
        self.tokenizer.enable_truncation(self.runner.max_length)
        ids = (self.tokenizer.token_to_id(name) for name in UNKNOWN_TOKENS)
        self.unknown_id = next((i for i in ids if i is not None), -1)
        with (folder / "model.onnx").open("rb") as stream:
            self.digest = hashlib.file_digest(stream, "sha256").hexdigest()

    def score(self, texts: list[str]) -> list[Scored]:
        """Score texts, in order."""
        sequences = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        shares = softmax(self.runner.run(sequences))
        best = shares.argmax(axis=1)
        top = shares[np.arange(len(best)), best]
        return [
            Scored(
                label=self.labels[label],
                confidence=float(confidence),
                negative=self.labels[label] in self.negative,
                tokens=len(ids),
                unknown=ids.count(self.unknown_id) / len(ids),
            )
            for label, confidence, ids in zip(best, top, sequences, strict=True)
        ]
