"""Step metrics reach a Pushgateway in its format, and never fail a step."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.pushgateway import METRICS, exposition, push
from tests.support import REPOSITORY

REPORT: dict[str, Any] = {
    "step": "export-int8",
    "kind": "export",
    "cached": False,
    "seconds": {"total": 12.5, "convert": 9.0, "parity": 3.0},
    "requested": {"memory_bytes": 4 << 30, "timeout_s": 600},
    "peak_memory_bytes": 1 << 30,
    "peak_gpu_memory_bytes": None,
    "energy_joules": float("nan"),
    "bytes_in": 5,
    "bytes_out": 7,
}
LINE = re.compile(r'[a-z_]+\{kind="export",cached="false"(,phase="[a-z]+")?\} [0-9.]+')


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    seen: list[tuple[str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            seen.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_push_replaces_the_steps_group(gateway: tuple[str, list[tuple[str, str, str]]]) -> None:
    url, seen = gateway
    assert push(REPORT, run_id="run/1", gateway=url) is None
    ((path, kind, body),) = seen
    assert path == "/metrics/job/suanli/run/run%2F1/step/export-int8"
    assert kind.startswith("text/plain")
    assert body == exposition(REPORT)


def test_every_line_is_in_prometheus_format_and_unmeasured_figures_are_absent() -> None:
    lines = [line for line in exposition(REPORT).splitlines() if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in lines), lines
    names = {line.partition("{")[0] for line in lines}
    absent = {"suanli_step_peak_gpu_memory_bytes", "suanli_step_energy_joules"}
    assert names == (set(METRICS) - absent) | {"suanli_step_phase_seconds"}
    assert exposition(REPORT).endswith("\n")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://"])
def test_gateway_that_is_not_there_is_a_note(url: str) -> None:
    note = push(REPORT, run_id="r", gateway=url)
    assert note is not None
    assert note.startswith(f"metrics were not pushed to {url}: ")


def test_without_a_gateway_nothing_is_sent() -> None:
    assert push(REPORT, run_id="r", gateway=None) is None


def test_alert_rules_use_metrics_that_exist() -> None:
    path = REPOSITORY / "manifests/components/prometheus/prometheusrule.yaml"
    rules = yaml.safe_load(Path(path).read_text())["spec"]["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"suanli_[a-z_]+", rule["expr"])}
    assert len(rules) == 2
    assert used <= set(METRICS)
