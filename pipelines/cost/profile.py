"""What the data is like, before it is ingested: rows, tokens and lengths of each split.

Local files and the project's own sets are read (within a time bound) and tokenised; remote data is
known by `data.profile` in the spec, or assumed with a wide interval.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.contract import DataError
from components.ingest import sources, synthetic
from components.ingest.encode import WordPieces, text_tokens, unknown_id_of
from components.ingest.examples import Example
from components.ingest.formats import read_source
from components.ingest.unlabelled import Wanted, read_unlabelled
from components.lib.references import load_tokenizer
from pipelines.cost.model import tokenizer_folder
from pipelines.spec import Spec
from pipelines.spec_sections import Unlabelled

Lengths = npt.NDArray[np.int64]
SPLITS = ("train", "validation", "test")
UNLABELLED = "unlabelled"
# A plan must take seconds, and the same data must give the same plan: so many bytes of text are
# read of each split (a second or two), the rest is scaled by size.
READ_BYTES = 1_200_000
BLOCK_ROWS = 512
SPECIAL_TOKENS = {"text-pair-ranking": 3, "causal-lm": 1, "image-classification": 0}
# Where no tokenizer is at hand: sub-tokens a word and characters a token of English text in
# WordPiece and byte-pair vocabularies of 30k to 50k (WNUT-17 has 1.44, banking77 1.19 a word).
TOKENS_PER_WORD = 1.3
CHARACTERS_PER_TOKEN = 4.2
# What is assumed of data that nobody described.
ASSUMED_ROWS = 10_000
ASSUMED_TOKENS_PER_ROW = 48.0
ASSUMED_SPREAD = 3.0
SAMPLED_SPREAD = 1.15
IMAGE_TOKENS = 197  # 224 pixels in patches of 16, with the class token


@dataclass(frozen=True, kw_only=True)  # no slots: derived figures are asked for thousands of times
class SplitProfile:
    """One split. `lengths` holds tokens of a row with special tokens, cut to max_length; a sample
    when `exact` is False. `spread` is the factor by which rows x tokens may be off (80 %);
    `distinct` the number of different tokens in what was read, 0 where it was not."""

    rows: int
    words: int
    bytes: int
    lengths: Lengths
    source: str
    exact: bool
    spread: float = 1.0
    distinct: int = 0

    @cached_property
    def mean_length(self) -> float:
        return float(self.lengths.mean()) if len(self.lengths) else 0.0

    @cached_property
    def span(self) -> float:
        """Tokens that a token can attend to: the mean length of the row it is in."""
        total = float(self.lengths.sum())
        return float((self.lengths.astype(float) ** 2).sum()) / total if total else 0.0

    @cached_property
    def _ordered(self) -> Lengths:
        return np.sort(self.lengths)

    @cached_property
    def _padded(self) -> dict[int, float]:
        return {}

    @cached_property
    def tokens(self) -> int:
        return round(self.rows * self.mean_length)

    def padded_length(self, batch: int) -> float:
        """Tokens a row takes in length-bucketed batches of `batch` rows, each padded to its
        longest: rows sorted by length, mean of every `batch`-th maximum."""
        if batch not in self._padded:
            self._padded[batch] = self._padded_length(batch)
        return self._padded[batch]

    def _padded_length(self, batch: int) -> float:
        if not len(self.lengths):
            return 0.0
        ordered = self._ordered
        scale = min(len(ordered), max(1, round(batch * len(ordered) / max(self.rows, 1))))
        longest = ordered[min(scale, len(ordered)) - 1 :: scale]
        counts = np.full(len(longest), scale, dtype=float)
        rest = len(ordered) - len(longest) * scale
        if rest > 0:
            longest, counts = np.append(longest, ordered[-1]), np.append(counts, rest)
        return float((longest * counts).sum() / len(ordered))

    def to_json(self) -> dict[str, Any]:
        values, counts = np.unique(self.lengths, return_counts=True)
        scale = self.rows / max(len(self.lengths), 1)
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.bytes,
            "length_histogram": {
                str(int(v)): round(float(c) * scale) for v, c in zip(values, counts, strict=True)
            },
            "source": self.source,
            "exact": self.exact,
        }


Profile = dict[str, SplitProfile]


def profile_of(spec: Spec, observed: dict[str, Any] | None = None) -> Profile:
    """Describe the three splits, and the texts without labels if the spec names any.

    Args:
        spec: names the data.
        observed: the dataset manifest that ingest wrote; replaces every probe.

    Raises:
        DataError: local data is missing, malformed or has no rows.
    """
    if observed is not None:
        names = [*SPLITS, *({UNLABELLED} & set(observed["splits"]))]
        return {name: _from_manifest(observed["splits"][name]) for name in names}
    whole = {name: _probe(spec, name) for name in SPLITS if getattr(spec.data, name).uri}
    fractions = {name: getattr(spec.data, name).fraction for name in SPLITS if name not in whole}
    found: Profile = {}
    left = 1.0 - sum(fractions.values())
    for name in SPLITS:
        share = fractions.get(name, left if name == "train" else None)
        found[name] = whole[name] if share is None else _share(whole["train"], share)
    if spec.data.unlabelled is not None:
        found[UNLABELLED] = _probe_unlabelled(spec, spec.data.unlabelled)
    return found


def _share(split: SplitProfile, share: float) -> SplitProfile:
    return SplitProfile(
        rows=max(1, round(split.rows * share)),
        words=round(split.words * share),
        bytes=round(split.bytes * share),
        lengths=split.lengths,
        source=split.source,
        exact=split.exact,
        spread=split.spread,
        distinct=split.distinct,
    )


def _from_manifest(entry: dict[str, Any]) -> SplitProfile:
    histogram = entry["length_histogram"]
    return SplitProfile(
        rows=int(entry["rows"]),
        words=int(entry.get("words") or 0),
        bytes=int(sum(shard["bytes"] for shard in entry["shards"])),
        lengths=_expand(histogram),
        source="manifest",
        exact=True,
    )


def _expand(histogram: dict[Any, Any]) -> Lengths:
    """Lengths of a histogram, thinned to at most 100,000 rows."""
    values = np.array([int(k) for k in histogram], dtype=np.int64)
    counts = np.array([int(v) for v in histogram.values()], dtype=np.int64)
    thin = max(1.0, counts.sum() / 100_000)
    return np.repeat(values, np.maximum(1, np.round(counts / thin)).astype(np.int64))


def _probe(spec: Spec, split: str) -> SplitProfile:
    uri = spec.locate(str(getattr(spec.data, split).uri))
    given = spec.data.profile
    if given is not None and (split == "train" or not _is_local(uri)):
        # The profile describes the training data; other remote splits are a tenth of it.
        rows = given.rows if split == "train" else max(1, given.rows // 10)
        mean = min(given.tokens / given.rows, float(spec.training.max_length))
        lengths = (
            _expand(given.length_histogram)
            if given.length_histogram
            else _assumed_lengths(mean, spec.training.max_length)
        )
        return SplitProfile(
            rows=rows, words=round(rows * mean / TOKENS_PER_WORD), bytes=round(rows * mean * 6),
            lengths=lengths, source="data.profile", exact=given.length_histogram is not None,
            spread=1.0 if given.length_histogram else SAMPLED_SPREAD,
        )  # fmt: skip
    if not _is_local(uri):
        return _assumed(spec, split)
    return _read_local(spec, split, uri)


def _probe_unlabelled(spec: Spec, wanted: Unlabelled) -> SplitProfile:
    uri = spec.locate(wanted.uri)
    if not _is_local(uri):
        assumed = _assumed(spec, "train")
        return replace(assumed, rows=wanted.limit) if wanted.limit else assumed
    source = sources.stage(UNLABELLED, uri, _made_folder() if "://" in uri else Path(os.devnull))
    reading = Wanted.of(wanted.model_dump())
    examples = (e for _, e in read_unlabelled(source, task=spec.task, wanted=reading))
    found = _profile_read(_lengths(spec, examples), uri, source.bytes)
    if wanted.limit and found.rows > wanted.limit:  # a sample was scaled by the file's size
        found = replace(found, rows=wanted.limit)
    return found


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("synthetic://")


def _assumed(spec: Spec, split: str) -> SplitProfile:
    rows = ASSUMED_ROWS if split == "train" else ASSUMED_ROWS // 10
    image = spec.task == "image-classification"
    mean = float(IMAGE_TOKENS if image else min(ASSUMED_TOKENS_PER_ROW, spec.training.max_length))
    return SplitProfile(
        rows=rows, words=round(rows * mean / TOKENS_PER_WORD), bytes=round(rows * mean * 6),
        lengths=_assumed_lengths(mean, spec.training.max_length), source="assumed", exact=False,
        spread=ASSUMED_SPREAD,
    )  # fmt: skip


def _assumed_lengths(mean: float, max_length: int) -> Lengths:
    """Log-normal lengths (sigma 0.5, as in short-text sets), cut to max_length."""
    quantiles = np.linspace(0.005, 0.995, 200)
    normal = np.sqrt(2.0) * _inverse_erf(2.0 * quantiles - 1.0)
    lengths = np.clip(np.round(mean * np.exp(0.5 * normal - 0.125)), 1, max_length)
    result: Lengths = lengths.astype(np.int64)
    return result


def _inverse_erf(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Winitzki's approximation, relative error below 0.4 %."""
    a = 0.147
    log = np.log(1.0 - x * x)
    part = 2.0 / (np.pi * a) + log / 2.0
    result: npt.NDArray[np.float64] = np.sign(x) * np.sqrt(np.sqrt(part**2 - log / a) - part)
    return result


