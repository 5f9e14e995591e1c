"""The report step's work: the receipt of the run, as data, page and summary.

It runs in the exit handler, after success and after failure alike.
"""

from __future__ import annotations

import json
import resource
import time

from components.runtime import StepContext

# States of KFP's PipelineTaskFinalStatus that mean success; anything else is a failed step unless
# the step itself left a more precise error.
SUCCEEDED = ("SUCCEEDED", "COMPLETE", "COMPLETED", "SKIPPED")


def run(context: StepContext) -> str:
    """Write report.json, report.html and report.md; returns the URI of the artifact with the three.

    The receipt also goes to ``runs/<run-id>/report.json`` in the store, where a program finds it
    without knowing the artifact.
    """
    from pipelines.report import collect_report, render_html, render_markdown, with_own_step

    start = time.perf_counter()
    state = str(context.inputs.get("state", "SUCCEEDED")).upper()
    status = "succeeded" if state in SUCCEEDED else "step_failed"
    with context.phase("collect"):
        report = collect_report(context.store, context.run_id, context.arguments["plan"], status)
    with context.phase("render"):
        page = render_html(report)
    # This step's own report does not exist yet: what it has used so far stands in for it.
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = with_own_step(
        report,
        context.step,
        seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_bytes,
        plan=context.arguments["plan"],
    )
    page = render_html(report)
    folder = context.folder("report")
    (folder / "report.json").write_text(
        json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    context.workload["bytes"] = len(page)
    context.metrics["status"] = report["status"]
    context.store.put_json(f"runs/{context.run_id}/report.json", report)
    return context.put(folder, kind="report")
