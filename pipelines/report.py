"""The receipt of a run: report.json, its page, its summary, and the history of many."""

from __future__ import annotations

from pipelines.reporting.collect import collect_report, with_own_step
from pipelines.reporting.history import history, load_reports
from pipelines.reporting.history_page import history_html
from pipelines.reporting.html import render_html
from pipelines.reporting.markdown import render_markdown
from pipelines.reporting.upgrade import completed

__all__ = [
    "collect_report",
    "completed",
    "history",
    "history_html",
    "load_reports",
    "render_html",
    "render_markdown",
    "with_own_step",
]
