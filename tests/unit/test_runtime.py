"""A step runs once for one fingerprint, leaves a report, and its failure leaves error.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from components import runtime
from components.contract import (
    DataError,
    GateError,
    InfeasiblePlanError,
    StepError,
    StepReport,
    SuanliError,
    error_document,
    error_from_document,
)
from components.runtime import StepContext, execute
from components.storage import Store, Tiers
from pipelines.schemas import schema


def config(**arguments: Any) -> str:
    return json.dumps(
        {"step": "train", "arguments": arguments, "plan_hash": "p1", "requested": {"node": "here"}}
    )


class Work:
    """A step that counts how often it really ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, context: StepContext) -> str:
        self.runs += 1
        with context.phase("work"):
            folder = context.folder("out")
            (folder / "x.txt").write_text(str(context.arguments))
        context.workload["rows"] = 3
        context.series["loss"] = [{"step": 1, "loss": 0.5}]
        return context.put(folder, kind="thing")


def run(work: Any, store: Tiers, run_id: str = "r1", **arguments: Any) -> str:
    return execute(
        "train",
        work,
        config=config(**arguments),
        inputs={"a": "u"},
        store=store.to_json(),
        run_id=run_id,
    )


def test_second_run_is_taken_from_the_marker(tmp_path: Path) -> None:
    tiers, work = Tiers.under(tmp_path), Work()
    first = run(work, tiers, epochs=1)
    again = run(work, tiers, run_id="r2", epochs=1)
    assert first == again
    assert work.runs == 1
    store = Store(tiers)
    original = StepReport.from_json(store.get_json("runs/r1/steps/train.json"))
    cached = StepReport.from_json(store.get_json("runs/r2/steps/train.json"))
    assert (original.cached, cached.cached) == (False, True)
    assert cached.seconds == original.seconds
    jsonschema.validate(original.to_json(), schema("step-report"))
    assert set(original.seconds) == {"work", "stage_out", "total"}
    assert original.peak_memory_bytes > 1 << 20
    assert original.cpu_seconds is not None
    assert 0 <= original.cpu_seconds == cached.cpu_seconds
    assert not any((tmp_path / "hot" / "scratch").iterdir())


def test_other_arguments_inputs_or_code_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers, work = Tiers.under(tmp_path), Work()
    run(work, tiers, epochs=1)
    run(work, tiers, epochs=2)
    assert work.runs == 2
    execute(
        "train", work, config=config(epochs=1), inputs={"a": "v"}, store=tiers.to_json(), run_id="r"
    )
    assert work.runs == 3
    monkeypatch.setattr(runtime, "code_digest", lambda kind: "changed")
    run(work, tiers, epochs=1)
    assert work.runs == 4


def test_external_identity_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    tiers, work = Tiers.under(tmp_path), Work()
    for identity in ("sha-1", "sha-1", "sha-2"):
        execute(
            "ingest", work, config=config(), inputs={}, store=tiers.to_json(), run_id="r",
            external=lambda arguments, identity=identity: identity,
        )  # fmt: skip
    assert work.runs == 2


def test_a_marker_whose_artifact_is_gone_does_not_count(tmp_path: Path) -> None:
    tiers, work = Tiers.under(tmp_path), Work()
    uri = run(work, tiers)
    for manifest in (tmp_path / "hot" / "manifests").iterdir():
        manifest.unlink()
    assert run(work, tiers) == uri
    assert work.runs == 2


def test_report_like_steps_always_run(tmp_path: Path) -> None:
    tiers, work = Tiers.under(tmp_path), Work()
    for _ in range(2):
        execute(
            "report", work, config=config(), inputs={}, store=tiers.to_json(), run_id="r",
            code=(), resumable=False,
        )  # fmt: skip
    assert work.runs == 2
    assert list(Store(tiers).list_json("markers")) == []


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (DataError("bad", remedy="fix"), "bad_input", 2),
        (InfeasiblePlanError("no"), "infeasible", 3),
        (GateError("no"), "gate_failed", 4),
        (StepError("x"), "step_failed", 1),
        (ZeroDivisionError("boom"), "step_failed", 1),
        (OSError(28, "No space left on device"), "step_failed", 1),
    ],
)
def test_failures_leave_error_json(tmp_path: Path, raised: Exception, kind: str, code: int) -> None:
    def fail(context: StepContext) -> str:
        raise raised

    tiers = Tiers.under(tmp_path)
    with pytest.raises(type(raised)):
        run(fail, tiers)
    document = Store(tiers).get_json("runs/r1/errors/train.json")
    jsonschema.validate(document, schema("error"))
    assert (document["kind"], document["exit_code"]) == (kind, code)
    back = error_from_document(document)
    assert isinstance(back, SuanliError)
    assert back.exit_code == code
    assert "train" in str(back)
    assert list(Store(tiers).list_json("markers")) == []


def test_full_disk_is_named() -> None:
    document = error_document("train", OSError(28, "No space left on device"))
    assert "disk is full" in document["message"]


def test_scratch_survives_a_failure_and_goes_with_success(tmp_path: Path) -> None:
    tiers = Tiers.under(tmp_path)
    seen = []

    def work(context: StepContext) -> str:
        note = context.scratch / "checkpoint"
        seen.append(note.exists())
        note.write_text("step 3")
        if len(seen) == 1:
            raise RuntimeError("killed")
        (context.folder("out") / "x").write_text("done")
        return context.put(context.scratch / "out", kind="thing")

    with pytest.raises(RuntimeError):
        run(work, tiers)
    run(work, tiers)
    assert seen == [False, True]


def test_unknown_report_version_is_refused() -> None:
    with pytest.raises(DataError, match="schema_version"):
        StepReport.from_json({"schema_version": 99})
    with pytest.raises(DataError, match="incomplete"):
        StepReport.from_json({"schema_version": 1})
