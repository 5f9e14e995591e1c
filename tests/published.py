"""Score a published NER model with nothing of ours: onnxruntime, tokenizers, seqeval and a CoNLL
reader of ten lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from seqeval.metrics import f1_score
from tokenizers import Tokenizer

Sentence = tuple[list[str], list[str]]


def read_conll(path: Path) -> list[Sentence]:
    """Read word and tag (first and last column) of every sentence."""
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.strip():
            columns = line.split("\t")
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


def predict(folder: Path, sentences: list[Sentence]) -> list[list[str]]:
    """Tag every word by its first sub-token, one sentence at a time, without any padding."""
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    labels = json.loads((folder / "labels.json").read_text())
    limit = json.loads((folder / "export.json").read_text())["max_length"]

    def tag(words: list[str]) -> list[str]:
        encoding = tokenizer.encode(words, is_pretokenized=True)
        if len(encoding.ids) > limit and len(words) > 1:  # longer than the graph takes
            middle = len(words) // 2
            return tag(words[:middle]) + tag(words[middle:])
        best = session.run(None, feeds(session, encoding.ids))[0][0].argmax(-1)
        tags = ["O"] * len(words)
        seen: set[int] = set()
        for position, word in enumerate(encoding.word_ids):
            if word is not None and word not in seen:
                seen.add(word)
                tags[word] = labels[best[position]]
        return tags

    return [tag(words) for words, _ in sentences]


def feeds(session: onnxruntime.InferenceSession, ids: list[int]) -> dict[str, np.ndarray]:
    """Return the inputs that the graph asks for, for one sequence."""
    available = {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "token_type_ids": [0] * len(ids),
    }
    made = {}
    for port in session.get_inputs():
        kind = np.int32 if port.type == "tensor(int32)" else np.int64
        if port.name in available:
            made[port.name] = np.array([available[port.name]], dtype=kind)
        else:  # one length a sequence instead of a mask
            made[port.name] = np.array([len(ids)], dtype=kind)
    return made


def entity_f1(folder: Path, sentences: list[Sentence]) -> float:
    """Entity F1 in seqeval's default mode."""
    return float(f1_score([tags for _, tags in sentences], predict(folder, sentences)))
