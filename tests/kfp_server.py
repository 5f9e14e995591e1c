"""A small HTTP server with the KFP v2beta1 calls that suanli makes, for tests.

It keeps experiments, pipelines, versions and runs in memory, in the shapes that KFP 2.17 answers
with. `next_states` scripts the life of a run: each GET of a run moves it one state on.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


class KfpState:
    """What the server knows; tests read and change it."""

    def __init__(self) -> None:
        self.multi_user = True
        self.token: str | None = None
        self.forbidden: set[tuple[str, str]] = set()  # (method, path prefix)
        self.answer: tuple[int, str, bytes] | None = None  # says this to everything
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.next_states: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self._count = 0

    def new_id(self) -> str:
        self._count += 1
        return f"00000000-0000-4000-8000-{self._count:012d}"


class KfpServerForTests:
    """Runs the server in a thread: ``with KfpServerForTests() as server: server.url``."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.state = KfpState()
        handler = type("Handler", (_Handler,), {"state": self.state})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> KfpServerForTests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: KfpState

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        path = unquote(url.path).removeprefix("/apis/v2beta1")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.state.requests.append((method, path))
        if self.state.answer:
            return self._send(*self.state.answer)
        if not url.path.startswith("/apis/v2beta1"):
            return self._error(404, "Not Found")
        if path != "/healthz":
            expected = f"Bearer {self.state.token}"
            if self.state.token and self.headers.get("Authorization") != expected:
                return self._error(401, "Unauthenticated: no valid token")
            for verb, prefix in self.state.forbidden:
                if verb == method and path.startswith(prefix):
                    return self._error(403, "User is not authorized to do this")
        for verb, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                status, answer = function(self.state, query, body, self.headers, *match.groups())
                return self._send(status, "application/json", json.dumps(answer).encode())
        return self._error(404, f"no route {method} {path}")

    def _error(self, status: int, message: str) -> None:
        answer = {"code": status, "message": message, "details": []}
        self._send(status, "application/json", json.dumps(answer).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _wanted(query: dict[str, str], item: dict[str, Any]) -> bool:
    for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
        if item.get(predicate["key"]) != predicate["stringValue"]:
            return False
    return all(
        item.get(key) == query[key] for key in ("namespace", "experiment_id") if key in query
    )


def _health(state: KfpState, *_: Any) -> tuple[int, Any]:
    return 200, {"multi_user": state.multi_user, "pipeline_store": "database"}


def _namespace_problem(state: KfpState, namespace: str | None) -> str | None:
    if state.multi_user and not namespace:
        return "Invalid input error: namespace is required in multi-user mode"
    if not state.multi_user and namespace:
        return "Invalid input error: namespace is not allowed in single-user mode"
    return None


def _list_experiments(state: KfpState, query: dict[str, str], *_: Any) -> tuple[int, Any]:
    problem = _namespace_problem(state, query.get("namespace"))
    if problem:
        return 400, {"code": 3, "message": problem}
    found = [item for item in state.experiments.values() if _wanted(query, item)]
    return 200, {"experiments": found} if found else {}


def _create_experiment(
    state: KfpState, query: dict[str, str], body: bytes, *_: Any
) -> tuple[int, Any]:
    item = json.loads(body)
    problem = _namespace_problem(state, item.get("namespace"))
    if problem:
        return 400, {"code": 3, "message": problem}
    item["experiment_id"] = state.new_id()
    state.experiments[item["experiment_id"]] = item
    return 200, item


def _pipeline_by_name(
    state: KfpState, query: dict[str, str], body: bytes, headers: Any, name: str
) -> tuple[int, Any]:
    for item in state.pipelines.values():
        if item["display_name"] == name and item.get("namespace") == query.get("namespace"):
            return 200, item
    return 404, {"code": 5, "message": f"Pipeline {name} not found"}


def _upload(state: KfpState, query: dict[str, str], body: bytes, headers: Any) -> tuple[int, Any]:
    pipeline_id = state.new_id()
    item = {
        "pipeline_id": pipeline_id,
        "display_name": query["name"],
        "namespace": query.get("namespace"),
    }
    state.pipelines[pipeline_id] = item
    _add_version(state, pipeline_id, query["name"], body)
    return 200, item


def _upload_version(
    state: KfpState, query: dict[str, str], body: bytes, headers: Any
) -> tuple[int, Any]:
    if query.get("pipelineid") not in state.pipelines:
        return 404, {"code": 5, "message": "pipeline not found"}
    return 200, _add_version(state, query["pipelineid"], query["name"], body)


def _add_version(state: KfpState, pipeline_id: str, name: str, body: bytes) -> dict[str, Any]:
    """Keep the uploaded file's documents: the part of a multipart body after its headers."""
    boundary = body.split(b"\r\n", 1)[0]
    content = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n" + boundary, 1)[0]
    documents = list(yaml.load_all(content, Loader=yaml.CSafeLoader))
    version_id = state.new_id()
    item = {
        "pipeline_id": pipeline_id,
        "pipeline_version_id": version_id,
        "display_name": name,
        "pipeline_spec": {"pipeline_spec": documents[0]},
    }
    state.versions[version_id] = item
    return item


def _list_versions(
    state: KfpState, query: dict[str, str], body: bytes, headers: Any, pipeline_id: str
) -> tuple[int, Any]:
    found = [
        item
        for item in state.versions.values()
        if item["pipeline_id"] == pipeline_id and _wanted(query, item)
    ]
    return 200, {"pipeline_versions": found} if found else {}


def _create_run(state: KfpState, query: dict[str, str], body: bytes, *_: Any) -> tuple[int, Any]:
    item = json.loads(body)
    reference = item.get("pipeline_version_reference", {})
    version = state.versions.get(reference.get("pipeline_version_id"))
    if item.get("experiment_id") not in state.experiments or version is None:
        return 400, {"code": 3, "message": "Invalid input error: experiment or version not found"}
    if "namespace" in state.experiments[item["experiment_id"]]:
        item["namespace"] = state.experiments[item["experiment_id"]]["namespace"]
    known = version["pipeline_spec"]["pipeline_spec"]["root"].get("inputDefinitions", {})
    for name in item.get("runtime_config", {}).get("parameters", {}):
        if name not in known.get("parameters", {}):
            return 400, {"code": 3, "message": f"Invalid input error: unknown parameter {name}"}
    item |= {
        "run_id": state.new_id(),
        "state": "PENDING",
        "created_at": f"2026-11-23T00:00:{len(state.runs):02d}Z",
    }
    state.runs[item["run_id"]] = item
    return 200, item


def _list_runs(state: KfpState, query: dict[str, str], *_: Any) -> tuple[int, Any]:
    found = [item for item in state.runs.values() if _wanted(query, item)]
    found.sort(key=lambda item: item["created_at"], reverse=True)
    return 200, {"runs": found} if found else {}


def _get_run(
    state: KfpState, query: dict[str, str], body: bytes, headers: Any, run_id: str
) -> tuple[int, Any]:
    if run_id not in state.runs:
        return 404, {"code": 5, "message": f"Run {run_id} not found"}
    run = state.runs[run_id]
    if run["state"] in ("PENDING", "RUNNING") and state.next_states:
        run |= state.next_states.pop(0)
    return 200, run


def _terminate(
    state: KfpState, query: dict[str, str], body: bytes, headers: Any, run_id: str
) -> tuple[int, Any]:
    if run_id not in state.runs:
        return 404, {"code": 5, "message": f"Run {run_id} not found"}
    state.runs[run_id]["state"] = "CANCELED"
    return 200, {}


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/healthz", _health),
    ("GET", "/experiments", _list_experiments),
    ("POST", "/experiments", _create_experiment),
    ("GET", "/pipelines/names/([^/]+)", _pipeline_by_name),
    ("POST", "/pipelines/upload", _upload),
    ("POST", "/pipelines/upload_version", _upload_version),
    ("GET", "/pipelines/([^/]+)/versions", _list_versions),
    ("POST", "/runs", _create_run),
    ("GET", "/runs", _list_runs),
    ("POST", "/runs/([^/:]+):terminate", _terminate),
    ("GET", "/runs/([^/:]+)", _get_run),
]


if __name__ == "__main__":
    import sys
    import time

    with KfpServerForTests(*sys.argv[1:2], *(int(port) for port in sys.argv[2:3])) as running:
        print(running.url, flush=True)
        while True:
            time.sleep(3600)
