"""Turn examples into token columns, a block at a time, without a Python loop over tokens.

A fast tokenizer encodes each pre-split word on its own, so a word's ids never depend on its
neighbours. Words repeat (Zipf), so each distinct word is encoded once and blocks are assembled by
gathering from one flat array. The same holds for plain text when the tokenizer splits on white
space before anything else looks at context; `splits_on_blanks` decides, and every block checks a
sample against the tokenizer itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from components.contract import DataError, StepError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Entries kept between blocks; 200,000 words take about 50 MB in each process.
CACHE_WORDS = 200_000
CHECKED_TEXTS = 8
# Texts encoded at a time: a word as a Python string takes ten times its characters.
CHUNK_CHARACTERS = 1 << 20


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate ``arange(start, start + length)`` for each pair."""
    total = int(lengths.sum())
    if total == 0:
        return np.empty(0, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclass(frozen=True, slots=True)
class Specials:
    """Special tokens that the tokenizer's own post-processor puts around a sequence or a pair."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def single_count(self) -> int:
        return len(self.before) + len(self.after)


def specials_of(tokenizer: Tokenizer, *, pair: bool = False) -> Specials:
    """Ask the tokenizer which special tokens surround one sequence (or two)."""
    words = _probe(tokenizer)
    encoding = (
        tokenizer.encode([words], [words], is_pretokenized=True)
        if pair
        else (tokenizer.encode([words], is_pretokenized=True))
    )
    sequence = np.array([-1 if s is None else s for s in encoding.sequence_ids])
    ids = encoding.ids
    real = np.flatnonzero(sequence >= 0)
    before, after = ids[: real[0]], ids[real[-1] + 1 :]
    inner = slice(real[0], real[-1])
    between = [i for i, s in zip(ids[inner], sequence[inner], strict=True) if s < 0]
    return Specials(tuple(before), tuple(between), tuple(after))


def _probe(tokenizer: Tokenizer) -> str:
    for word in ("a", "的", "1"):
        if tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids:
            return word
    raise DataError("the tokenizer encodes neither 'a' nor '的' nor '1'")


def splits_on_blanks(tokenizer: Tokenizer) -> bool:
    """True when encoding a text equals encoding its blank-separated pieces one by one."""
    document = json.loads(tokenizer.to_str())
    before = (document.get("pre_tokenizer") or {}).get("type")
    normalizer = (document.get("normalizer") or {}).get("type")
    model = (document.get("model") or {}).get("type")
    return before == "BertPreTokenizer" and normalizer == "BertNormalizer" and model == "WordPiece"


@dataclass(slots=True)
class WordPieces:
    """Token ids of every distinct word seen, in one growing flat array.

    `words_mode` encodes as pre-split words; otherwise as pieces of running text.
    """

    tokenizer: Tokenizer
    words_mode: bool
    unknown_id: int | None
    index: dict[str, int] = field(default_factory=dict)
    flat: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    starts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def look_up(self, words: list[str]) -> np.ndarray:
        """Return the entry number of each word, encoding those not seen before."""
        if len(self.index) > CACHE_WORDS:
            self._clear()
        missing = list(dict.fromkeys(word for word in words if word not in self.index))
        if missing:
            self._encode(missing)
        return np.fromiter(map(self.index.__getitem__, words), np.int64, len(words))

    def _clear(self) -> None:
        self.index = {}
        self.flat = np.empty(0, np.int32)
        self.starts = self.lengths = np.empty(0, np.int64)

    def _encode(self, missing: list[str]) -> None:
        inputs: list[Any] = [[word] for word in missing] if self.words_mode else missing
        encodings = self.tokenizer.encode_batch_fast(
            inputs, is_pretokenized=self.words_mode, add_special_tokens=False
        )
        ids = [encoding.ids for encoding in encodings]
        if self.words_mode:
            # A word of zero-width or control characters only has no token; it still needs one to
            # carry its label.
            ids = [i or self._unknown(word) for i, word in zip(ids, missing, strict=True)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        starts = len(self.flat) + np.cumsum(lengths) - lengths
        new = np.fromiter((i for row in ids for i in row), np.int32, int(lengths.sum()))
        first = len(self.index)
        self.index.update((word, first + n) for n, word in enumerate(missing))
        self.flat = np.concatenate([self.flat, new])
        self.starts = np.concatenate([self.starts, starts])
        self.lengths = np.concatenate([self.lengths, lengths])

    def _unknown(self, word: str) -> list[int]:
        if self.unknown_id is None:
            raise DataError(
                f"the tokenizer gives the word {word!r} no token and has no unknown token"
            )
        return [self.unknown_id]


def unknown_id_of(tokenizer: Tokenizer) -> int | None:
    """Return the id of the tokenizer's unknown token, or of one named like it."""
    name = json.loads(tokenizer.to_str())["model"].get("unk_token")
    for candidate in (name, "[UNK]", "<unk>", "<|endoftext|>"):
        if isinstance(candidate, str):
            token_id = tokenizer.token_to_id(candidate)
            if token_id is not None:
                return int(token_id)
    return None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of many sequences: one flat array and where each begins (rows + 1 offsets)."""

    flat: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def text_tokens(tokenizer: Tokenizer, pieces: WordPieces | None, texts: list[str]) -> Tokens:
    """Encode texts without special tokens.

    Args:
        pieces: cache to use when `splits_on_blanks`, else None.
    """
    parts = [
        _whole_texts(tokenizer, chunk) if pieces is None else _texts_by_word(pieces, chunk)
        for chunk in chunks(texts)
    ]
    flat = np.concatenate([part.flat for part in parts] or [np.empty(0, np.int32)])
    lengths = np.concatenate([part.lengths for part in parts] or [np.empty(0, np.int64)])
    tokens = Tokens(flat, np.concatenate([[0], np.cumsum(lengths)]))
    if pieces is not None:
        _check_sample(tokenizer, texts, tokens)
    return tokens


def chunks(texts: list[str]) -> Iterator[list[str]]:
    """Cut a list of texts into pieces of at most `CHUNK_CHARACTERS`, or of one text."""
    first, size = 0, 0
    for row, text in enumerate(texts):
        if size and size + len(text) > CHUNK_CHARACTERS:
            yield texts[first:row]
            first, size = row, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]


def _whole_texts(tokenizer: Tokenizer, texts: list[str]) -> Tokens:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    flat = np.fromiter((i for row in ids for i in row), np.int32, int(lengths.sum()))
    return Tokens(flat, np.concatenate([[0], np.cumsum(lengths)]))


def _texts_by_word(pieces: WordPieces, texts: list[str]) -> Tokens:
    # Exactly the characters that BertNormalizer maps to a blank; other white space it removes or
    # splits itself.
    split = [
        text.replace("\t", " ").replace("\n", " ").replace("\r", " ").split(" ") for text in texts
    ]
    counts = np.fromiter(map(len, split), np.int64, len(split))
    entries = pieces.look_up([word for words in split for word in words])
    word_ends = np.concatenate([[0], np.cumsum(pieces.lengths[entries])])
    flat = pieces.flat[ranges(pieces.starts[entries], pieces.lengths[entries])]
    return Tokens(flat, word_ends[np.concatenate([[0], np.cumsum(counts)])])


def _check_sample(tokenizer: Tokenizer, texts: list[str], tokens: Tokens) -> None:
    for row in range(0, len(texts), max(1, len(texts) // CHECKED_TEXTS)):
        expected = tokenizer.encode(texts[row], add_special_tokens=False).ids
        if expected != tokens.flat[tokens.offsets[row] : tokens.offsets[row + 1]].tolist():
            raise StepError(
                f"piecewise tokenisation differs from the tokenizer on {texts[row][:80]!r}",
                remedy="report this tokenizer: it must not be encoded piece by piece",
            )
