"""Encoding by blocks gives exactly what the tokenizer gives row by row."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from components.contract import DataError
from components.ingest import encode
from components.ingest.columns import Encoder
from components.ingest.encode import splits_on_blanks
from components.ingest.examples import Example
from components.ingest.ragged import longest_first
from components.lib.references import load_tokenizer, resolve_tokenizer_folder

FOLDER = resolve_tokenizer_folder({"id": "minilm-l6"})
TOKENIZER = load_tokenizer(FOLDER)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=0, max_size=80
) | st.sampled_from(
    ["a [MASK] b", "don't\tgo\r\nthere", "你好 world", "é\u0301 ＡＢ", " ", "a\u2028b\x85c\x1cd"]
)


def rows(task, examples, max_length=128, labels=("0",)):
    encoder = Encoder.load(task=task, labels=list(labels), max_length=max_length, folder=FOLDER)
    return encoder.encode(examples, 0).table.to_pylist()


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from([1, 60, 1 << 20]))
def test_texts_equal_the_tokenizer(texts, chunk_characters):
    TOKENIZER.enable_truncation(32)
    expected = [TOKENIZER.encode(text).ids for text in texts]
    with mock.patch.object(encode, "CHUNK_CHARACTERS", chunk_characters):
        found = rows("text-classification", [Example(1, t, None, "0") for t in texts], 32)
    assert [row["input_ids"] for row in found] == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_pairs_equal_the_tokenizer(pairs):
    TOKENIZER.enable_truncation(24)
    expected = [TOKENIZER.encode(*pair) for pair in pairs]
    found = rows("text-pair-ranking", [Example(1, a, b, 1.0, 0) for a, b in pairs], 24)
    assert [row["input_ids"] for row in found] == [e.ids for e in expected]
    assert [row["token_type_ids"] for row in found] == [e.type_ids for e in expected]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 50))
def test_longest_first_keeps_what_fits(left, right, capacity):
    keep = [int(v[0]) for v in longest_first(np.array([left]), np.array([right]), capacity)]
    assert sum(keep) == min(left + right, capacity)
    assert keep[0] <= left
    assert keep[1] <= right


def test_texts_are_cut_into_chunks_whole_and_in_order(monkeypatch):
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 10)
    texts = ["", "a" * 4, "b" * 6, "", "c", "d" * 25, "e"]
    assert list(encode.chunks(texts)) == [texts[:4], texts[4:5], texts[5:6], texts[6:]]
    assert list(encode.chunks([])) == []


WORDS = st.lists(
    st.sampled_from(["a", "unbelievably", "é", "\u200b", "x" * 40, "\U0001f600", "的"]),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from([8, 16, 128]))
def test_each_word_is_scored_once_in_order(sentences, max_length):
    tags = [["B-A" if n % 3 == 0 else "O" for n in range(len(s))] for s in sentences]
    labels = ["O", "B-A", "I-A"]
    examples = [Example(1, s, None, t, 0) for s, t in zip(sentences, tags, strict=True)]
    found = rows("token-classification", examples, max_length, labels)
    scored: dict[int, list[str]] = {}
    for row in found:
        assert len(row["input_ids"]) == len(row["labels"]) <= max_length
        assert row["labels"][0] == row["labels"][-1] == -100
        scored.setdefault(row["sentence"], []).extend(
            labels[label] for label in row["labels"] if label != -100
        )
    assert list(scored.values()) == tags


def test_short_sentences_equal_the_tokenizer():
    TOKENIZER.no_truncation()
    words = ["Unbelievably", "good", "[MASK]", "naïve", "re-use", "42nd"]
    example = Example(1, words, None, ["O"] * 6, 0)
    found = rows("token-classification", [example], labels=["O"])[0]
    encoding = TOKENIZER.encode(words, is_pretokenized=True)
    assert found["input_ids"] == encoding.ids
    firsts = [encoding.word_ids.index(n) for n in range(6)]
    assert [n for n, label in enumerate(found["labels"]) if label == 0] == firsts


def test_prompts_are_not_learnt():
    row = rows("causal-lm", [Example(1, "say hello", "hello there")])[0]
    learnt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert TOKENIZER.decode(learnt) == "hello there"
    assert TOKENIZER.decode(row["input_ids"]) == "say hello hello there"


def test_a_byte_level_tokenizer_is_not_encoded_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 13)  # the first text, then the other two
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["hello there general", "the theory"] * 10, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert not splits_on_blanks(tokenizer)
    encoder = Encoder.load(task="text-classification", labels=["0"], max_length=64, folder=tmp_path)
    texts = ["hello  there", "a b\n c", ""]
    table = encoder.encode([Example(1, t, None, "0") for t in texts], 0).table
    assert table["input_ids"].to_pylist() == [tokenizer.encode(t).ids for t in texts]


def chinese_tokenizer(folder):
    """A character-level tokenizer as Chinese BERT models have."""
    alphabet = sorted(set("北京的天气很好我爱上海小米公司在深圳发布手机坏了不喜欢服务差"))
    vocabulary = {t: n for n, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *alphabet])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_chinese_text_and_words(tmp_path):
    tokenizer = chinese_tokenizer(tmp_path)
    encoder = Encoder.load(
        task="text-classification", labels=["差", "好"], max_length=16, folder=tmp_path
    )
    texts = ["北京的天气很好", "服务差，不喜欢"]
    table = encoder.encode([Example(1, t, None, "好") for t in texts], 0).table
    assert table["input_ids"].to_pylist() == [tokenizer.encode(t).ids for t in texts]
    labels = ["O", "B-地点", "I-地点"]
    encoder = Encoder.load(
        task="token-classification", labels=labels, max_length=6, folder=tmp_path
    )
    words = list("我爱北京的上海天气")
    tags = ["O", "O", *labels[1:], "O", *labels[1:], "O", "O"]
    found = encoder.encode([Example(1, words, None, tags, 0)], 0).table.to_pylist()
    assert len(found) > 1
    assert [labels[i] for row in found for i in row["labels"] if i != -100] == tags


def test_no_room_is_an_error():
    with pytest.raises(DataError, match="leaves no room"):
        Encoder.load(task="text-classification", labels=["0"], max_length=3, folder=FOLDER)
