"""Run the DAG on this machine: the same pipeline, under kfp.local, with readable progress.

The pipeline runs in a child process (kfp.local prints to stdout and needs its imports); this side
follows the event log that the steps write and turns the outcome into a receipt and an exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.contract import (
    STATUS_BY_EXIT_CODE,
    DataError,
    SpecError,
    StepError,
    SuanliError,
    content_hash,
    error_from_document,
)
from components.storage import Store, Tiers
from pipelines.plan import Plan, plan_from_json
from pipelines.spec import Spec

POLL_SECONDS = 0.1
RUN_FILE = "run.json"
EVENT_START = b'{"time": '  # how components.runtime.emit_event begins a line
Event = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `error` is None when it succeeded."""

    folder: Path
    run_id: str
    report: dict[str, Any]
    error: SuanliError | None

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else 0


def run_here(
    spec: Spec,
    plan: Plan,
    *,
    workdir: Path,
    on_event: Callable[[Event], None],
    unrestricted: Plan | None = None,
) -> Outcome:
    """Run `plan` on this machine and leave the receipt in ``<workdir>/<name>/<run-id>/``.

    A broken run of the same spec is taken up again under its own run id; steps that finished
    before are found by their markers. The receipt shows the `unrestricted` decision beside `plan`.

    Raises:
        SpecError: the work folder can't be written.
        StepError: the runner itself died.
    """
    require_writable(workdir)
    tiers = local_tiers(spec, workdir)
    spec_hash = content_hash(spec.document)
    folder = _broken_run(workdir / plan.name, spec_hash) or _new_run(workdir / plan.name, plan)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(tiers)
    state = {
        "state": "running",
        "run_id": folder.name,
        "spec_hash": spec_hash,
        "tiers": tiers.to_json(),
        "pid": os.getpid(),
    }
    _write_json(folder / RUN_FILE, state)
    _write_json(folder / "plan.json", plan.to_json())
    run_key = f"runs/{folder.name}"
    _forget_errors(store, run_key)
    if unrestricted is not None:
        store.put_json(f"{run_key}/unrestricted_plan.json", unrestricted.to_json())
    _run_child(folder, store, on_event)
    error = _first_error(store, run_key) or _silent_death(store, run_key, folder)
    report = collect_outputs(store, folder, plan, error)
    _write_json(folder / RUN_FILE, {**state, "state": report["status"]})
    return Outcome(folder=folder, run_id=folder.name, report=report, error=error)


def require_writable(workdir: Path) -> None:
    """Raise SpecError unless files can be created below `workdir`."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SpecError(
            f"--workdir {workdir}: cannot be written: {error.strerror}",
            remedy="choose a folder you own",
        ) from None


def local_tiers(spec: Spec, workdir: Path) -> Tiers:
    """Return the tiers of a run here: what the spec names, else folders below `workdir`."""
    base = Tiers.under(workdir.resolve() / "store")

    def tier(name: str) -> str:
        given: str | None = getattr(spec.storage, name)
        return spec.locate(given) if given else str(getattr(base, name))

    return Tiers(hot=tier("hot"), warm=tier("warm"), cold=tier("cold"))


def _new_run(parent: Path, plan: Plan) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return parent / f"{stamp}-{plan.hash[:6]}"


def _broken_run(parent: Path, spec_hash: str) -> Path | None:
    """Return the newest run folder of this spec when it was broken off, else None."""
    for folder in sorted(parent.glob("*-*"), reverse=True):
        try:
            state = json.loads((folder / RUN_FILE).read_text())
        except (OSError, ValueError):
            continue
        if state["spec_hash"] != spec_hash:
            continue
        broken = state["state"] == "running" and not _alive(state["pid"])
        return folder if broken else None
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path(f"/proc/{pid}/cmdline")
    return not command.exists() or b"suanli" in command.read_bytes()


def _forget_errors(store: Store, run_key: str) -> None:
    root = store.local_root("hot")
    if root is not None:
        shutil.rmtree(root / run_key / "errors", ignore_errors=True)


def _run_child(folder: Path, store: Store, on_event: Callable[[Event], None]) -> None:
    """Start the child, hand its events on as they come, and wait for it."""
    environment = {
        **os.environ,
        # Another folder named `components` in the working directory must not win over ours.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    events = _follow(store, folder)
    with (folder / "run.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                for event in events():
                    on_event(event)
                time.sleep(POLL_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait(timeout=30)
            raise
        for event in events():
            on_event(event)


def _follow(store: Store, folder: Path) -> Callable[[], Iterator[Event]]:
    """Return a function that yields the events written since its last call.

    Steps whose hot tier is an object store have no log there: they print their events, which end
    up in the run's own log.
    """
    root = store.local_root("hot")
    path = root / "runs" / folder.name / "events.jsonl" if root else folder / "run.log"
    offset = path.stat().st_size if path.exists() else 0

    def new_events() -> Iterator[Event]:
        nonlocal offset
        if not path.exists():
            return
        with path.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                event = _event(line)
                if event is not None:
                    yield event

    return new_events


def _event(line: bytes) -> Event | None:
    """The event that a line holds, None for any other line."""
    start = line.find(EVENT_START)
    if start < 0:
        return None
    try:
        found = json.loads(line[start:])
    except ValueError:  # a message that only looks like one, or a line torn by a crash
        return None
    return found if isinstance(found, dict) and "event" in found else None


def _first_error(store: Store, run_key: str) -> SuanliError | None:
    """Return the error of the step that failed, or None. The report step's own comes last."""
    keys = sorted(store.list_json(f"{run_key}/errors"), key=lambda key: key.endswith("report.json"))
    for key in keys:
        return error_from_document(store.get_json(key) or {})
    return None


