"""The receipt of a run: report.json, its page, its summary, and the history of many."""

from __future__ import annotations

from pipelines.reporting.collect import collect_report, with_own_step
from pipelines.reporting.html import render_html
from pipelines.reporting.markdown import render_markdown
from pipelines.reporting.upgrade import completed

__all__ = ["collect_report", "completed", "render_html", "render_markdown", "with_own_step"]
