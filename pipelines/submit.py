"""Start a run on a KFP server, once for each fingerprint, within the budget."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contract import InfeasiblePlanError
from pipelines.follow import POLL_S, OnEvent, follow
from pipelines.kfp_api import Connection, KfpServer
from pipelines.submission import Submission, version_name

RUNNER_ACCOUNT = "suanli-runner"  # manifests/base/serviceaccount-runner.yaml
REUSABLE = ("PENDING", "RUNNING", "PAUSED", "SUCCEEDED")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedRun:
    """The run on the server; `created` is False when an earlier one is the same."""

    run_id: str
    name: str
    state: str
    created: bool


def submit(
    submission: Submission,
    ir_yaml: str,
    connection: Connection,
    *,
    experiment: str | None = None,
    parameters: dict[str, Any] | None = None,
    service_account: str | None = RUNNER_ACCOUNT,
    wait: bool = False,
    force: bool = False,
    poll_s: float = POLL_S,
    on_event: OnEvent = lambda event: None,
) -> SubmittedRun:
    """Start the run, or return the one that already is or was the same.

    A run that failed or was cancelled is started again; its finished steps return from their
    markers.

    Args:
        parameters: pipeline parameters that differ from their defaults (dynamic requests).
        wait: follow the run to its end and enforce the budget meanwhile.
        force: start another run even if an equal one succeeded.

    Raises:
        InfeasiblePlanError: predicted cost is above the budget, or passed it on the way.
        SpecError, StepError: see `KfpServer`; with `wait` also what the failed step reported.
    """
    check_budget(submission)
    server = KfpServer(connection)
    experiment_id = server.experiment_id(experiment or submission.name)
    run = None if force else _same_run(server, experiment_id, submission)
    created = run is None
    if run is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(ir_yaml, encoding="utf-8")
            version = version_name(submission.name, ir_yaml)
            pipeline = server.pipeline_version(submission.name, version, file)
        run = server.create_run(
            name=submission.run_name,
            description=describe(submission),
            experiment_id=experiment_id,
            pipeline=pipeline,
            parameters=parameters or {},
            service_account=service_account,
        )
    on_event({"event": "submitted" if created else "exists", "run_id": run.run_id,
              "name": submission.run_name, "state": run.state})  # fmt: skip
    state = str(run.state)
    if wait:
        state = follow(server, run.run_id, submission, ir_yaml, poll_s=poll_s, on_event=on_event)
    return SubmittedRun(run_id=run.run_id, name=submission.run_name, state=state, created=created)


def check_budget(submission: Submission) -> None:
    """Refuse a run that is predicted to cost more than its budget.

    Raises:
        InfeasiblePlanError: naming both figures.
    """
    predicted, budget = submission.predicted_usd, submission.budget_usd
    if predicted is not None and budget is not None and predicted > budget:
        raise InfeasiblePlanError(
            f"predicted {predicted:.2f} USD is above objective.budget_usd {budget:.2f}",
            remedy="raise the budget, or give up epochs, deadline or on-demand capacity",
        )


def describe(submission: Submission) -> str:
    """Return the run's description (KFP 2 runs have no labels; `runs list` reads this)."""
    facts = {
        "plan": submission.plan_hash[:12],
        "fingerprint": submission.fingerprint[:12],
        "predicted_s": round(submission.predicted_seconds),
        "predicted_usd": _rounded(submission.predicted_usd),
        "budget_usd": submission.budget_usd,
    }
    return "suanli " + " ".join(f"{key}={value}" for key, value in facts.items())


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 4)


def _same_run(server: KfpServer, experiment_id: str, submission: Submission) -> Any:
    for run in server.runs(experiment_id=experiment_id, name=submission.run_name):
        if run.state in REUSABLE:
            return run
    return None
