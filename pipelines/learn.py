"""`suanli calibrate`: learn from receipts what the cost model got wrong, as a file for review."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from components.contract import DataError, SpecError, StepReport
from components.storage import Store, Tiers
from pipelines.cost.calibration import (
    USER_NOISE,
    Calibration,
    Observation,
    error_before_after,
    fit_residuals,
)
from pipelines.cost.coefficients import constants_hash
from pipelines.cost.learnt import Work, device_of
from pipelines.plan import Plan, plan_from_json

# Steps shorter than this are start-up noise.
LEAST_SECONDS = 0.5
# The same step of a few seconds takes half a second more or less from run to run (starts, where
# threads land): so much less does it count than a long one.
JITTER_S = 0.5
# Less tells how long opening files takes, not how fast data moves.
LEAST_TRANSFER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A calibration and what it changes: `errors` maps kind to error_before_after's figures."""

    calibration: Calibration
    errors: dict[str, dict[str, float]]
    rows: int


def learn(folders: Iterable[Path]) -> Lesson:
    """Fit a calibration to the receipts of the runs in `folders`.

    Raises:
        SpecError: a folder is not a run's folder.
        DataError: the runs hold no step that was measured.
    """
    found: list[tuple[str, Observation]] = []
    seen: set[str] = set()
    names = []
    moved = Moved()
    for folder in folders:
        found += list(observations(folder, seen, moved))
        names.append(folder.name)
    if not found:
        raise DataError(
            "no measured step in these runs: cached steps are not evidence, nor are runs that "
            "another version of the cost model planned",
            remedy="give folders of finished runs that did the work themselves, with this version",
        )
    rows = [observation for _, observation in found]
    calibration = fit_residuals(
        rows,
        evidence={
            "observations": len(rows),
            "runs": names,
            "constants": constants_hash(),
        },
    )
    calibration = replace(calibration, transfers=moved.speeds())
    errors = {
        kind: error_before_after([o for k, o in found if k == kind], calibration)
        for kind in sorted({kind for kind, _ in found})
    }
    errors["all"] = error_before_after(rows, calibration)
    return Lesson(calibration=calibration, errors=errors, rows=len(rows))


class Moved:
    """How much the steps of each device brought in and put away, and how long that took.

    Stage-in counts as it was: from another tier where the data was there, from the hot one where a
    step before had left it. So the figure is what the next run on that device can expect. What
    came beside the training counts by the time that it took, not by what was waited for.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def count(self, device: str, report: StepReport) -> None:
        """Add what a step moved. Ingest reads its source where it lies: only what it wrote."""
        ways = [(report.bytes_out, report.seconds.get("stage_out", 0.0))]
        if report.kind != "ingest":
            streamed = int(report.workload.get("streamed_bytes", 0))
            ways.append((report.bytes_in - streamed, report.seconds.get("stage_in", 0.0)))
            ways.append((streamed, float(report.workload.get("streamed_seconds", 0.0))))
        for size, seconds in ways:
            if seconds > 0:
                self._bytes[device] = self._bytes.get(device, 0.0) + size
                self._seconds[device] = self._seconds.get(device, 0.0) + seconds

    def speeds(self) -> dict[str, float]:
        """Return bytes a second of every device that moved enough."""
        return {
            device: round(size / self._seconds[device])
            for device, size in sorted(self._bytes.items())
            if size >= LEAST_TRANSFER_BYTES
        }


def observations(folder: Path, seen: set[str], moved: Moved) -> Iterable[tuple[str, Observation]]:
    """Yield (kind, observation) of every step that the run in `folder` did itself; `seen` holds
    executions that count already (one may stand in two receipts). What the
    steps moved is added to `moved`."""
    plan, reports = _run(folder)
    if plan.calibration.get("constants") != constants_hash():
        return  # its predictions are not those that the calibration will be applied to
    steps = plan.calibration.get("steps", {})
    for report in reports:
        known = steps.get(report.step)
        measured = report.seconds.get("total", 0.0)
        this = f"{report.fingerprint} {report.started_at}"
        counts = not report.cached and this not in seen
        if known is None or known["seconds"] <= 0 or not counts or measured < LEAST_SECONDS:
            continue
        seen.add(this)
        step = plan.step(report.step)
        device = device_of(step.node, report.hardware)
        moved.count(device, report)
        work = Work(
            kind=report.kind, device=device, precision=known["precision"], model=known["model"],
            gpu=known["gpu"],
        )  # fmt: skip
        yield (
            report.kind,
            Observation(
                effects=work.effects(known["seconds"]),
                log_ratio=math.log(measured / known["seconds"]),
                weight=1.0 / (1.0 + (JITTER_S / (USER_NOISE * measured)) ** 2),
            ),
        )


def _run(folder: Path) -> tuple[Plan, list[StepReport]]:
    try:
        state = json.loads((folder / "run.json").read_text())
        plan = plan_from_json(json.loads((folder / "plan.json").read_text()))
        store = Store(Tiers.from_json(state["tiers"]))
        keys = list(store.list_json(f"runs/{state['run_id']}/steps"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"{folder}: not the folder of a run: {error}",
            remedy="give <workdir>/<name>/<run-id>, which holds run.json and plan.json",
        ) from None
    return plan, [StepReport.from_json(store.get_json(key) or {}) for key in keys]
