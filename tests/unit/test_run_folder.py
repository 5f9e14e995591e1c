"""Run folders: receipts of moved, emptied and half-finished ones, and the progress of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.contract import DataError, SpecError
from components.runtime import emit_event
from components.storage import Store, Tiers
from pipelines.local import RUN_FILE, _follow, rebuild_report
from tests.receipts import Receipts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder as `run_here` leaves it when the machine goes down during train."""
    work = tmp_path / "work"
    run = Receipts(folder=work)
    run.finish_before("train")
    run.start("train")
    made = work / run.plan.name / run.run_id
    made.mkdir(parents=True)
    tiers = run.store.tiers.to_json()
    (made / RUN_FILE).write_text(json.dumps({"state": "running", "tiers": tiers}))
    (made / "plan.json").write_text(json.dumps(run.plan.to_json()))
    return made


def test_half_finished_run_gets_a_receipt(folder: Path) -> None:
    report = rebuild_report(folder)
    assert report["error"]["step"] == "train"
    assert report["progress"]["done"] == 3
    assert "Stopped at" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "report.json").read_text()) == report


def test_moved_work_folder_finds_its_store(folder: Path, tmp_path: Path) -> None:
    name = folder.parent.name, folder.name
    shutil.move(tmp_path / "work", tmp_path / "elsewhere")
    report = rebuild_report(tmp_path / "elsewhere" / name[0] / name[1])
    assert report["progress"]["done"] == 3


def test_receipt_whose_store_is_gone_is_left_alone(folder: Path, tmp_path: Path) -> None:
    rebuild_report(folder)
    before = (folder / "report.json").read_bytes()
    shutil.rmtree(tmp_path / "work" / "store")
    with pytest.raises(SpecError, match="holds nothing of this run") as caught:
        rebuild_report(folder)
    assert "left as it was" in caught.value.remedy
    assert (folder / "report.json").read_bytes() == before


@pytest.mark.parametrize("name", [RUN_FILE, "plan.json"])
@pytest.mark.parametrize("text", [None, "", "[1]", '{"steps": ', "null"])
def test_folder_that_is_no_run_is_bad_input(folder: Path, name: str, text: str | None) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(SpecError, match="not the folder of a run"):
        rebuild_report(folder)


@pytest.mark.parametrize("remote", [False, True])
def test_progress_is_followed_in_the_store_or_in_the_log(
    tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    store = Store(Tiers.under(tmp_path / "store"))
    if remote:
        monkeypatch.setattr(store, "local_root", lambda _: None)
    events, log = _follow(store, tmp_path / "run-1"), tmp_path / "run-1" / "run.log"
    log.parent.mkdir()
    seen = []
    for number, name in enumerate(("started", "progress", "finished")):
        emit_event(store, "run-1", "train", name, {"number": number})
        with log.open("a") as stream:
            stream.write(f"    [KFP] noise\n    {capsys.readouterr().out}")
            stream.write('{"time": torn\n{"time": 3}\n')
        seen += [event["event"] for event in events()]
    assert seen == ["started", "progress", "finished"]
    assert list(events()) == []


def test_collected_model_does_not_take_the_published_folder_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import local

    published = folder / "published"
    published.mkdir()
    (published / "published.json").write_text(json.dumps({"model_path": "newsroom-ner/1"}))
    run = Receipts(folder=folder.parent.parent)
    run.finish_before(None)

    def gone(*_: object) -> None:
        raise DataError("blob is missing everywhere")

    monkeypatch.setattr(local.Store, "fetch", gone)
    report = rebuild_report(folder)
    assert report["artifacts"]["onnx"] == "published/newsroom-ner/1/model.onnx"
    assert (published / "published.json").exists()
