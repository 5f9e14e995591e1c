"""Parquet and Arrow files: hostile ones must not take the memory they promise to."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from components.contract import DataError
from components.ingest.readers.columnar import TAKEN_BYTES, read_columnar


def same_string(path, characters, rows):
    """Write a file that names one string in every row."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["a" * characters])
    table = pa.table({"text": text, "label": ["x"] * rows})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path, compression="zstd")
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_one_string_in_every_row_takes_the_memory_of_a_few(tmp_path, kind):
    path = same_string(tmp_path / f"bomb.{kind}", 3_000_000, 4096)  # 12 GB of text
    assert path.stat().st_size < 1 << 20
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    examples = read_columnar(path, "text-classification", {}, kind)
    for example in itertools.islice(examples, 60):
        assert len(example.text) == 3_000_000
        assert pool.bytes_allocated() - before < 4 * TAKEN_BYTES
    examples.close()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_cell_longer_than_any_is_refused(tmp_path, kind):
    path = same_string(tmp_path / f"long.{kind}", 20_000_000, 10)
    with pytest.raises(DataError, match=r"long\..*: a cell of 20,000,000 bytes"):
        list(read_columnar(path, "text-classification", {}, kind))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_nested_and_encoded_columns_read_as_they_are(tmp_path, kind):
    words = [["a", "b"], ["c"], ["日", "本"]] * 2000
    tags = [["O", "B-X"], ["O"], ["B-X", "I-X"]] * 2000
    table = pa.table({"tokens": words, "tags": tags})
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=1000)
    else:
        pyarrow.feather.write_feather(table, path)
    examples = list(read_columnar(path, "token-classification", {}, kind))
    assert [e.text for e in examples] == words
    assert [e.label for e in examples] == tags
    assert [e.line for e in examples] == list(range(1, 6001))
