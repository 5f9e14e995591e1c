"""Errors on the command line: one line and what to do, whatever went wrong."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

import pytest

from pipelines import cli


def outcome(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> tuple[object, str]:
    """Exit code and standard error of a command that raises `error`."""

    def fails(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "_schema", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main(["schema"])
    return ended.value.code, capsys.readouterr().err


def test_errors_that_nobody_raised_on_purpose_are_one_line_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    code, text = outcome(full, monkeypatch, capsys)
    assert (code, text.splitlines()[0]) == (1, "suanli: /runs/x: No space left on device")
    code, text = outcome(KeyError("rows\x1b[2J"), monkeypatch, capsys)
    assert code == 1
    assert text.startswith("suanli: unexpected KeyError: ")
    assert "SUANLI_TRACEBACK=1" in text
    assert "\x1b" not in text
    assert "Traceback" not in text


def test_traceback_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    monkeypatch.setattr(cli, "_schema", lambda _: {}["absent"])
    with pytest.raises(KeyError):
        cli.main(["schema"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["plann", "x"], "plan"),
        (["histroy"], "history"),
        (["compile", "x", "--format", "irr"], "ir"),
    ],
)
def test_a_slip_of_the_finger_is_recognised(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(typed)
    assert ended.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(tmp_path / "no\x1b[31msuch.yaml")])
    assert ended.value.code == 2
    assert "\x1b" not in capsys.readouterr().err
