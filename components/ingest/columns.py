"""Arrow columns of one block of examples, one function a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from components.contract import IGNORED_LABEL, DataError
from components.ingest.encode import (
    Specials,
    Tokens,
    WordPieces,
    ranges,
    specials_of,
    splits_on_blanks,
    text_tokens,
    unknown_id_of,
)
from components.ingest.examples import Example
from components.ingest.ragged import cut, interleave, list_column, longest_first, surround
from components.ingest.readers.images import encode_image
from components.ingest.tags import to_bio2
from components.ingest.windows import cut_windows
from components.lib.references import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One table and the counts that a table does not show."""

    table: pa.Table
    words: int = 0
    truncated: int = 0


@dataclass(slots=True)
class Encoder:
    """Encodes blocks for one task with one tokenizer; keeps its word cache between blocks."""

    task: str
    labels: list[str]
    max_length: int
    tokenizer: Tokenizer | None  # None for images
    specials: Specials
    pieces: WordPieces | None
    label_ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.label_ids = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def load(cls, *, task: str, labels: list[str], max_length: int, folder: Path | None) -> Encoder:
        """Load the tokenizer in `folder`.

        Raises:
            DataError: it cannot be read, or its special tokens leave no room in `max_length`.
        """
        if folder is None:
            return cls(task, labels, max_length, None, Specials((), (), ()), None)
        tokenizer = load_tokenizer(folder)
        ner = task == "token-classification"
        specials = specials_of(tokenizer, pair=task == "text-pair-ranking")
        room = max_length - specials.single_count - len(specials.between)
        if room < 2:
            raise DataError(f"max_length {max_length} leaves no room beside special tokens")
        pieces = None
        if ner or splits_on_blanks(tokenizer):
            pieces = WordPieces(tokenizer, ner, unknown_id_of(tokenizer))
        return cls(task, labels, max_length, tokenizer, specials, pieces)

    def encode(self, examples: list[Example], first: int) -> Block:
        """Encode one block whose first example has number `first` in its split."""
        makers: dict[str, Callable[[list[Example], int], Block]] = {
            "token-classification": self._words,
            "text-classification": self._texts,
            "text-pair-ranking": self._pairs,
            "causal-lm": self._completions,
            "image-classification": self._images,
        }
        return makers[self.task](examples, first)

    # -- token-classification --------------------------------------------------------------------

    def _words(self, examples: list[Example], first: int) -> Block:
        assert self.pieces is not None
        counts = np.fromiter((len(e.text) for e in examples), np.int64, len(examples))
        entries = self.pieces.look_up([word for e in examples for word in e.text])
        tags = np.fromiter(
            (number for e in examples for number in self._tags(e)),
            np.int32,
            int(counts.sum()),
        )
        capacity = self.max_length - self.specials.single_count
        starts, lengths = self.pieces.starts[entries], self.pieces.lengths[entries]
        truncated = int((lengths > capacity).sum())
        lengths = np.minimum(lengths, capacity)
        windows = cut_windows(counts, lengths, capacity)
        word_counts = windows.stop - windows.start
        words = ranges(windows.start, word_counts)
        row_of_word = np.repeat(np.arange(len(word_counts)), word_counts)
        scored = (words >= windows.score_start[row_of_word]) & (
            words < windows.score_stop[row_of_word]
        )
        word_lengths = lengths[words]
        flat = self.pieces.flat[ranges(starts[words], word_lengths)]
        labels = np.full(len(flat), IGNORED_LABEL, np.int32)
        labels[np.cumsum(word_lengths) - word_lengths] = np.where(
            scored, tags[words], IGNORED_LABEL
        )
        row_tokens = np.bincount(row_of_word, word_lengths, len(word_counts)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(row_tokens)])
        before, after = self.specials.before, self.specials.after
        ids = surround(Tokens(flat, offsets), before, after)
        quiet = (IGNORED_LABEL,)
        label_column = surround(Tokens(labels, offsets), quiet * len(before), quiet * len(after))
        documents = np.fromiter((e.group or 0 for e in examples), np.int64, len(examples))
        table = pa.table(
            {
                "input_ids": list_column(ids),
                "labels": list_column(label_column),
                "sentence": pa.array(first + windows.example),
                "document": pa.array(documents[windows.example]),
            }
        )
        return Block(table=table, words=int(counts.sum()), truncated=truncated)

    def _tags(self, example: Example) -> list[int]:
        if example.label is None:
            return [IGNORED_LABEL] * len(example.text)
        return [self.label_ids[tag] for tag in to_bio2(example.label)]

    # -- text-classification ---------------------------------------------------------------------

    def _texts(self, examples: list[Example], first: int) -> Block:
        tokens = text_tokens(self.tokenizer, self.pieces, [e.text for e in examples])
        capacity = self.max_length - self.specials.single_count
        kept = cut(tokens, np.minimum(tokens.lengths, capacity))
        ids = (IGNORED_LABEL if e.label is None else self.label_ids[e.label] for e in examples)
        labels = np.fromiter(ids, np.int32, len(examples))
        table = pa.table(
            {
                "input_ids": list_column(surround(kept, self.specials.before, self.specials.after)),
                "label": pa.array(labels),
                "example": pa.array(np.arange(first, first + len(examples))),
            }
        )
        return Block(table=table, truncated=int((tokens.lengths > capacity).sum()))

    # -- text-pair-ranking -----------------------------------------------------------------------

    def _pairs(self, examples: list[Example], first: int) -> Block:
        left = text_tokens(self.tokenizer, self.pieces, [e.text for e in examples])
        right = text_tokens(self.tokenizer, self.pieces, [e.pair or "" for e in examples])
        s = self.specials
        capacity = self.max_length - len(s.before) - len(s.between) - len(s.after)
        keep_left, keep_right = longest_first(left.lengths, right.lengths, capacity)
        truncated = int(((keep_left < left.lengths) | (keep_right < right.lengths)).sum())
        head = surround(cut(left, keep_left), s.before, s.between)
        tail = surround(cut(right, keep_right), (), s.after)
        types = [np.zeros(len(head.flat), np.int8), np.ones(len(tail.flat), np.int8)]
        table = pa.table(
            {
                "input_ids": list_column(interleave(head, tail)),
                "token_type_ids": list_column(
                    interleave(Tokens(types[0], head.offsets), Tokens(types[1], tail.offsets))
                ),
                "label": pa.array([float(e.label) for e in examples], pa.float32()),
                "group": pa.array([int(e.group) for e in examples], pa.int64()),
                "example": pa.array(np.arange(first, first + len(examples))),
            }
        )
        return Block(table=table, truncated=truncated)

    # -- causal-lm -------------------------------------------------------------------------------

    def _completions(self, examples: list[Example], first: int) -> Block:
        """Prompt then completion then the end token; a prompt too long loses its beginning."""
        prompts = text_tokens(self.tokenizer, self.pieces, [e.text for e in examples])
        answers = text_tokens(self.tokenizer, self.pieces, [e.pair or "" for e in examples])
        end = end_token_ids(self.tokenizer)
        capacity = self.max_length - len(self.specials.before) - len(end)
        keep_answer = np.minimum(answers.lengths, capacity)
        keep_prompt = np.minimum(prompts.lengths, capacity - keep_answer)
        truncated = int(((keep_answer < answers.lengths) | (keep_prompt < prompts.lengths)).sum())
        tail_of_prompt = Tokens(
            prompts.flat[ranges(prompts.offsets[1:] - keep_prompt, keep_prompt)],
            np.concatenate([[0], np.cumsum(keep_prompt)]),
        )
        head = surround(tail_of_prompt, self.specials.before, ())
        tail = surround(cut(answers, keep_answer), (), end)
        quiet = Tokens(np.full(len(head.flat), IGNORED_LABEL, np.int32), head.offsets)
        table = pa.table(
            {
                "input_ids": list_column(interleave(head, tail)),
                "labels": list_column(interleave(quiet, tail)),
                "example": pa.array(np.arange(first, first + len(examples))),
            }
        )
        return Block(table=table, truncated=truncated)

    # -- image-classification --------------------------------------------------------------------

    def _images(self, examples: list[Example], first: int) -> Block:
        table = pa.table(
            {
                "image": pa.array([encode_image(Path(e.text)) for e in examples], pa.binary()),
                "label": pa.array([self.label_ids[e.label] for e in examples], pa.int32()),
                "example": pa.array(np.arange(first, first + len(examples))),
            }
        )
        return Block(table=table)


def end_token_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the id of the end-of-text token, or nothing when the tokenizer has none."""
    for name in ("<|endoftext|>", "</s>", "<|im_end|>", "<eos>", "[SEP]"):
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return (int(token_id),)
    return ()
