"""The shape of report.json as a golden file: a field that vanishes or changes type shows in review.

Values are left out: prices and predictions move with the catalogue and the cost model.
After a meant change: `SUANLI_UPDATE_GOLDEN=1 pytest tests/unit/test_report_shape.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.report import collect_report, with_own_step
from tests.golden_files import check_golden
from tests.receipts import Receipts, rich_plan

# Objects whose keys are names from outside, not fields.
NAMED = ("classification_report", "phases", "versions", "spec", "profile", "terms", "latency_ms")


def shape(value: Any, path: str) -> Iterator[str]:
    """Yield ``path: type`` of every field; list items share one path."""
    field = path.rsplit(".", 1)[-1]
    if isinstance(value, dict) and field not in NAMED:
        for key, item in value.items():
            yield from shape(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from shape(item, f"{path}[]")
    else:
        kind = "number" if type(value) in (int, float) else type(value).__name__
        yield f"{path}: {kind}"


def test_shape_of_report_json(tmp_path: Path) -> None:
    run = Receipts(folder=tmp_path)
    run.finish_before("train", cached=True)
    for step in run.plan.steps[3:-1]:
        run.finish(step.step)
    run.store.put_json(f"runs/{run.run_id}/unrestricted_plan.json", rich_plan().to_json())
    report = collect_report(run.store, run.run_id, run.plan, "succeeded")
    plan = run.plan.to_json()
    report = with_own_step(report, "report", seconds=0.2, peak_memory_bytes=9, plan=plan)
    lines = sorted({line.removeprefix(".") for line in shape(report, "")})
    check_golden("report/shape.txt", "\n".join(lines) + "\n")
