#!/usr/bin/env python3
"""Predict with the model in this folder. Needs onnxruntime and tokenizers (and numpy, which
onnxruntime brings), nothing else; Pillow too for images.

    python predict.py sentences.txt > predictions.jsonl     one input a line
    echo "Jane lives in Oslo" | python predict.py

An input line is: words separated by blanks for tagging; a text for classification; query, tab,
document for ranking; a prompt for language models; a file name for images. A JSON array of words
is taken as words. Each output line is a JSON object.

    from predict import Predictor
    Predictor().predict(["Jane lives in Oslo"])
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
TOKENS_PER_BATCH = 512  # padded; a small encoder's activations then stay in the CPU's cache
OVERLAP_FRACTION = 0.25  # of a window, for sentences longer than the model takes
KINDS = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class Predictor:
    """The model, loaded once."""

    def __init__(
        self,
        folder: str | Path = HERE,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        folder = Path(folder)
        self.info = json.loads((folder / "export.json").read_text())
        self.task, self.max_length = self.info["task"], self.info["max_length"]
        self.labels = json.loads((folder / "labels.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=list(providers)
            )
        except Exception as error:  # onnxruntime has a class a status code, all bare Exceptions
            raise RuntimeError(
                f"{folder / 'model.onnx'}: onnxruntime {onnxruntime.__version__} cannot open it: "
                f"{str(error).splitlines()[0]} (a damaged file fails `sha256sum -c SHA256SUMS`; "
                f"else install an onnxruntime that knows opset {self.info.get('opset')})"
            ) from error
        self.inputs = {i.name: KINDS[i.type] for i in self.session.get_inputs()}
        if (folder / "tokenizer.json").is_file():
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.no_padding()
            self.tokenizer.no_truncation()

    def predict(self, inputs: Iterable[Any]) -> list[Row]:
        """Return one dict an input, in order."""
        inputs = list(inputs)
        tasks = {
            "token-classification": self._tag,
            "text-classification": self._classify,
            "text-pair-ranking": self._rank,
            "causal-lm": self._complete,
            "image-classification": self._see,
        }
        return tasks[self.task](inputs) if inputs else []

    # -- tasks -----------------------------------------------------------------------------------

    def _tag(self, inputs: list[Any]) -> list[Row]:
        sentences = [text.split() if isinstance(text, str) else list(text) for text in inputs]
        rows = [(n, w) for n, words in enumerate(sentences) for w in self._windows(words)]
        labels = [["O"] * len(words) for words in sentences]
        logits = self.logits([window["ids"] for _, window in rows])
        for (number, window), scores in zip(rows, logits, strict=True):
            for word, position in window["scored"]:
                labels[number][word] = self.labels[int(scores[position].argmax())]
        return [
            {"words": words, "labels": tags, "entities": entities(words, tags)}
            for words, tags in zip(sentences, labels, strict=True)
        ]

    def _windows(self, words: list[str]) -> Iterator[Row]:
        """Cut a sentence into windows the model takes; each word is labelled in one of them."""
        pieces = [self._pieces(word) for word in words]
        frame = self.tokenizer.encode(["a"], is_pretokenized=True)
        inner = [i for i, s in enumerate(frame.sequence_ids) if s is not None]
        before, after = frame.ids[: inner[0]], frame.ids[inner[-1] + 1 :]
        capacity = self.max_length - len(before) - len(after)
        pieces = [ids[:capacity] for ids in pieces]
        ends = [0]
        for ids in pieces:
            ends.append(ends[-1] + len(ids))
        spans, at = [], 0
        while words:
            last = bisect.bisect_right(ends, ends[at] + capacity) - 1
            spans.append((at, last))
            if last >= len(words):
                break
            back = ends[last] - int(capacity * OVERLAP_FRACTION)
            at = max(at + 1, bisect.bisect_left(ends, back))
        seams = [(left[1] + right[0] + 1) // 2 for left, right in itertools.pairwise(spans)]
        bounds = [0, *seams, len(words)]
        for number, (start, stop) in enumerate(spans):
            ids = [i for piece in pieces[start:stop] for i in piece]
            scored = [
                (word, len(before) + ends[word] - ends[start])
                for word in range(bounds[number], bounds[number + 1])
            ]
            yield {"ids": [*before, *ids, *after], "scored": scored}

    def _pieces(self, word: str) -> list[int]:
        ids = self.tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids
        if ids:
            return ids
        names = ("[UNK]", "<unk>", "<|endoftext|>")
        return [next(i for i in map(self.tokenizer.token_to_id, names) if i is not None)]

    def _classify(self, inputs: list[str]) -> list[Row]:
        self.tokenizer.enable_truncation(self.max_length)
        return self._best(self.logits([e.ids for e in self.tokenizer.encode_batch(inputs)]))

    def _best(self, logits: Iterable[np.ndarray]) -> list[Row]:
        """The likeliest label; where the model has an out-of-scope label, that one below the
        threshold (`score` is then the probability that no other label fits)."""
        scope, results = self.info.get("scope"), []
        for scores in logits:
            shares = softmax(scores)
            best = int(shares.argmax())
            label, score = self.labels[best], float(shares[best])
            if scope and label != scope["label"] and score < scope["threshold"]:
                label, score = scope["label"], 1.0 - score
            results.append({"label": label, "score": score})
        return results

    def _rank(self, inputs: list[Any]) -> list[Row]:
        self.tokenizer.enable_truncation(self.max_length)
        pairs = [tuple(t.split("\t", 1)) if isinstance(t, str) else tuple(t) for t in inputs]
        encodings = self.tokenizer.encode_batch(pairs)
        types = [e.type_ids for e in encodings]
        logits = self.logits([e.ids for e in encodings], types)
        return [{"score": float(scores[0])} for scores in logits]

    def _complete(self, inputs: list[str], most_tokens: int = 64) -> list[Row]:
        ends = {self.tokenizer.token_to_id(n) for n in ("<|endoftext|>", "</s>", "[SEP]", "<eos>")}
        results = []
        for text in inputs:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids = ids[-(self.max_length - 1) :]
            first = len(ids)
            while len(ids) < min(self.max_length, first + most_tokens):
                best = int(self.logits([ids])[0][-1].argmax())
                if best in ends:
                    break
                ids.append(best)
            results.append({"completion": self.tokenizer.decode(ids[first:])})
        return results

    def _see(self, inputs: list[str]) -> list[Row]:
        from PIL import Image

        size, results = self.info["image_size"], []
        for name in inputs:
            with Image.open(name) as image:
                square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(square, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
            kind = self.inputs["pixel_values"]
            feed = {"pixel_values": pixels.astype(kind)}
            results += self._best(self.session.run(None, feed)[0].astype(np.float32))
        return results

    # -- running ---------------------------------------------------------------------------------

    def logits(
        self, sequences: list[list[int]], types: list[list[int]] | None = None
    ) -> list[np.ndarray]:
        """Return the logits of each id list: (tokens, labels) for tagging, else (labels,).

        Sequences run sorted by length, so that little padding is computed.
        """
        for row, ids in enumerate(sequences):
            if not 1 <= len(ids) <= self.max_length:
                raise ValueError(
                    f"sequence {row} has {len(ids)} tokens; the model takes 1 to {self.max_length}"
                )
        order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
        results, start = [None] * len(sequences), 0
        while start < len(order):
            width = len(sequences[order[start]])
            rows = order[start : start + max(1, TOKENS_PER_BATCH // width)]
            start += len(rows)
            found = self.session.run(None, self._feed(sequences, types, rows, width))[0]
            for row, scores in zip(rows, found.astype(np.float32), strict=True):
                per_token = self.info["output"] == "token"
                results[row] = scores[: len(sequences[row])] if per_token else scores
        return results

    def _feed(
        self,
        sequences: list[list[int]],
        types: list[list[int]] | None,
        rows: list[int],
        width: int,
    ) -> dict[str, np.ndarray]:
        arrays = {
            "input_ids": np.full((len(rows), width), self.info["pad_token_id"]),
            "attention_mask": np.zeros((len(rows), width)),
            "token_type_ids": np.zeros((len(rows), width)),
        }
        for position, row in enumerate(rows):
            size = len(sequences[row])
            arrays["input_ids"][position, :size] = sequences[row]
            arrays["attention_mask"][position, :size] = 1
            if types is not None:
                arrays["token_type_ids"][position, :size] = types[row]
        return {name: arrays[name].astype(kind) for name, kind in self.inputs.items()}


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def entities(words: list[str], tags: list[str]) -> list[Row]:
    """Join tagged words to entities; an I- tag without its B- starts one."""
    found, open_type = [], None
    for position, tag in enumerate([*tags, "O"]):
        kind = tag[2:] if tag != "O" else None
        if open_type is not None and (kind != open_type or tag.startswith("B-")):
            found[-1]["end"] = position
            found[-1]["text"] = " ".join(words[found[-1]["start"] : position])
            open_type = None
        if kind is not None and open_type is None:
            found.append({"type": kind, "start": position})
            open_type = kind
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict with the model in this folder.")
    parser.add_argument("input", nargs="?", help="file with one input a line (default: stdin)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    options = parser.parse_args()
    text = Path(options.input).read_text("utf-8") if options.input else sys.stdin.read()
    inputs = [parse(line.rstrip("\r")) for line in text.split("\n") if line.strip()]
    try:
        predictor = Predictor(threads=options.threads, providers=(options.provider,))
        for result in predictor.predict(inputs):
            print(json.dumps(result, ensure_ascii=False))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")


def parse(line: str) -> Any:
    """Return the words of a line that is a JSON array of strings, any other line as it is."""
    if line.startswith("["):
        try:
            words = json.loads(line)
        except ValueError:
            return line  # a text that happens to start with a bracket
        if all(isinstance(word, str) for word in words):
            return words
    return line


if __name__ == "__main__":
    main()
