"""Document context: every sentence between its neighbours, scored alone."""

import json

import numpy as np
import pytest

from components.contract import DataError
from components.lib.dataset import Split, load_split
from components.lib.documents import with_context
from tests.train_support import make_dataset

CLS, SEP = 101, 102


def split_of(sentences: list[list[int]], documents: list[int]) -> Split:
    rows = [[CLS, *s, SEP] for s in sentences]
    lengths = np.array([len(r) for r in rows], np.int32)
    labels = [[-100, *[x % 3 for x in s], -100] for s in sentences]
    return Split(
        name="train", rows=len(rows), offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
        input_ids=np.concatenate(rows).astype(np.int32), lengths=lengths,
        columns={"labels": np.concatenate(labels).astype(np.int32),
                 "document": np.array(documents), "sentence": np.arange(len(rows))},
    )  # fmt: skip


def expected(sentences, documents, row, max_length):
    """By hand, one token at a time."""
    mine = [i for i, d in enumerate(documents) if d == documents[row]]
    before = [t for i in mine if i < row for t in sentences[i]]
    after = [t for i in mine if i > row for t in sentences[i]]
    room = max(max_length - len(sentences[row]) - 2, 0)
    left = min(len(before), room // 2)
    right = min(len(after), room - left)
    left = min(len(before), room - right)
    before, after = before[len(before) - left :], after[:right]
    ids = [CLS, *before, *sentences[row], *after, SEP]
    labels = [-100] * (1 + left) + [t % 3 for t in sentences[row]] + [-100] * (right + 1)
    return ids, labels


@pytest.mark.parametrize("max_length", [4, 9, 12, 60])
def test_rows_are_what_a_loop_makes_of_them(max_length):
    random = np.random.default_rng(0)
    documents = sorted(random.integers(0, 4, 15).tolist())
    sentences = [random.integers(200, 999, random.integers(1, 8)).tolist() for _ in documents]
    split = split_of(sentences, documents)
    wide = with_context(split, max_length)
    assert wide.rows == split.rows
    for row in range(split.rows):
        ids, labels = expected(sentences, documents, row, max_length)
        assert wide.sequence(row).tolist() == ids
        assert wide.values("labels", row).tolist() == labels
    scored = [x.columns["labels"][x.columns["labels"] != -100].tolist() for x in (split, wide)]
    assert scored[0] == scored[1]


def test_data_without_documents_is_refused():
    with pytest.raises(DataError, match=r"names no documents .*DOCSTART"):
        with_context(split_of([[5], [6]], [0, 0]), 16)


def test_every_reader_of_the_dataset_sees_the_context(tmp_path):
    folder = make_dataset(tmp_path / "d", "token-classification", rows=24)
    plain = load_split(folder, "train")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "document_context": True}))
    # Each row is a document of its own here: nothing to add, nothing lost.
    wide = load_split(folder, "train")
    assert wide.input_ids.tolist() == plain.input_ids.tolist()
    assert wide.columns["labels"].tolist() == plain.columns["labels"].tolist()