def _silent_death(store: Store, run_key: str, folder: Path) -> SuanliError | None:
    """Return an error when the last step left neither report nor error: its process was killed
    (out of memory, a signal) or the runner itself died."""
    if store.get_json(f"{run_key}/steps/publish.json") is not None:
        return None
    done = [Path(key).stem for key in store.list_json(f"{run_key}/steps")]
    after = f"after step {done[-1]}" if done else "before the first step ended"
    return StepError(
        f"the run stopped {after} without an error document (killed or out of memory?)",
        remedy=f"see {folder / 'run.log'}; the same command goes on from the last finished step",
    )


def collect_outputs(
    store: Store, folder: Path, plan: Plan, error: SuanliError | None
) -> dict[str, Any]:
    """Lay receipt, page and published model out in the run's folder; returns report.json.

    When the exit handler left no receipt (the machine went down), it is rebuilt from what the
    steps left.
    """
    from pipelines.report import collect_report, render_html

    run_id = folder.name
    status = STATUS_BY_EXIT_CODE[error.exit_code if error else 0]
    report = collect_report(store, run_id, plan, status)
    report["artifacts"] = _artifacts(store, folder, run_id)
    _write_json(folder / "report.json", report)
    (folder / "report.html").write_text(render_html(report), encoding="utf-8")
    return report


def rebuild_report(folder: Path) -> dict[str, Any]:
    """Write the receipt of the run in `folder` again from what its steps left.

    Raises:
        SpecError: the folder is not a run's folder, or its store holds nothing of the run.
    """
    folder = folder.resolve()
    try:
        state = json.loads((folder / RUN_FILE).read_text())
        plan = plan_from_json(json.loads((folder / "plan.json").read_text()))
        store = Store(_tiers_now(folder, Tiers.from_json(state["tiers"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{folder}: not the folder of a run: {error}",
            remedy="give <workdir>/<name>/<run-id>, which holds run.json and plan.json",
        ) from None
    key = f"runs/{folder.name}"
    left = [*store.list_json(f"{key}/steps"), *store.list_json(f"{key}/errors")]
    if not left and (folder / "report.json").exists():
        raise SpecError(
            f"{folder}: its store {store.tiers.hot} holds nothing of this run any more",
            remedy="read the report.json that is there; it is left as it was",
        )
    return collect_outputs(store, folder, plan, _first_error(store, key))


def _tiers_now(folder: Path, tiers: Tiers) -> Tiers:
    """The tiers of a run; those of a work folder that was moved are where it is now."""
    beside = folder.parent.parent / "store"
    moved = Path(tiers.hot).is_absolute() and not Path(tiers.hot).exists() and beside.exists()
    return Tiers.under(beside) if moved else tiers


def _artifacts(store: Store, folder: Path, run_id: str) -> dict[str, str | None]:
    """Fetch the published folder and name what the run left, relative to the run's folder."""
    artifacts: dict[str, str | None] = {
        "model": None,
        "onnx": None,
        "report_html": "report.html",
        "pipeline_yaml": "pipeline.yaml" if (folder / "pipeline.yaml").exists() else None,
        "plan": "plan.json",
    }
    published = store.get_json(f"runs/{run_id}/steps/publish.json")
    if published is not None:
        target, partial = folder / "published", folder / ".published.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            store.fetch(published["output"], partial)
        except DataError:  # collected or on a tier that does not answer: keep what is here
            shutil.rmtree(partial, ignore_errors=True)
        else:
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        with contextlib.suppress(OSError, ValueError, KeyError):
            model = json.loads((target / "published.json").read_text())["model_path"]
            artifacts["model"] = f"published/{model}"
            artifacts["onnx"] = f"published/{model}/model.onnx"
    return artifacts


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))
    partial.replace(path)


def _child(folder: Path) -> None:
    """Compile and run the pipeline of the run in `folder` with kfp.local (the child's main)."""
    from kfp import local

    from pipelines.dag import build, compile_pipeline

    state = json.loads((folder / RUN_FILE).read_text())
    plan = plan_from_json(json.loads((folder / "plan.json").read_text()))
    (folder / "pipeline.yaml").write_text(compile_pipeline(plan))
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "kfp"),
        raise_on_error=False,
    )
    pipeline = build(plan, tiers=Tiers.from_json(state["tiers"]), run_id=folder.name)
    pipeline()


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
