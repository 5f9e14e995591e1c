"""Bad input through the command line: a clear message, exit code 2, no traceback, nothing
published and no marker left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import suanli

GOOD = "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\nBlackburn\tI-PER\n\n" * 12

SPEC = """\
name: tiny
task: token-classification
model: {{id: minilm-l6}}
data:
  train: {{uri: {train}}}
  validation: {{uri: {validation}}}
  test: {{uri: test.conll}}
  format: conll
training: {{epochs: 1, max_length: 32}}
{more}
"""


def write(
    folder: Path, *, train: bytes | None = None, validation: bytes | None = None, more: str = ""
) -> Path:
    """Lay a small spec and its data out; None means good data."""
    for name, body in (("train", train), ("validation", validation), ("test", None)):
        (folder / f"{name}.conll").write_bytes(GOOD.encode() if body is None else body)
    spec = folder / "spec.yaml"
    spec.write_text(SPEC.format(train="train.conll", validation="validation.conll", more=more))
    return spec


def fails(spec: Path, folder: Path, code: int, *words: str) -> None:
    """Run `spec` and check exit code, message, and that nothing was published."""
    done = suanli("run", spec, "--workdir", folder / "runs", "--quiet")
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    store = folder / "runs" / "store" / "hot"
    assert not list(store.glob("markers/*.json"))
    assert not list(store.glob("published/**/*.json"))
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "words"),
    [
        (b"", ("train.conll", "empty")),
        (b"EU\tB-ORG\nrejects\n\n" * 12, ("train.conll:2", "column")),
        (b"EU\tB-ORG\nrejects\tO\textra\n\n" * 12, ("train.conll:2", "column")),
        (b"EU\tB-ORG\ncaf\xe9\tO\n\n" * 12, ("train.conll:2", "UTF-8")),
        (b"EU\tQ-ORG\nrejects\tO\n\n" * 12, ("train.conll:1", "Q-ORG")),
    ],
)
def test_bad_training_files(tmp_path: Path, train: bytes, words: tuple[str, ...]) -> None:
    fails(write(tmp_path, train=train), tmp_path, 2, *words)


@pytest.mark.slow
def test_label_that_training_lacks(tmp_path: Path) -> None:
    body = GOOD.encode() + b"Oslo\tB-LOC\n"
    fails(write(tmp_path, validation=body), tmp_path, 2, "validation.conll", "LOC")


def test_missing_file(tmp_path: Path) -> None:
    spec = write(tmp_path)
    (tmp_path / "train.conll").unlink()
    fails(spec, tmp_path, 2, "train.conll", "no such file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("token-classification", "tokens"), ("spec.yaml:2", "task", "'tokens'")),
        (("data:", "dta:"), ("spec.yaml:4", "did you mean 'data'")),
        (("epochs: 1", "epochs: one"), ("spec.yaml:9", "training.epochs", "integer")),
    ],
)
def test_bad_specs(tmp_path: Path, change: tuple[str, str], words: tuple[str, ...]) -> None:
    spec = write(tmp_path)
    spec.write_text(spec.read_text().replace(*change))
    fails(spec, tmp_path, 2, *words)


def test_missing_spec(tmp_path: Path) -> None:
    fails(tmp_path / "none.yaml", tmp_path, 2, "none.yaml", "no such spec")


def test_workdir_that_cannot_be_written(tmp_path: Path) -> None:
    spec = write(tmp_path)
    (tmp_path / "runs").write_text("a file, not a folder")
    done = suanli("run", spec, "--workdir", tmp_path / "runs")
    assert done.returncode == 2
    assert "--workdir" in done.stderr
    assert "Traceback" not in done.stderr


def test_impossible_deadline_names_the_constraint(tmp_path: Path) -> None:
    spec = write(tmp_path, more="objective: {deadline: 1s}")
    fails(spec, tmp_path, 3, "deadline", "relax")


def test_impossible_budget_names_the_constraint(tmp_path: Path) -> None:
    spec = write(tmp_path, more="objective: {budget_usd: 0.0000001, here_usd_per_hour: 1.0}")
    fails(spec, tmp_path, 3, "budget", "relax")


def test_help_is_quick_and_names_every_command() -> None:
    done = suanli("--help")
    assert done.returncode == 0
    for command in ("run", "plan", "predict", "compile", "report", "schema"):
        assert command in done.stdout


def test_unknown_command_exits_2() -> None:
    assert suanli("fly").returncode == 2


def test_environment_is_not_needed(tmp_path: Path) -> None:
    """A folder called `components` in the working directory must not win over ours."""
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text("raise SystemExit('wrong package')")
    done = suanli("schema", "error", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.linesep.join(done.stdout.splitlines()).startswith("{")
