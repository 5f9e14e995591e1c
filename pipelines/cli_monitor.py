"""The command `suanli monitor`: starts `components.monitor` and acts on what it finds.

The monitor loads ONNX Runtime, which the author's side never does, hence a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.contract import DataError, SpecError

AddCommand = Callable[..., argparse.ArgumentParser]
DEFAULT_STATE = Path("monitor-state")
TEXTS_PER_FALSE_ALARM = 10_000.0
Event = dict[str, Any]


def add_commands(commands: Any, command: AddCommand) -> None:
    """Add the command to the command line's parser."""
    monitor = command(
        commands, "monitor", _monitor, "score a stream with a published classifier, raise alerts"
    )
    monitor.add_argument(
        "model", type=Path, help="a published model folder, or a run folder that holds one"
    )
    monitor.add_argument(
        "input", type=Path, nargs="?", help="folder of .jsonl or .txt files; default: JSON lines "
        "on standard input",
    )  # fmt: skip
    monitor.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, metavar="DIR",
        help="where it remembers; alerts.jsonl lies there too (default: monitor-state)",
    )  # fmt: skip
    monitor.add_argument(
        "--negative", action="append", metavar="LABEL", help="label that counts as negative"
    )
    monitor.add_argument("--text-field", metavar="NAME", help="default: text, headline or title")
    monitor.add_argument(
        "--subject-field", metavar="NAME", help="default: subject, company, ticker or symbol"
    )
    monitor.add_argument("--follow", action="store_true", help="wait for more files and lines")
    monitor.add_argument(
        "--reference", type=Path, metavar="FILE.jsonl",
        help="texts that the model was trained on, for drift; default: the first of the stream",
    )  # fmt: skip
    monitor.add_argument("--scores", action="store_true", help="keep every score in scores.jsonl")
    monitor.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    monitor.add_argument(
        "--texts-per-false-alarm", type=float, default=TEXTS_PER_FALSE_ALARM, metavar="N",
        help=f"texts between false alarms, at least (default: {TEXTS_PER_FALSE_ALARM:g})",
    )  # fmt: skip
    monitor.add_argument(
        "--retrain", type=Path, metavar="SPEC", help="on drift, give this spec a new data.revision"
    )
    monitor.add_argument("--commit", action="store_true", help="and commit it; never pushes")
    monitor.add_argument("--json", action="store_true", help="print events as JSON lines")


def model_folder(path: Path) -> Path:
    """Return the folder with model.onnx and export.json at or below `path`.

    Raises:
        DataError: there is none, or there are several.
    """
    if (path / "model.onnx").is_file():
        return path
    found = sorted(
        p.parent for p in path.glob("**/model.onnx") if (p.parent / "predict.py").is_file()
    )
    if len(found) != 1:
        what = "no published model" if not found else f"{len(found)} published models"
        raise DataError(
            f"{path}: {what} there",
            remedy="give the folder with model.onnx and predict.py",
        )
    return found[0]


def _monitor(arguments: argparse.Namespace) -> int:
    if arguments.commit and arguments.retrain is None:
        raise SpecError("--commit needs --retrain SPEC")
    if arguments.texts_per_false_alarm <= 1 or arguments.threads < 1:
        raise SpecError("--texts-per-false-alarm and --threads take positive numbers")
    if arguments.retrain is not None:
        from pipelines.spec import load_spec

        load_spec(arguments.retrain)  # found out now, not when it drifts
    if arguments.input is not None and arguments.input.resolve() == arguments.state.resolve():
        raise SpecError("--state is the input folder", remedy="give --state a folder of its own")
    for name in ("input", "reference"):
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder")
    folder = model_folder(arguments.model)
    options = {
        "model": str(folder),
        "folder": str(arguments.input) if arguments.input else None,
        "state": str(arguments.state),
        "negative": arguments.negative,
        "text_field": arguments.text_field,
        "subject_field": arguments.subject_field,
        "follow": arguments.follow,
        "reference": str(arguments.reference) if arguments.reference else None,
        "keep_scores": arguments.scores,
        "threads": arguments.threads,
        "texts_per_false_alarm": arguments.texts_per_false_alarm,
    }
    return _run(options, lambda event: _act(event, arguments, folder))


def _run(options: dict[str, Any], act: Callable[[Event], None]) -> int:
    """Run the monitor's process to its end, acting on each of its events."""
    command = [sys.executable, "-m", "components.monitor", json.dumps(options)]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                act(json.loads(line))
        except BaseException:
            child.terminate()
            raise
    if child.returncode < 0:
        raise DataError(
            f"the monitor was killed by signal {-child.returncode}",
            remedy="start it again: it goes on where its state says",
        )
    return child.returncode


def _act(event: Event, arguments: argparse.Namespace, folder: Path) -> None:
    if event["kind"] == "error":
        print(f"suanli: {event['message']}", file=sys.stderr)
        if event["remedy"]:
            print(f"  remedy: {event['remedy']}", file=sys.stderr)
        return
    if arguments.json:
        print(json.dumps(event, ensure_ascii=False), flush=True)
    else:
        print(sentence(event), flush=True)
    if event["kind"] == "drift" and arguments.retrain is not None:
        _retrain(event, arguments, folder)


def _retrain(event: Event, arguments: argparse.Namespace, folder: Path) -> None:
    import hashlib

    from pipelines.retrain import ask_for_retraining, reason_of, revision_of

    with (folder / "model.onnx").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    revision = revision_of(event, digest)
    done = ask_for_retraining(
        arguments.retrain, revision=revision, reason=reason_of(event), commit=arguments.commit
    )
    if done is not None and not arguments.json:
        print(
            f"{arguments.retrain}: data.revision is now {revision}"
            + (f", commit {done[:12]}" if done else "")
        )


def sentence(event: Event) -> str:
    """Say an event in one line."""
    match event["kind"]:
        case "surge":
            return (
                f"SURGE {event['subject']}: {event['share']:.0%} negative of late, "
                f"{event['baseline']:.0%} before ({event['baseline_texts']} texts), "
                f"evidence {event['evidence']:g} of {event['threshold']:g}"
            )
        case "surge over":
            return f"over  {event['subject']}: {event['share']:.0%} negative of late"
        case "new normal":
            return f"new normal {event['subject']}: {event['share']:.0%} negative"
        case "drift":
            from pipelines.retrain import reason_of

            return f"DRIFT {reason_of(event)}"
        case "new model":
            return "another model: shares and reference are learnt anew"
    malformed = ", ".join(f"{n} {why}" for why, n in event["malformed_by_reason"].items())
    return (
        f"{event['texts']} texts, {event['subjects']} subjects, {event['alerts']} alerts; "
        f"skipped: {event['malformed']} malformed{f' ({malformed})' if malformed else ''}, "
        f"{event['repeated']} repeated"
    )
