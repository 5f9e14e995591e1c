"""Submitting to a KFP server: once for each fingerprint, within the budget, with clear errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.contract import InfeasiblePlanError, SpecError, StepError, error_document
from components.storage import Store, Tiers
from pipelines.dag import compile_pipeline
from pipelines.follow import projected_usd, step_names
from pipelines.kfp_api import Connection
from pipelines.runs import runs_cancel, runs_list, runs_status
from pipelines.submission import (
    Submission,
    data_identity,
    images_of,
    load_rendered,
    submission_of,
)  # fmt: skip
from pipelines.submit import submit
from tests.kfp_server import KfpServerForTests
from tests.plans import sample_plan

PLAN = sample_plan()
IR = compile_pipeline(PLAN)
SUBMISSION = submission_of(PLAN, IR)
ZERO_TIME = "0001-01-01T00:00:00Z"


@pytest.fixture
def server() -> Iterator[KfpServerForTests]:
    with KfpServerForTests() as running:
        yield running


def connect(server: KfpServerForTests, **changes: Any) -> Connection:
    return Connection(**{"host": server.url, "namespace": "suanli", **changes})


def task(name: str, state: str, *, start: str = ZERO_TIME, end: str = ZERO_TIME) -> dict[str, Any]:
    return {"display_name": name, "state": state, "start_time": start, "end_time": end}


def test_creates_experiment_version_and_run(server: KfpServerForTests) -> None:
    made = submit(SUBMISSION, IR, connect(server))
    assert made.created
    run = server.state.runs[made.run_id]
    assert run["display_name"] == f"newsroom-ner-{SUBMISSION.fingerprint[:12]}"
    assert run["service_account"] == "suanli-runner"
    assert f"plan={PLAN.hash[:12]}" in run["description"]
    assert "predicted_usd=0.0" in run["description"]
    experiment = server.state.experiments[run["experiment_id"]]
    assert experiment == {
        "experiment_id": run["experiment_id"],
        "display_name": "newsroom-ner",
        "namespace": "suanli",
    }
    version = server.state.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "newsroom-ner"


def test_single_user_server_gets_no_namespace(server: KfpServerForTests) -> None:
    server.state.multi_user = False
    made = submit(SUBMISSION, IR, connect(server))
    assert "namespace" not in server.state.runs[made.run_id]


def test_same_fingerprint_same_run(server: KfpServerForTests) -> None:
    first = submit(SUBMISSION, IR, connect(server))
    again = submit(SUBMISSION, IR, connect(server))
    assert (again.run_id, again.created) == (first.run_id, False)
    server.state.runs[first.run_id]["state"] = "SUCCEEDED"
    assert not submit(SUBMISSION, IR, connect(server)).created
    assert submit(SUBMISSION, IR, connect(server), force=True).created


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_failed_run_is_started_again_without_a_second_upload(
    server: KfpServerForTests, state: str
) -> None:
    first = submit(SUBMISSION, IR, connect(server))
    server.state.runs[first.run_id]["state"] = state
    versions = len(server.state.versions)
    again = submit(SUBMISSION, IR, connect(server))
    assert again.created
    assert again.run_id != first.run_id
    assert len(server.state.versions) == versions


def test_spec_data_and_images_change_the_fingerprint_and_prices_do_not() -> None:
    def fingerprint(plan: Any = PLAN, ir: str = IR, **options: Any) -> str:
        return submission_of(plan, ir, **options).fingerprint

    assert fingerprint(dataclasses.replace(PLAN, catalog={"date": "2027-01-01"})) == fingerprint()
    spec = {**PLAN.spec, "training": {**PLAN.spec["training"], "epochs": 9}}
    changed = [
        fingerprint(dataclasses.replace(PLAN, spec=spec)),
        fingerprint(dataclasses.replace(PLAN, profile={"train": {"rows": 1}})),
        fingerprint(data={"train": "sha256:1"}),
        fingerprint(ir=compile_pipeline(PLAN, images={"train": "registry/train@sha256:0"})),
    ]
    assert len({fingerprint(), *changed}) == 5


def test_identity_of_local_data_is_its_content(tmp_path: Path) -> None:
    file = tmp_path / "train.conll"
    file.write_text("a O\n\n")
    ingest = PLAN.step("ingest")
    arguments = {**ingest.arguments, "data": {"train": {"uri": str(file)}, "format": "conll"}}
    steps = (dataclasses.replace(ingest, arguments=arguments), *PLAN.steps[1:])
    plan = dataclasses.replace(PLAN, steps=steps)
    before = data_identity(plan)
    file.write_text("a B-X\n\n")
    assert before is not None
    assert data_identity(plan) != before
    file.unlink()
    assert data_identity(plan) is None


def test_predicted_cost_above_the_budget_is_refused_before_any_call(
    server: KfpServerForTests,
) -> None:
    costly = dataclasses.replace(SUBMISSION, predicted_usd=7.5)
    with pytest.raises(InfeasiblePlanError, match=r"7\.50 USD is above objective.budget_usd 5"):
        submit(costly, IR, connect(server))
    assert server.state.requests == []


def test_run_is_stopped_when_its_projected_cost_passes_the_budget(
    server: KfpServerForTests,
) -> None:
    # train is planned at 1 USD an hour: after six hours it has passed 5 USD
    slow = task("train", "RUNNING", start="2026-11-22T00:00:00Z")
    server.state.next_states = [{"state": "RUNNING", "run_details": {"task_details": [slow]}}]
    with pytest.raises(InfeasiblePlanError, match=r"was stopped: projected .* passes"):
        submit(SUBMISSION, IR, connect(server), wait=True, poll_s=0.01)
    assert [run["state"] for run in server.state.runs.values()] == ["CANCELED"]


def test_projection_takes_measured_time_for_ended_steps() -> None:
    hour = {"state": "SUCCEEDED", "seconds": 3600.0, "error": None}
    assert projected_usd(SUBMISSION, {}) == pytest.approx(SUBMISSION.predicted_usd)
    planned = next(step.usd for step in SUBMISSION.steps if step.step == "train")
    assert projected_usd(SUBMISSION, {"train": hour}) == pytest.approx(
        SUBMISSION.predicted_usd - planned + 1.0
    )


def test_wait_tells_each_step_and_ends(server: KfpServerForTests) -> None:
    def details(*tasks: dict[str, Any]) -> dict[str, Any]:
        return {"run_details": {"task_details": [task("train-driver", "SUCCEEDED"), *tasks]}}

    server.state.next_states = [
        {"state": "RUNNING", **details(task("compress-2", "RUNNING"))},
        {"state": "SUCCEEDED", **details(task("compress-2", "SUCCEEDED"))},
    ]
    events: list[dict[str, Any]] = []
    done = submit(SUBMISSION, IR, connect(server), wait=True, poll_s=0.01, on_event=events.append)
    assert done.state == "SUCCEEDED"
    steps = [(e["step"], e["state"]) for e in events if e["event"] == "step"]
    assert steps == [("compress-prune50-int8", "RUNNING"), ("compress-prune50-int8", "SUCCEEDED")]


def test_failed_step_is_named_with_kfps_message(server: KfpServerForTests) -> None:
    failed = {**task("train", "FAILED"), "error": {"code": 2, "message": "OOMKilled"}}
    server.state.next_states = [{"state": "FAILED", "run_details": {"task_details": [failed]}}]
    with pytest.raises(StepError, match="failed in train: OOMKilled") as caught:
        submit(SUBMISSION, IR, connect(server), wait=True, poll_s=0.01)
    assert "--step train" in caught.value.remedy


def test_error_in_a_reachable_store_beats_kfps_message(
    server: KfpServerForTests, tmp_path: Path
) -> None:
    tiers = Tiers.under(tmp_path)
    ir = IR.replace(_default_store(IR), tiers.to_json())
    made = submit(SUBMISSION, ir, connect(server))
    Store(tiers).put_json(
        f"runs/{made.run_id}/errors/decide.json",
        error_document("decide", InfeasiblePlanError("costs 9 USD", remedy="raise the budget")),
    )
    server.state.next_states = [{"state": "FAILED"}]
    with pytest.raises(InfeasiblePlanError, match="step decide: costs 9 USD"):
        submit(SUBMISSION, ir, connect(server), wait=True, poll_s=0.01)


def _default_store(ir: str) -> str:
    import yaml

    pipeline = next(iter(yaml.safe_load_all(ir)))
    default: str = pipeline["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"]
    return default


def test_task_keys_map_to_step_names() -> None:
    names = step_names(IR)
    assert names["compress"] == "compress-fp32"
    assert names["compress-2"] == "compress-prune50-int8"
    assert set(names.values()) == {step.step for step in PLAN.steps}


def test_list_status_and_cancel(server: KfpServerForTests) -> None:
    made = submit(SUBMISSION, IR, connect(server))
    (row,) = runs_list(connect(server), experiment="newsroom-ner")
    assert (row["run_id"], row["plan"], row["state"]) == (made.run_id, PLAN.hash[:12], "PENDING")
    server.state.runs[made.run_id]["run_details"] = {"task_details": [task("train", "RUNNING")]}
    assert runs_status(connect(server), made.run_id)["steps"]["train"]["state"] == "RUNNING"
    runs_cancel(connect(server), made.run_id)
    assert server.state.runs[made.run_id]["state"] == "CANCELED"


def test_token_is_sent_and_read_again_when_it_rotates(
    server: KfpServerForTests, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    server.state.token = "first"
    submit(SUBMISSION, IR, connect(server, token_path=token))
    server.state.token = "second"
    token.write_text("second\n")
    assert len(runs_list(connect(server, token_path=token))) == 1


# -- bad servers, bad rights ---------------------------------------------------------------------


def test_missing_right_names_verb_and_resource(server: KfpServerForTests) -> None:
    server.state.forbidden = {("POST", "/runs")}
    with pytest.raises(SpecError, match="refuses create on runs") as caught:
        submit(SUBMISSION, IR, connect(server))
    assert "grant the verb create on runs" in caught.value.remedy
    assert server.state.runs == {}


def test_wrong_token_never_appears_in_the_error(server: KfpServerForTests, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not-to-be-seen")
    server.state.token = "right"
    with pytest.raises(SpecError, match="401") as caught:
        submit(SUBMISSION, IR, connect(server, token_path=token))
    assert "not-to-be-seen" not in str(caught.value)


def test_server_that_is_down() -> None:
    with pytest.raises(StepError, match=r"no KFP server answers at http://127.0.0.1:9"):
        submit(SUBMISSION, IR, Connection(host="http://127.0.0.1:9", namespace="suanli"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, "text/plain", b"404 page not found"), "older than 2.0"),
        ((200, "text/html", b"<html>Sign in</html>"), "does not answer as a KFP API server"),
        ((200, "application/json", b"[1, 2]"), "does not answer as a KFP API server"),
        ((200, "application/json", b'{"multi_user": '), "does not answer as a KFP API server"),
        ((503, "text/html", b"<h1>upstream</h1>"), "failed with 503"),
    ],
)
def test_servers_that_are_not_kfp(
    server: KfpServerForTests, answer: tuple[int, str, bytes], message: str
) -> None:
    server.state.answer = answer
    with pytest.raises((SpecError, StepError), match=message):
        submit(SUBMISSION, IR, connect(server))


@pytest.mark.parametrize("host", ["", "ml-pipeline:8888", "ftp://ml-pipeline", "http://"])
def test_host_that_is_no_url(host: str) -> None:
    with pytest.raises(SpecError, match="is not a URL"):
        submit(SUBMISSION, IR, Connection(host=host, namespace="suanli"))


def test_missing_token_file(server: KfpServerForTests, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="token file"):
        submit(SUBMISSION, IR, connect(server, token_path=tmp_path / "absent"))


def test_submission_round_trips_and_refuses_others(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(SUBMISSION.to_json()))
    (tmp_path / "pipeline.yaml").write_text(IR)
    assert load_rendered(tmp_path) == (SUBMISSION, IR)
    with pytest.raises(SpecError, match="schema_version 2"):
        Submission.from_json({**SUBMISSION.to_json(), "schema_version": 2}, source="run.json")
    with pytest.raises(SpecError, match="not a rendered folder"):
        load_rendered(tmp_path / "absent")


def test_images_come_from_the_compiled_pipeline() -> None:
    assert images_of(IR) == {"suanli/data:0.1.0", "suanli/train:0.1.0", "suanli/infer:0.1.0"}
