"""Push a finished step's figures to a Prometheus Pushgateway: pods of minutes can't be scraped.

Standard library only, because every step imports it.
"""

from __future__ import annotations

import http.client
import math
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

TIMEOUT_S = 5.0

# name -> (help, path in the step report); all are gauges of one finished step
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "suanli_step_seconds": ("Wall time of the step.", ("seconds", "total")),
    "suanli_step_timeout_seconds": ("Time-out of the step's pod.", ("requested", "timeout_s")),
    "suanli_step_peak_memory_bytes": ("Peak resident memory.", ("peak_memory_bytes",)),
    "suanli_step_requested_memory_bytes": ("Memory request.", ("requested", "memory_bytes")),
    "suanli_step_peak_gpu_memory_bytes": ("Peak GPU memory.", ("peak_gpu_memory_bytes",)),
    "suanli_step_read_bytes": ("Bytes read from the store.", ("bytes_in",)),
    "suanli_step_written_bytes": ("Bytes written to the store.", ("bytes_out",)),
    "suanli_step_energy_joules": ("Energy of the GPUs.", ("energy_joules",)),
}


def exposition(report: dict[str, Any]) -> str:
    """Return `report` (a StepReport's JSON) in Prometheus' text format.

    Figures that were not measured are left out; phases are one metric with a label.
    """
    labels = f'kind="{report["kind"]}",cached="{str(report["cached"]).lower()}"'
    lines = []
    for name, (help_text, path) in METRICS.items():
        value = _at(report, path)
        if value is None:
            continue
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        lines.append(f"{name}{{{labels}}} {value}")
    phases = {p: s for p, s in report["seconds"].items() if p != "total" and _is_number(s)}
    if phases:
        lines += ["# HELP suanli_step_phase_seconds Wall time by phase.",
                  "# TYPE suanli_step_phase_seconds gauge"]  # fmt: skip
        for phase, seconds in sorted(phases.items()):
            lines.append(f'suanli_step_phase_seconds{{{labels},phase="{phase}"}} {seconds}')
    return "\n".join(lines) + "\n"


def push(report: dict[str, Any], *, run_id: str, gateway: str | None) -> str | None:
    """Send the report to `gateway` under its run and step; without one, do nothing.

    Returns:
        What went wrong, for the step's notes: metrics never fail a step.
    """
    if not gateway:
        return None
    where = f"job/suanli/run/{quote(run_id, safe='')}/step/{quote(report['step'], safe='')}"
    try:
        request = urllib.request.Request(
            f"{gateway.rstrip('/')}/metrics/{where}",
            data=exposition(report).encode(),
            method="PUT",
            headers={"Content-Type": "text/plain; version=0.0.4"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except (OSError, ValueError, http.client.HTTPException, urllib.error.URLError) as error:
        return f"metrics were not pushed to {gateway}: {error}"


def _at(report: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = report
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
