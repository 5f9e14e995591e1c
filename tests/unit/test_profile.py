"""What the planner learns of data before it is ingested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.contract import DataError
from pipelines.cost.profile import SplitProfile, profile_of
from pipelines.spec import parse_spec
from tests.support import SHARED, needs_shared


def split(lengths: list[int], rows: int | None = None) -> SplitProfile:
    return SplitProfile(
        rows=rows or len(lengths), words=0, bytes=0, lengths=np.array(lengths), source="read",
        exact=True,
    )  # fmt: skip


def test_bucketed_padding_is_the_mean_of_batch_maxima() -> None:
    found = split([3, 9, 5, 7])
    # Sorted and cut in two: (3, 5) pads to 5, (7, 9) to 9.
    assert found.padded_length(2) == 7.0
    assert found.padded_length(1) == found.mean_length == 6.0
    assert found.padded_length(8) == 9.0
    assert split([3, 9, 5]).padded_length(2) == pytest.approx((5 + 5 + 9) / 3)


def test_a_sample_pads_like_the_whole() -> None:
    whole = split(list(range(1, 1001)))
    sample = split(list(range(5, 1001, 10)), rows=1000)
    assert sample.padded_length(100) == pytest.approx(whole.padded_length(100), rel=0.02)


def spec_of(text: str, folder: Path):
    return parse_spec(text, source="spec.yaml", folder=folder)


LOCAL = """\
name: local
task: text-classification
model: {id: minilm-l6}
data:
  train: {uri: train.csv}
  format: csv
  columns: {text: text, label: label}
training: {max_length: 16}
"""


def test_local_data_is_read_and_fractions_are_taken(tmp_path: Path) -> None:
    rows = "\n".join(f"a short text number {n},{n % 2}" for n in range(100))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}\n")
    profile = profile_of(spec_of(LOCAL, tmp_path))
    assert [profile[name].rows for name in ("train", "validation", "test")] == [80, 10, 10]
    # Five word pieces and two special tokens.
    assert profile["train"].mean_length == pytest.approx(7.0)
    assert profile["train"].exact


def test_long_rows_are_cut_to_max_length(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + f"{'word ' * 100},a\n" * 20)
    profile = profile_of(spec_of(LOCAL, tmp_path))
    assert profile["train"].lengths.max() == 16


def test_large_files_are_sampled_the_same_way_each_time(tmp_path: Path) -> None:
    line = "the quick brown fox jumps over the lazy dog again and again,a\n"
    (tmp_path / "train.csv").write_text("text,label\n" + line * 60_000)
    profile = profile_of(spec_of(LOCAL, tmp_path))
    again = profile_of(spec_of(LOCAL, tmp_path))
    total = sum(part.rows for part in profile.values())
    assert total == pytest.approx(60_000, rel=0.05)
    assert not profile["train"].exact
    assert profile["train"].source == "sampled"
    assert profile["train"].to_json() == again["train"].to_json()


def test_missing_and_empty_files_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv"):
        profile_of(spec_of(LOCAL, tmp_path))
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        profile_of(spec_of(LOCAL, tmp_path))


@needs_shared
def test_wnut_is_profiled_exactly() -> None:
    path = SHARED / "specs" / "wnut17.yaml"
    profile = profile_of(spec_of(path.read_text(), path.parent))
    # Counts of ../shared/data/wnut17/SOURCE.md; 106,296 tokens as ingest counts them.
    assert profile["train"].rows == 3394
    assert profile["train"].words == 62730
    assert profile["train"].tokens == 106296
    assert profile["test"].words == 23394