# -- local data ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    rows: int = 0
    words: int = 0
    bytes: int = 0
    lengths: list[Lengths] = field(default_factory=list)
    read_all: bool = True
    ids: set[int] = field(default_factory=set)


def _read_local(spec: Spec, split: str, uri: str) -> SplitProfile:
    if uri.startswith("synthetic://ner/"):
        made = synthetic.sentences(uri)
        size = synthetic.figures(made)["bytes"]
        examples: Iterator[Example] = (Example(0, [word for word, _ in row]) for row in made)
    else:
        source = sources.stage(split, uri, _made_folder() if "://" in uri else Path(os.devnull))
        size = source.bytes
        examples = (
            example
            for _, example in read_source(
                source, task=spec.task, wanted=spec.data.format, columns=dict(spec.data.columns)
            )
        )
    if spec.task == "image-classification":
        count = sum(1 for _ in examples)
        return SplitProfile(
            rows=_some(count, uri), words=0, bytes=size,
            lengths=np.full(1, IMAGE_TOKENS, dtype=np.int64), source="read", exact=True,
        )  # fmt: skip
    return _profile_read(_lengths(spec, examples), uri, size)


def _profile_read(seen: _Seen, uri: str, size: int) -> SplitProfile:
    """Describe a local split of `size` bytes from what was read of it."""
    _some(seen.rows, uri)
    lengths = np.concatenate(seen.lengths)
    if seen.read_all:
        return SplitProfile(
            rows=seen.rows, words=seen.words, bytes=size, lengths=lengths, source="read",
            exact=True, distinct=len(seen.ids),
        )  # fmt: skip
    scale = max(1.0, size / max(seen.bytes, 1))
    return SplitProfile(
        rows=round(seen.rows * scale), words=round(seen.words * scale), bytes=size,
        lengths=lengths, source="sampled", exact=False, spread=SAMPLED_SPREAD,
        distinct=round(len(seen.ids) * scale**0.5),  # Heaps' law
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _made_folder() -> Path:
    """Where sets that the project makes are written to be read; gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="suanli-made-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _some(rows: int, uri: str) -> int:
    if not rows:
        raise DataError(f"{uri}: no rows of data", remedy="check the file and data.format")
    return rows


def _lengths(spec: Spec, examples: Iterator[Example]) -> _Seen:
    folder = tokenizer_folder(spec)
    tokenizer = load_tokenizer(folder) if folder else None
    words_mode = spec.task == "token-classification"
    pieces = None
    if tokenizer is not None and words_mode:
        pieces = WordPieces(
            tokenizer=tokenizer, words_mode=True, unknown_id=unknown_id_of(tokenizer)
        )
    special = SPECIAL_TOKENS.get(spec.task, 2)
    seen = _Seen()
    while block := list(islice(examples, BLOCK_ROWS)):
        seen.rows += len(block)
        if words_mode:
            counts = np.array([len(e.text) for e in block])
            seen.words += int(counts.sum())
            # A word, its tag of three characters, two separators; a blank line after a sentence.
            seen.bytes += sum(sum(map(len, e.text)) + 5 * len(e.text) + 1 for e in block)
            if pieces is None:
                tokens = counts * TOKENS_PER_WORD
            else:
                entries = pieces.look_up([word for e in block for word in e.text])
                ends = np.concatenate([[0], np.cumsum(pieces.lengths[entries])])
                tokens = np.diff(ends[np.concatenate([[0], np.cumsum(counts)])])
        else:
            texts = [f"{e.text} {e.pair or ''}" for e in block]
            seen.words += sum(text.count(" ") for text in texts)
            seen.bytes += sum(
                len(t) + len(str(e.label or "")) + 1 for t, e in zip(texts, block, strict=True)
            )
            if tokenizer is None:
                tokens = np.array([len(text) for text in texts]) / CHARACTERS_PER_TOKEN
            else:
                encoded = text_tokens(tokenizer, None, texts)
                seen.ids.update(np.unique(encoded.flat).tolist())
                tokens = encoded.lengths
        cut = np.minimum(np.round(tokens) + special, spec.training.max_length)
        seen.lengths.append(cut.astype(np.int64))
        if seen.bytes > READ_BYTES:
            seen.read_all = next(examples, None) is None
            break
    if pieces is not None:
        seen.ids.update(np.unique(pieces.flat).tolist())
    return seen
