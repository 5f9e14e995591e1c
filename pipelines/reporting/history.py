"""Many runs as one story: what they cost, how the predictions got better, what got worse.

`history` computes, `history_html` shows; every number of the page is in what `history` returns.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.contract import DataError
from pipelines.reporting.upgrade import completed

Json = dict[str, Any]

# A run is compared with the median of so many successful runs of the same spec before it: one lucky
# or unlucky run neither hides nor makes a regression.
WINDOW = 5
# Money or time this much above that median is a regression (job times vary by some percent).
GROWTH = 1.25
DEFAULT_QUALITY_DROP = 0.01
COMPARED_ENDS = 10  # runs at each end of the history whose prediction errors are compared


def load_reports(folder: Path, page: Path | None = None) -> tuple[list[Json], list[str]]:
    """Read every ``report.json`` below `folder`; returns receipts and what could not be read.

    `page` is the file that the history goes to; it links to each receipt's own page from there.

    Raises:
        DataError: there is no receipt at all.
    """
    reports, problems = [], []
    for path in sorted(folder.glob("**/report.json")):
        if "store" in path.relative_to(folder).parts[:1]:
            continue  # the store's copy of what the run folders hold
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            report = completed(document, source=str(path))
            reports.append({**report, "page": _address(path.with_suffix(".html"), page)})
        except (OSError, ValueError, RecursionError, DataError) as error:
            problems.append(f"{path.relative_to(folder)}: {error}")
    for path in sorted(folder.glob("*/*/run.json")):
        if not path.with_name("report.json").exists():
            where = path.parent.relative_to(folder)
            problems.append(f"{where}: no receipt yet; `suanli report` makes one of what is there")
    if not reports:
        raise DataError(
            f"{folder}: no readable report.json below it", remedy="give the --workdir of some runs"
        )
    return reports, problems


def _address(receipt: Path, page: Path | None) -> str | None:
    """The relative address of a receipt's page; it can't be taken for another scheme."""
    if page is None or not receipt.exists():
        return None
    relative = os.path.relpath(receipt.resolve(), page.resolve().parent)
    return "./" + quote(Path(relative).as_posix())


def history(reports: Iterable[Json], problems: Iterable[str] = ()) -> Json:
    """Return rows (oldest first) with regressions marked, and what they amount to."""
    rows = [_row(completed(report)) for report in reports]
    rows.sort(key=lambda row: (row["started_at"] or "", row["run_id"] or ""))
    earlier: dict[str, list[Json]] = {}
    calibrated: dict[str, str | None] = {}
    for number, row in enumerate(rows, start=1):
        before = earlier.setdefault(row["name"], [])
        row["number"] = number
        row["recalibrated"] = (
            row["name"] in calibrated and row["calibration_hash"] != calibrated[row["name"]]
        )
        calibrated[row["name"]] = row["calibration_hash"]
        row["regressions"] = _regressions(row, before[-WINDOW:])
        if row["status"] == "succeeded":
            before.append(row)
    counts = Counter(row["name"] for row in rows)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return {
        "schema_version": 1,
        "rows": rows,
        "names": [{"name": name, **_amount([r for r in rows if r["name"] == name])}
                  for name in names],
        "all": _amount(rows),
        "problems": list(problems),
    }  # fmt: skip


def _row(report: Json) -> Json:
    run, quality, found = report["run"], report["quality"], report["prediction"]
    return {
        "run_id": run["run_id"],
        "name": str(run["name"] or "unnamed"),
        "task": run["task"],
        "status": report["status"],
        "started_at": run["started_at"],
        "usd": report["cost"]["measured_usd"],
        "seconds": found["measured_seconds"],
        "prediction_error": found["median_seconds_error"],
        "metric": quality["metric"],
        "quality": quality["selected"],
        "max_quality_drop": quality.get("max_quality_drop"),
        "selected": report["selected"],
        "times_smaller": report["verdict"]["times_smaller"],
        "times_faster": report["verdict"]["times_faster"],
        "failed_step": (report["error"] or {}).get("step"),
        "calibration": run["calibration"].get("observations"),
        "calibration_hash": run["calibration"].get("hash"),
        "page": report.get("page"),
    }


def _regressions(row: Json, before: list[Json]) -> list[Json]:
    """What got worse than the median of the runs before: {what, value, usual}."""
    if row["status"] != "succeeded" or not before:
        return []
    found = []
    allowed = row["max_quality_drop"] or DEFAULT_QUALITY_DROP
    comparable = [r for r in before if r["metric"] == row["metric"]]
    usual = _median(comparable, "quality")
    if usual is not None and row["quality"] is not None and row["quality"] < usual - allowed:
        found.append({"what": "quality", "value": row["quality"], "usual": usual})
    for key, what in (("usd", "cost"), ("seconds", "time")):
        usual = _median(before, key)
        if usual and row[key] is not None and row[key] > GROWTH * usual:
            found.append({"what": what, "value": row[key], "usual": usual})
    return found


def _median(rows: list[Json], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.median(values) if values else None


def _amount(rows: list[Json]) -> Json:
    """Counts, money and prediction error of some runs."""
    known = [row for row in rows if row["prediction_error"] is not None]
    priced = [row["usd"] for row in rows if row["usd"] is not None]
    return {
        "runs": len(rows),
        "succeeded": sum(row["status"] == "succeeded" for row in rows),
        "failed": sum(row["status"] != "succeeded" for row in rows),
        "regressed": sum(bool(row["regressions"]) for row in rows),
        "usd": sum(priced) if priced else None,
        "median_usd": statistics.median(priced) if priced else None,
        "first_error": _median(known[:COMPARED_ENDS], "prediction_error"),
        "last_error": _median(known[-COMPARED_ENDS:], "prediction_error"),
        "best_quality": max((r["quality"] for r in rows if r["quality"] is not None), default=None),
    }
