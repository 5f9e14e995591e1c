"""The train step: start the loop as a program of its own, watch it, restart it when it dies.

The loop runs in child processes (one, or several under torchrun) so that a lost rank takes nothing
else with it; this process never loads torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.contract import StepError, error_from_document
from components.lib.streaming import Stager
from components.runtime import StepContext
from components.train import report, stream
from components.train.job import Job

RESTARTS = 3
BACKOFF_S = 1.0
# Exit codes that a restart can't change: bad input, infeasible, gate (contract.py).
FINAL_CODES = (2, 3, 4)
LOG_LINES_KEPT = 20


def run(context: StepContext) -> str:
    """Fine-tune on the dataset and return the model artifact's URI."""
    uri = context.inputs["dataset"]
    output = context.folder("model")
    job = Job.from_arguments(
        context.arguments,
        dataset=str(context.place_of(uri)),
        checkpoints=str(context.scratch / "checkpoints"),
        output=str(output),
    )
    job = dataclasses.replace(job, usd_per_hour=context.requested.get("usd_per_hour"))
    path = context.scratch / "job.json"
    training = context.arguments.get("training", {})
    with stream.taken_in(context, uri, job) as (job, coming):
        job.write(path)
        with context.phase("train_process"):
            arguments = command(path, int(training.get("processes") or 1))
            finished = supervise(context, arguments, coming)
    record(context, finished)
    tensorboard = output.parent / "tensorboard"
    if tensorboard.is_dir():
        tensorboard.rename(output / "tensorboard")
    return context.put(output, kind="model")


def command(job: Path, processes: int, *, nodes: int = 1) -> list[str]:
    """Return the command line that trains `job` on this machine with `processes` ranks."""
    if processes * nodes == 1:
        return [sys.executable, "-m", "components.train.loop", str(job)]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "--max-restarts=0",
        "-m", "components.train.loop", str(job),
    ]  # fmt: skip


def supervise(
    context: StepContext, arguments: list[str], coming: Stager | None = None
) -> dict[str, Any]:
    """Run the loop until it has finished; each restart continues from the newest checkpoint.

    Args:
        context: of the step.
        arguments: the loop's command line.
        coming: what brings the dataset meanwhile; when it can't, a restart would only wait.

    Returns:
        The loop's ``finished`` event.

    Raises:
        SuanliError: what the loop reported, or that it died too often.
    """
    for attempt in range(RESTARTS + 1):
        outcome = Attempt(context, arguments).run()
        if outcome.finished is not None and outcome.code == 0:
            return outcome.finished
        if coming is not None and coming.failure is not None:
            raise coming.failure
        if outcome.error is not None and not outcome.error_is_worth_a_restart:
            raise error_from_document({**outcome.error, "step": context.step})
        if outcome.terminated:
            raise StepError("training was told to stop", remedy="run again: it resumes by itself")
        if attempt < RESTARTS:
            context.notes.append(f"training process ended with {outcome.code}; restarted")
            time.sleep(BACKOFF_S * attempt)
    tail = "\n".join(outcome.log)
    raise StepError(
        f"training died {RESTARTS + 1} times, last with exit code {outcome.code}:\n{tail}",
        remedy="if it was killed for memory, lower training.micro_batch or token_budget",
    )


class Attempt:
    """One life of the training process."""

    def __init__(self, context: StepContext, arguments: list[str]) -> None:
        self.context = context
        self.arguments = arguments
        self.finished: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.code: int | None = None
        self.terminated = False
        self.log: list[str] = []

    @property
    def error_is_worth_a_restart(self) -> bool:
        return self.code not in FINAL_CODES and "loss is" not in str(self.error)

    def run(self) -> Attempt:
        """Start the process, pass its events on, and wait for its end."""
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": _threads()}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (_root(), *_path()) if p)
        process = subprocess.Popen(
            self.arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        previous = self._forward_termination(process)
        try:
            for event in self._events(process):
                self._handle(event)
            self.code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
        return self

    def _forward_termination(self, process: subprocess.Popen[str]) -> Any:
        def forward(*_: object) -> None:
            self.terminated = True
            process.terminate()

        try:
            return signal.signal(signal.SIGTERM, forward)
        except ValueError:  # not the main thread: whoever owns it must stop us
            return None

    def _events(self, process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
        assert process.stdout is not None
        for line in process.stdout:
            event = report.parse(line)
            if event is not None:
                yield event
                continue
            sys.stderr.write(line)
            self.log = [*self.log[-LOG_LINES_KEPT + 1 :], line.rstrip()]

    def _handle(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "progress":
                figures = {k: v for k, v in event.items() if k not in ("fraction", "message")}
                self.context.progress(event["fraction"], event["message"], **figures)
            case "first_step":
                since = time.perf_counter() - self.context.began
                self.context.metrics.setdefault("first_step_after_s", round(since, 3))
            case "finished":
                self.finished = event
            case "error":
                self.error = event
            case "resumed":
                self.context.notes.append(f"resumed from step {event['step']}")
            case "note":
                self.context.notes.append(event["text"])
            case "searched":
                tried = ", ".join(f"{t['rate']:.2g}: {t['metric']:.4f}" for t in event["tried"])
                self.context.notes.append(f"learning rates tried: {tried}")


def record(context: StepContext, finished: dict[str, Any]) -> None:
    """Copy what the loop measured into the step's report."""
    context.seconds.update(finished["seconds"])
    context.workload.update(finished["workload"])
    context.metrics.update(
        {
            "best_metric": finished["best_metric"],
            "best_step": finished["best_step"],
            "learning_rate": finished["learning_rate"],
            "checkpoints": finished["checkpoints"],
        }
    )
    context.series["learning_curve"] = [
        {"step": p["step"], "epoch": p["epoch"], "loss": p["loss"], **p["validation"]}
        for p in finished["curve"]
    ]
    context.series["loss"] = [
        {"step": i + 1, "loss": loss} for i, loss in enumerate(finished["losses"])
    ]
    context.notes.extend(finished["notes"])
    context.peak_gpu_memory_bytes = finished["peak_gpu_memory_bytes"]


def _threads() -> str:
    """Cores for OpenMP before torch starts; the loop divides them among ranks itself."""
    return os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))


def _root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _path() -> list[str]:
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]


def read_finished(path: Path) -> dict[str, Any]:
    """Return the ``finished`` event among the lines of a log file (a pod's, for instance)."""
    for line in reversed(path.read_text().splitlines()):
        event = report.parse(line)
        if event and event["event"] == "finished":
            return event
    raise StepError(f"{path}: the training log has no end: {json.dumps(str(path))}")
