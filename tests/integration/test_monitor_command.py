"""`suanli monitor` as a person runs it: a published model, a stream, a git repository."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines.retrain import ask_for_retraining
from pipelines.spec import load_spec
from pipelines.submission import submission_of
from tests.monitoring import publish
from tests.support import REPOSITORY, suanli

SPEC = """\
# A comment that must stay.
name: headlines
task: text-classification
model: {id: minilm-l6}
data:   # where it is
    train: {uri: train.csv}
    validation: {fraction: 0.2}
    test: {fraction: 0.2}

compression: {variants: [fp32]}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("model") / "published" / "m" / "1")


def rows(count: int, share: float, seed: int, words: str = "shares rise") -> list[str]:
    dice = random.Random(seed)
    return [
        json.dumps(
            {
                "id": f"{seed}-{n}",
                "text": f"{'bad' if dice.random() < share else 'good'} news about {words}",
                "subject": f"bank {n % 3}",
            }
        )
        for n in range(count)
    ]


def run(*arguments: str | Path, lines: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "monitor", *map(str, arguments)],
        input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


def test_a_stream_on_standard_input(model: Path, tmp_path: Path):
    lines = [*rows(900, 0.1, 1), "not json", *rows(150, 0.6, 2)]
    done = run(model.parents[2], "--state", tmp_path / "s", "--scores", lines=lines)
    assert done.returncode == 0, done.stderr
    assert "SURGE bank" in done.stdout
    assert "1050 texts, 3 subjects" in done.stdout
    assert "1 malformed (1 not JSON)" in done.stdout
    alerts = [json.loads(row) for row in (tmp_path / "s" / "alerts.jsonl").read_text().splitlines()]
    assert {a["subject"] for a in alerts if a["kind"] == "surge"} >= {"bank 0", "bank 1", "bank 2"}
    assert len((tmp_path / "s" / "scores.jsonl").read_text().splitlines()) == 1050


def test_kill_nine_loses_nothing(model: Path, tmp_path: Path):
    """Killed again and again while it follows a folder; the end is that of an undisturbed run."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.jsonl").write_text("\n".join([*rows(15_000, 0.1, 1), "?", *rows(90, 0.9, 2)]))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"}
    options = {"model": str(model), "folder": str(inbox), "state": str(tmp_path / "rough"),
               "texts_per_false_alarm": 10_000}  # fmt: skip
    command = [sys.executable, "-c", (
        "import sys, components.monitor.watch as w; w.COMMIT_SECONDS = 0.05;"
        "from components.monitor.__main__ import main; sys.exit(main())"
    ), json.dumps(options)]  # fmt: skip
    state = tmp_path / "rough" / "state.json"
    seen = []
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            if state.exists() and state.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        seen.append(json.loads(state.read_bytes())["texts"])
    assert 0 < seen[0] <= seen[1] <= seen[2] < 15_090, "killed in the middle"
    ends = {}
    for name in ("rough", "calm"):
        done = suanli("monitor", model, inbox, "--state", tmp_path / name, "--json")
        assert done.returncode == 0, done.stderr
        ends[name] = json.loads(done.stdout.splitlines()[-1])
    assert ends["rough"] == ends["calm"]
    assert ends["calm"]["texts"] == 15_090
    alerts = [
        [{**json.loads(row), "time": ""} for row in (tmp_path / n / "alerts.jsonl").open()]
        for n in ends
    ]
    assert alerts[0] == alerts[1]
    assert alerts[0]


def test_drift_writes_the_change_that_gitops_carries(model: Path, tmp_path: Path):
    """Drift: one commit with a new data.revision, no second one at the next start; what is
    rendered from the changed spec is another run."""
    repository = tmp_path / "repository"
    repository.mkdir()
    spec = repository / "headlines.yaml"
    spec.write_text(SPEC)
    (repository / "train.csv").write_text(
        "text,label\n" + "".join(f"row {n},{n % 2}\n" for n in range(40))
    )

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
        return subprocess.run(
            command, cwd=repository, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    git("config", "user.name", "t")
    git("config", "user.email", "t@example.com")
    git("add", ".")
    git("commit", "-qm", "start")
    options = ("--state", tmp_path / "s", "--retrain", spec, "--commit")
    quiet = run(model, *options, lines=rows(1600, 0.1, 1))
    assert "DRIFT" not in quiet.stdout
    assert spec.read_text() == SPEC
    changed = run(model, *options, lines=rows(1100, 0.1, 2, "merger talks and other things"))
    assert "DRIFT the input drifted" in changed.stdout
    assert "data.revision is now drift-" in changed.stdout
    assert git("log", "--format=%s").splitlines()[0].startswith("Retrain headlines: the input")
    assert git("status", "--porcelain") == ""
    again = run(model, *options, lines=rows(300, 0.1, 3))
    assert "DRIFT" in again.stdout, "it stands until another model is published"
    assert "data.revision" not in again.stdout
    assert len(git("log", "--format=%h").splitlines()) == 2
    lines = spec.read_text().splitlines()
    assert [line for line in lines if "revision" not in line] == SPEC.splitlines()
    (added,) = [line for line in lines if "revision" in line]
    assert added.startswith("    revision: drift-")
    assert yaml.safe_load(spec.read_text())["data"]["revision"] in added
    fingerprints = []
    for text in (SPEC, spec.read_text()):
        (tmp_path / "repository" / "x.yaml").write_text(text)
        done = suanli("plan", repository / "x.yaml", "--here", "--json")
        assert done.returncode == 0, done.stderr
        from pipelines.plan import plan_from_json

        plan = plan_from_json(json.loads(done.stdout))
        ir = "deploymentSpec: {executors: {}}\n"
        fingerprints.append(submission_of(plan, ir).fingerprint)
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.parametrize(
    "text",
    [
        SPEC,
        SPEC.replace("data:   # where it is\n", "data:\n    # a comment first\n\n"),
        SPEC.replace("    train:", "    revision: old\n    train:"),
        SPEC.replace("    test: {fraction: 0.2}", "    test: {fraction: 0.2}\n    revision: old"),
        SPEC.replace("\n", "\r\n"),
        "name: x\ntask: text-classification\nmodel: {id: minilm-l6}\ndata: {train: {uri: a}}\n",
        "name: x\ntask: text-classification\nmodel: {id: minilm-l6}\n"
        "data: {train: {uri: a}, revision: old}\n",
    ],
)
def test_the_revision_finds_its_place(tmp_path: Path, text: str):
    path = tmp_path / "spec.yaml"
    path.write_bytes(text.encode())
    before = load_spec(path).document
    assert ask_for_retraining(path, revision="drift-1", reason="words: a # b") == ""
    assert ask_for_retraining(path, revision="drift-1", reason="other") is None
    before["data"]["revision"] = "drift-1"
    assert load_spec(path).document == before
    assert ask_for_retraining(path, revision="drift-2", reason="") == ""
    assert path.read_text().count("revision") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no published model there"),
        (["{model}", "nowhere"], "no such file or folder"),
        (["{model}", "--negative", "awful"], "no label 'awful'"),
        (["{model}", "--commit"], "--commit needs --retrain"),
        (["{model}", "--threads", "0"], "positive"),
        (["{model}", "--retrain", "{model}/labels.json"], "labels.json"),
    ],
)
def test_bad_arguments_are_bad_input(model: Path, tmp_path: Path, arguments, message):
    done = run(*(a.format(model=model) for a in arguments), "--state", tmp_path / "s", lines=[])
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
