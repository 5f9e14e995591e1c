"""What the KFP UI shows of a step: curves of training, without fetching the model again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.lib.kfp_artifacts import show_curves
from components.storage import Store, Tiers


@dataclass
class Artifact:
    """A KFP output artifact."""

    path: str
    uri: str


@pytest.mark.parametrize("curves_kept", [True, False])
def test_curves_are_offered_as_a_tensorboard(tmp_path: Path, curves_kept: bool) -> None:
    store = Store(Tiers.under(tmp_path / "store"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    if curves_kept:
        (model / "tensorboard").mkdir()
        (model / "tensorboard" / "events.out.tfevents.1").write_bytes(b"curve")
    uri = store.put_folder(model, kind="model")
    curves = Artifact(str(tmp_path / "out" / "curves"), "minio://mlpipeline/v2/run/curves")
    page = Artifact(str(tmp_path / "out" / "mlpipeline_ui_metadata"), "minio://mlpipeline/v2/page")
    show_curves(store.tiers.to_json(), uri, curves, page)
    plots = json.loads(Path(page.path).read_text())["outputs"]
    files = {file.name for file in Path(curves.path).iterdir()}
    if curves_kept:
        assert plots == [{"type": "tensorboard", "source": curves.uri}]
        assert files == {"events.out.tfevents.1"}
    else:
        assert (plots, files) == ([], set())


def test_the_train_task_shows_the_curves_of_the_model_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components import runtime
    from components.train.component import train

    store = Store(Tiers.under(tmp_path / "store"))
    (tmp_path / "model" / "tensorboard").mkdir(parents=True)
    (tmp_path / "model" / "tensorboard" / "events.out.tfevents.1").write_bytes(b"curve")
    uri = store.put_folder(tmp_path / "model", kind="model")
    monkeypatch.setattr(runtime, "execute", lambda *_, **__: uri)
    curves = Artifact(str(tmp_path / "out" / "curves"), "s3://bucket/curves")
    page = Artifact(str(tmp_path / "out" / "page"), "s3://bucket/page")
    made = train.python_func("{}", "dataset", store.tiers.to_json(), "run-1", curves, page)
    assert made == uri
    assert "s3://bucket/curves" in Path(page.path).read_text()
