"""Every command of every guide runs, with tiny data in place of the reader's.

Names that a guide uses for the reader's own things (SPEC, MODEL, URL …) are replaced by tiny ones
in one folder; what needs more than this machine has a reason in `ELSEWHERE`. With
SUANLI_FULL_GUIDES=1 (`make soak`) the examples run as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.guides import Command, commands
from tests.kfp_server import KfpServerForTests
from tests.monitoring import publish
from tests.support import REPOSITORY

pytestmark = pytest.mark.slow
FULL = bool(os.environ.get("SUANLI_FULL_GUIDES"))
# What is not run here, and why.
ELSEWHERE = {
    r"(kubectl|docker|git|pip|mkdocs) ": "not ours; manifests are applied by tests/cluster",
    r"make ": "each target is a CI job or a longer run of its own",
    r"(cd|echo) ": "of the shell",
    r"pytest ": "this is it",
    r"python -m benchmarks\.": "minutes of measuring; its options are checked by test_docs.py",
    r"suanli smoke ": "needs a served model: tests/unit/test_serving.py",
    r"suanli runs (logs|cancel)": "reads pods: tests/unit/test_cluster_cli.py",
    r"suanli catalog update --cluster": "reads nodes: tests/unit/test_catalog_update.py",
}
TINY = """\
name: {name}
task: text-classification
model: {{id: minilm-l6}}
data:
  train: {{uri: train.csv}}
  validation: {{fraction: 0.2}}
  test: {{fraction: 0.2}}
training: {{epochs: 1, max_length: 16}}
compression: {{max_quality_drop: 0.9, variants: [fp32]}}
"""
SPECS = re.compile(r"^(SPEC|\[SPEC\]|spec\.yaml|specs/.+\.yaml|pipelines/examples/.+\.yaml)$")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything a guide's reader would have."""
    folder = tmp_path_factory.mktemp("reader")
    lines = [f"row {n} is {'good' if n % 2 else 'bad'},{n % 2}" for n in range(60)]
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (folder / "spec.yaml").write_text(TINY.format(name="tiny"))
    publish(folder / "MODEL")
    inbox = folder / "headlines"
    inbox.mkdir()
    rows = [{"text": f"bad news {n}", "subject": "bank"} for n in range(30)]
    (inbox / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(REPOSITORY / "docs" / "planning.md", folder)
    own = re.search(r"```yaml\n(# own\.yaml.*?)```", (folder / "planning.md").read_text(), re.S)
    assert own
    (folder / "own.yaml").write_text(own[1])
    columns = "row_id,kind,model,gpu,gpu_count,precision,seq_len,micro_batch"
    (folder / "rows.csv").write_text(columns + "\n")
    with KfpServerForTests() as server:
        server.state.next_states = [{"state": "SUCCEEDED"}]
        (folder / "URL").write_text(server.url)
        yield folder


def substituted(command: Command, place: Path) -> list[str]:
    """The command's arguments with the reader's things."""
    url = (place / "URL").read_text()
    words = []
    for word in command.words[1:]:
        if SPECS.match(word):
            word = str(REPOSITORY / word) if FULL and word.startswith("pipelines/") else "spec.yaml"
        elif word in ("URL", "…", "http://localhost:8888"):
            word = url
        elif word in ("FOLDER", "[FOLDER]"):
            word = "headlines"
        elif word in ("[WORKDIR]", "WORKDIR"):
            word = "runs"
        elif "…" in word and "=" in word:
            digest = "sha256:" + "0" * 64
            word = word.replace("…", f"registry.example/{word.partition('=')[0]}@{digest}")
        elif word in ("runs/*/*", "RUNDIR", "report.json") or word.startswith("<workdir>"):
            run = max((place / "runs" / "tiny").iterdir(), key=lambda p: p.stat().st_mtime)
            word = str(run / "report.json" if word == "report.json" else run)
        elif word in ("deploy/", "deploy/newsroom-ner"):
            word = "deploy"
        elif word == "pipelines/examples/base-model":
            word = f"base-model-{len(words)}"
        elif word == "own.csv":
            word = "own.yaml"
        words.append(word)
    return words


def suanli(words: list[str], place: Path) -> tuple[int, str]:
    """Run a command in this process; returns its exit code and what it said."""
    said = io.StringIO()
    with (
        contextlib.chdir(place),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as ended,
    ):
        main(words)
    return int(ended.value.code or 0), said.getvalue()


def elsewhere(command: Command) -> bool:
    """Whether another test runs it: see `ELSEWHERE`; programs in test_answers.py and
    test_publish_kserve.py, commits in test_gitops.py and test_monitor_command.py."""
    return (
        any(re.match(pattern, command.text + " ") for pattern in ELSEWHERE)
        or command.words[0] == "python"
        or command.words[1] == "promote"
        or "--commit" in command.words
    )


def complete(command: Command, words: list[str]) -> bool:
    """Whether a command in a sentence has what it needs to run."""
    if words[0] in ("plan", "compile", "render", "submit"):
        return "spec.yaml" in words
    if words[:2] == ["tier", "restore"]:
        return "--to" in words
    return len(words) > 1 and words[0] not in ("run", "doctor", "monitor", "report")


def test_every_command_of_every_guide(place: Path):
    """In one test, because later commands use what earlier ones left; each distinct command runs
    once. Those in sentences run where they are complete."""
    code, said = suanli(["run", "spec.yaml", "--quiet"], place)
    assert code == 0, said
    code, said = suanli(["plan", "spec.yaml", "--json"], place)
    (place / "plan.json").write_text(said)
    done = {("run", "spec.yaml"), ("plan", "spec.yaml", "--json")}
    failures = []
    for command in commands():
        if elsewhere(command):
            continue
        words = substituted(command, place)
        if tuple(words) in done or (command.inline and not complete(command, words)):
            continue
        done.add(tuple(words))
        code, said = suanli(words, place)
        if code != 0:
            failures.append(f"{command.where}: {' '.join(words)} ended with {code}:\n{said}")
    assert not failures, "\n\n".join(failures)
    assert len(done) >= 15


def test_every_example_plans(tmp_path: Path):
    """Its plan for this machine, which reads the data. `support-replies` needs the
    folder that its base leaves."""
    for path in sorted((REPOSITORY / "pipelines" / "examples").glob("*.yaml")):
        if path.stem == "support-replies":
            continue
        code, said = suanli(["plan", str(path), "--here"], tmp_path)
        assert code == 0, f"{path.stem}: {said}"


@pytest.mark.skipif(not FULL, reason="minutes: make soak")
def test_the_examples_run_in_full(tmp_path: Path):
    for path in sorted((REPOSITORY / "pipelines" / "examples").glob("*.yaml")):
        if path.stem == "support-replies":
            continue
        command = [sys.executable, "-m", "pipelines", "run", str(path), "--workdir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 0, f"{path.stem}: {done.stderr}"
