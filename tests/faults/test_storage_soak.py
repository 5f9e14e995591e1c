"""Fifty kills; `make soak` does a thousand."""

from __future__ import annotations

import pytest

from tests.faults.storage_soak import soak


@pytest.mark.slow
def test_nothing_is_lost_or_corrupted_by_kills(tmp_path):
    outcome = soak(tmp_path, kills=50, seed=3)
    assert outcome.problems == []
    assert outcome.kills >= 50
    assert outcome.acknowledged >= 3
    assert outcome.operations["get"] >= 1
