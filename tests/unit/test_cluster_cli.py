"""render, submit and runs from the command line: exit codes, one-line errors, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.dag import compile_pipeline
from pipelines.jobs import RenderOptions
from pipelines.plan import plan_from_json
from pipelines.render import render
from tests.kfp_server import KfpServerForTests
from tests.plans import sample_plan
from tests.support import REPOSITORY, suanli

PLAN = sample_plan()
SPEC = REPOSITORY / "pipelines" / "examples" / "newsroom-ner.yaml"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    render(PLAN, compile_pipeline(PLAN), folder, options=RenderOptions())
    return folder


def test_submit_a_rendered_folder_then_list_status_and_cancel(rendered: Path) -> None:
    with KfpServerForTests() as server:
        first = suanli("submit", rendered, "--host", server.url)
        assert (first.returncode, first.stderr) == (0, "")
        assert first.stdout.startswith("event=submitted run_id=")
        again = suanli("submit", rendered, "--host", server.url)
        assert again.stdout.startswith("event=exists run_id=")
        silent = suanli("submit", rendered, "--host", server.url, "--if-changed")
        assert (silent.returncode, silent.stdout) == (0, "")
        (run_id,) = server.state.runs

        listed = suanli("runs", "list", "--host", server.url)
        assert listed.stdout.split()[:2] == [run_id, "PENDING"]
        status = suanli("runs", "status", run_id, "--host", server.url)
        assert json.loads(status.stdout)["plan"] == PLAN.hash[:12]
        assert suanli("runs", "cancel", run_id, "--host", server.url).returncode == 0
        assert server.state.runs[run_id]["state"] == "CANCELED"


def test_the_schedule_plans_what_render_planned(tmp_path: Path) -> None:
    """The CronJob's own command, on its own files: the run is known, or planned in the same way."""
    own, out = tmp_path / "own.yaml", tmp_path / "out"
    own.write_text("keep: [m6i.2xlarge]\ndiscounts: [{cloud: aws, percent: 12}]\n")
    done = suanli("render", SPEC, "-o", out, "--schedule", "0 2 * * *", "--catalog", own)
    assert done.returncode == 0, done.stderr
    own.unlink()  # a pod has only what was rendered
    cron = yaml.safe_load((out / "cronjob.yaml").read_text())
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    command = [text.replace("/etc/suanli", str(out)) for text in pod["containers"][0]["args"]]
    plan = json.loads((out / "plan.json").read_text())
    with KfpServerForTests() as server:
        command[command.index("--host") + 1] = server.url
        started = suanli(*command, cwd=tmp_path)
        assert started.returncode == 0, started.stderr
        (run,) = server.state.runs.values()
        assert plan_from_json(plan).hash[:12] in run["description"]
        same = suanli("submit", out, "--host", server.url)
        assert same.stdout.startswith("event=exists run_id="), same.stderr


def test_budget_guard_exits_with_3_before_any_call(rendered: Path, tmp_path: Path) -> None:
    document = json.loads((rendered / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**document, "predicted_usd": 99.0}))
    (tmp_path / "pipeline.yaml").write_text((rendered / "pipeline.yaml").read_text())
    with KfpServerForTests() as server:
        done = suanli("submit", tmp_path, "--host", server.url)
        assert done.returncode == 3
        assert "99.00 USD is above objective.budget_usd 5.00" in done.stderr
        assert server.state.requests == []


def test_unknown_run_is_bad_input() -> None:
    with KfpServerForTests() as server:
        done = suanli("runs", "status", "no-such-run", "--host", server.url)
    assert done.returncode == 2
    assert "Run no-such-run not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_that_the_pipeline_does_not_have_are_refused(rendered: Path) -> None:
    with KfpServerForTests() as server:
        done = suanli("submit", rendered, "--host", server.url, "--set", "colour=red")
        assert done.returncode == 2
        assert "the pipeline has no parameter 'colour'" in done.stderr
        assert server.state.runs == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", SPEC, "-o", "out", "--namespace", "Not_DNS"), "is not a DNS label"),
        (("render", SPEC, "-o", "out", "--schedule", "daily"), "is not a cron schedule"),
        (("render", SPEC, "-o", "out", "--label", "team"), "is not KEY=VALUE"),
        (("render", SPEC, "-o", "out", "--label", "a=b c"), "is not a Kubernetes label"),
        (("render", SPEC, "-o", "out", "--image", "gpu=x"), "is not FAMILY=IMAGE"),
        (("submit", "no-such-spec.yaml", "--host", "http://127.0.0.1:9"), "no such spec"),
        (("submit", REPOSITORY / "docs", "--host", "http://127.0.0.1:9"), "not a rendered"),
        (("runs", "list", "--host", "ml-pipeline"), "is not a URL"),
        (("runs", "logs", "x", "--kubeconfig", "/no/such/file"), "no Kubernetes cluster"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = suanli(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_server_that_is_down_is_a_failed_step_not_bad_input(rendered: Path) -> None:
    done = suanli("submit", rendered, "--host", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no KFP server answers" in done.stderr
    assert "port-forward" in done.stderr


def test_a_credential_in_a_uri_never_gets_into_a_pipeline(tmp_path: Path) -> None:
    uri = "https://account.blob.core.windows.net/c/train.csv?sv=2024&sig=hunter2"
    text = SPEC.read_text().replace("synthetic://ner/train?seed=17", uri)
    (tmp_path / "spec.yaml").write_text(text)
    with KfpServerForTests() as server:
        for command in (
            ("compile", tmp_path / "spec.yaml", "-o", tmp_path / "out"),
            ("render", tmp_path / "spec.yaml", "-o", tmp_path / "out"),
            ("submit", tmp_path / "spec.yaml", "--host", server.url),
        ):
            done = suanli(*command)
            assert done.returncode == 2, done.stderr
            assert "data.train.uri: the URI carries a credential (sig)" in done.stderr
            assert "hunter2" not in done.stderr + done.stdout
        assert server.state.requests == []
    assert not (tmp_path / "out").exists()
