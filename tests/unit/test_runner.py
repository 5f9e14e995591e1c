"""The runner: batches, order of results, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contract import DataError, StepError
from components.export import encoder
from components.lib import cuda_runner, onnx_graph
from components.lib.runner import Runner
from components.lib.sequences import Sequences, plan_batches
from components.lib.sessions import PROVIDERS, open_session
from tests.unit.test_export_encoder import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tagger that takes 64 tokens."""
    path = tmp_path_factory.mktemp("exported")
    task = "token-classification"
    onnx_graph.save(encoder.build(make(task), task, 64), path / "model.onnx")
    write_export(path, task=task, output="token")
    return path


def write_export(path: Path, **changes: object) -> None:
    document = {"schema_version": 1, "max_length": 64, "pad_token_id": 0, **changes}
    (path / "export.json").write_text(json.dumps(document))


@given(st.lists(st.integers(1, 200), max_size=120), st.integers(16, 600), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_every_row_is_in_one_batch(lengths: list[int], budget: int, most: int):
    sizes = np.array(lengths, dtype=np.int64)
    plan = plan_batches(sizes, token_budget=budget, max_batch=most)
    rows = [int(row) for batch in plan for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) <= most
        assert len(batch) * sizes[batch].max() <= budget or len(batch) == 1


def test_batches_hold_little_padding():
    lengths = np.random.default_rng(0).integers(5, 120, size=2000)
    plan = plan_batches(lengths, token_budget=512)
    padded = sum(len(batch) * lengths[batch].max() for batch in plan)
    assert padded / lengths.sum() < 1.03


def test_results_come_in_input_order_whatever_the_batches(folder: Path):
    dice = np.random.default_rng(1)
    sequences = [dice.integers(5, 300, size=n).tolist() for n in (3, 64, 1, 17, 3, 40)]
    alone = np.concatenate([Runner(folder, threads=1).run_one(ids) for ids in sequences])
    for threads, budget in ((1, 10_000), (2, 64), (2, 8)):
        found = Runner(folder, threads=threads, token_budget=budget).run(sequences)
        assert found.shape == (sum(map(len, sequences)), 3)
        np.testing.assert_allclose(found, alone, atol=2e-5)


def test_padding_does_not_leak(folder: Path):
    runner = Runner(folder)
    batch = Sequences.of([[5, 6, 7], list(range(10, 40))])
    together = runner._call(runner._single, runner.feed(batch, np.array([0, 1])))
    np.testing.assert_allclose(together[0, :3], runner.run_one([5, 6, 7]), atol=2e-5)


def test_reports_the_provider_that_runs(folder: Path):
    assert Runner(folder).provider == "CPUExecutionProvider"


def test_nothing_in_nothing_out(folder: Path):
    assert Runner(folder).run([]).size == 0


def test_a_gpu_that_is_not_there_is_an_error(folder: Path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(StepError, match="CUDAExecutionProvider"):
        Runner(folder, device="gpu")


@pytest.mark.parametrize(
    "sequences, message",
    [([[1] * 65], "sequence 0 has 65 tokens.*1 to 64"), ([[1], []], "sequence 1 has 0 tokens")],
)
def test_refuses_lengths_the_graph_was_not_made_for(folder: Path, sequences, message: str):
    with pytest.raises(DataError, match=message):
        Runner(folder).run(sequences)


def test_missing_and_corrupted_files(tmp_path: Path, folder: Path):
    with pytest.raises(DataError, match=r"export\.json: not an exported model"):
        Runner(tmp_path)
    write_export(tmp_path, output="token")
    with pytest.raises(DataError, match="no ONNX file"):
        Runner(tmp_path)
    whole = (folder / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="corrupted ONNX file"):
        Runner(tmp_path)
    with pytest.raises(DataError, match="corrupted ONNX file"):
        onnx_graph.load(tmp_path / "model.onnx")


def test_another_schema_version(tmp_path: Path):
    write_export(tmp_path, schema_version=9)
    with pytest.raises(DataError, match="schema_version 9"):
        Runner(tmp_path)


def test_a_runtime_too_old_for_the_opset(tmp_path: Path, folder: Path):
    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, tmp_path / "model.onnx")
    write_export(tmp_path, output="token")
    with pytest.raises(DataError, match=r"onnxruntime [\d.]+ is too old for this graph") as caught:
        Runner(tmp_path)
    assert "opset 17" in caught.value.remedy


def test_an_operator_the_runtime_lacks(tmp_path: Path, folder: Path):
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(DataError, match="NoSuchOperator"):
        open_session(tmp_path / "model.onnx", provider=PROVIDERS["cpu"], threads=1)


def test_graph_buckets():
    assert cuda_runner.bucket_shape(1, 7, 512) == (1, 16)
    assert cuda_runner.bucket_shape(3, 33, 512) == (4, 48)
    assert cuda_runner.bucket_shape(8, 500, 500) == (8, 500)
    assert cuda_runner.bucket_shape(9, 7, 512) is None
