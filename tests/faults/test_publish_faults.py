"""Publishing is all or nothing."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from components.contract import DataError, SpecError, StepError
from components.publish import pointer
from components.publish import step as publish
from components.storage import Store
from tests.inference_support import make_context, make_dataset, make_store

SCORES = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3}


def tiny_graph(path: Path, weight: float = 1.0) -> None:
    """A graph that adds a number: publish only opens it."""
    node = helper.make_node("Add", ["x", "w"], ["logits"])
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(np.array([weight], np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def selection(store: Store, folder: Path, *, weight: float = 1.0) -> str:
    """Store what select leaves."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    tiny_graph(model / "model.onnx", weight)
    (model / "labels.json").write_text('["a", "b", "c"]')
    parity = {
        "batches": 1, "lengths": [1, 9], "max_abs_diff": 0.0, "tolerance": 1.0,
        "equal_predictions": 1.0,
    }  # fmt: skip
    export = {
        "schema_version": 1, "task": "text-classification", "target": "cpu", "opset": 17,
        "precision": "fp32", "fusion": "encoder", "fallbacks": [], "max_length": 64,
        "size_bytes": 100, "output": "sequence", "parity": parity,
        "inputs": [{"name": "input_ids", "dtype": "int64"}],
    }  # fmt: skip
    (model / "export.json").write_text(json.dumps(export))
    quality = {
        "metric": "accuracy", "split": "test", "tuned": 0.9, "selected": 0.9,
        "ci95": [0.8, 1.0], "tuned_ci95": [0.8, 1.0], "drop": 0.0, "drop_ci95": [0.0, 0.0],
        "p_drop_exceeds_budget": 0.0,
    }  # fmt: skip
    document = {
        "selected": "fp32", "quality": quality, "variants": [], "entities": None,
        "promise": {"max_quality_drop": 0.01}, "classification_report": {"a": SCORES},
    }  # fmt: skip
    (folder / "selection.json").write_text(json.dumps(document))
    return store.put_folder(folder, kind="selection")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    """A store template with one data set."""
    folder = tmp_path_factory.mktemp("dataset")
    store = make_store(folder / "store")
    return store, make_dataset(store, folder, "text-classification", rows=8)


def publish_it(store: Store, chosen: str, data: str, **arguments) -> str:
    inputs = {"selection": chosen, "dataset": data}
    return publish.run(make_context(store, "publish", {"name": "tiny", **arguments}, inputs))


def test_folder_checksums_and_layout(tmp_path: Path, dataset):
    store, data = dataset
    uri = publish_it(store, selection(store, tmp_path / "s"), data, name="layout")
    folder = store.fetch(uri, tmp_path / "out")
    model = folder / "layout" / "1"
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=model, capture_output=True)
    assert done.returncode == 0, done.stdout
    listed = {line.split()[1] for line in (model / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in model.iterdir()} - {"SHA256SUMS"}
    config = (folder / "triton/layout/config.pbtxt").read_text()
    assert 'name: "input_ids", data_type: TYPE_INT64' in config
    assert (folder / "triton/layout/1/model.onnx").is_file()
    assert "InferenceService" in (folder / "kserve/inferenceservice.yaml").read_text()
    assert json.loads((folder / "published.json").read_text())["model_path"] == "layout/1"


def test_versions_count_up_and_roll_back(tmp_path: Path, dataset):
    store, data = dataset
    name = {"name": "rolling"}
    first = publish_it(store, selection(store, tmp_path / "a", weight=1), data, **name)
    again = publish_it(store, selection(store, tmp_path / "a", weight=1), data, **name)
    assert again == first
    second = publish_it(store, selection(store, tmp_path / "b", weight=2), data, **name)
    latest = pointer.read(store, "rolling")
    assert latest["version"] == 2
    assert latest["uri"] == second
    assert latest["previous"]["uri"] == first
    back = pointer.rollback(store, "rolling")
    assert (back["version"], back["uri"], back["previous"]) == (1, first, None)
    with pytest.raises(SpecError, match="no earlier version"):
        pointer.rollback(store, "rolling")
    publish_it(store, selection(store, tmp_path / "c", weight=3), data, **name)
    assert pointer.read(store, "rolling")["version"] == 3


def test_a_version_never_changes(tmp_path: Path, dataset):
    store, data = dataset
    publish_it(store, selection(store, tmp_path / "a", weight=1), data, name="fixed", version=5)
    other = selection(store, tmp_path / "b", weight=2)
    with pytest.raises(SpecError, match="version 5 of fixed is published already"):
        publish_it(store, other, data, name="fixed", version=5)
    assert pointer.read(store, "fixed")["version"] == 5


def test_a_full_disk_publishes_nothing(tmp_path: Path, dataset, monkeypatch):
    store, data = dataset
    good = publish_it(store, selection(store, tmp_path / "a", weight=1), data, name="full")
    other = selection(store, tmp_path / "b", weight=2)

    def full(*_: object, **__: object):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("components.publish.layout.write", full)
        with pytest.raises(OSError, match="No space"):
            publish_it(store, other, data, name="full")
        assert pointer.read(store, "full")["uri"] == good
    with monkeypatch.context() as patched:

        def refuse(*_: object, **__: object):
            raise StepError("cannot write blob: disk is full")

        patched.setattr(Store, "put_folder", refuse)
        with pytest.raises(StepError, match="disk is full"):
            publish_it(store, other, data, name="full")
    latest = pointer.read(store, "full")
    assert latest["uri"] == good
    assert len(latest["history"]) == 1
    publish_it(store, other, data, name="full")
    assert pointer.read(store, "full")["version"] == 2


def test_a_write_that_breaks_off_leaves_no_artifact(tmp_path: Path, dataset):
    """Files cannot grow beyond some bytes, as on a disk that fills up while they are written; here
    the system really refuses, at whatever point of publishing each size is reached."""
    store, data = dataset
    good = publish_it(store, selection(store, tmp_path / "a", weight=1), data, name="broken-off")
    other = selection(store, tmp_path / "b", weight=2)
    manifests = Path(store.tiers.hot) / "manifests"
    before = sorted(manifests.rglob("*"))
    assert before
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (50, 400, 3000, 9000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises((OSError, StepError), match=r"File too large|cannot"):
                publish_it(store, other, data, name="broken-off")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(manifests.rglob("*")) == before
        assert pointer.read(store, "broken-off")["uri"] == good
    publish_it(store, other, data, name="broken-off")
    assert pointer.read(store, "broken-off")["version"] == 2


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "export.json"])
def test_an_incomplete_selection_is_refused(tmp_path: Path, dataset, name: str):
    store, data = dataset
    folder = tmp_path / "s"
    selection(store, folder)
    (folder / "model" / name).unlink()
    with pytest.raises(DataError, match=name):
        publish_it(store, store.put_folder(folder, kind="selection"), data, name="incomplete")
    assert pointer.read(store, "incomplete") is None


def test_a_corrupted_graph_is_refused(tmp_path: Path, dataset):
    store, data = dataset
    folder = tmp_path / "s"
    selection(store, folder)
    (folder / "model" / "model.onnx").write_bytes(b"not a graph at all")
    with pytest.raises(DataError, match="corrupted ONNX"):
        publish_it(store, store.put_folder(folder, kind="selection"), data, name="broken")
    assert pointer.read(store, "broken") is None
