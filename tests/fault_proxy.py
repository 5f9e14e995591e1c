"""An HTTP proxy that misbehaves on purpose, for tests of retries."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
PIECE_BYTES = 64 << 10
STATUS_FAULTS = {
    "internal": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "expired": (400, "ExpiredToken"),
}


class FaultProxy:
    """Forwards to `target`; each request meets one of `faults` with probability `share`.

    With `bytes_per_second` all answers together go at that rate.
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.target = urlsplit(target).netloc
        self.faults: list[str] = []
        self.share = 0.0
        self.met: Counter[str] = Counter()
        self.requests = 0
        self.bytes_per_second: float | None = None
        self._free_at = 0.0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> str | None:
        with self._lock:
            self.requests += 1
            if not self.faults or self._random.random() >= self.share:
                return None
            fault = self._random.choice(self.faults)
            self.met[fault] += 1
            return fault

    def wait_for(self, size: int) -> None:
        """Return when the line has carried so many bytes more."""
        if self.bytes_per_second is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self.bytes_per_second
            end = self._free_at
        time.sleep(max(0.0, end - time.monotonic()))


def handler_of(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.draw()
            if fault == "reset":
                self._reset()
                return
            if fault == "delay":
                time.sleep(0.2)
            if fault == "timeout":
                time.sleep(3.0)
                self._reset()
                return
            if fault in STATUS_FAULTS:
                self._refuse(*STATUS_FAULTS[fault])
                return
            if fault == "wrong_upload" and body:
                body = body[:-1] + bytes([body[-1] ^ 1])
            upstream = http.client.HTTPConnection(proxy.target, timeout=60)
            upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault == "lost_answer":
                self._reset()
                return
            if fault == "wrong_bytes" and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._answer(answer, content, cut=fault == "truncated" and len(content) > 1)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

        def _answer(self, answer: http.client.HTTPResponse, content: bytes, *, cut: bool) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") or str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            content = content[: len(content) // 2] if cut else content
            with contextlib.suppress(OSError):
                for first in range(0, len(content), PIECE_BYTES):
                    piece = content[first : first + PIECE_BYTES]
                    proxy.wait_for(len(piece))
                    self.wfile.write(piece)
            if cut:
                self._reset()

        def _refuse(self, status: int, code: str) -> None:
            body = ERROR.format(code=code).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                if self.command != "HEAD":
                    self.wfile.write(body)

        def _reset(self) -> None:
            """Close with RST instead of FIN."""
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()

    return Handler


@contextlib.contextmanager
def fault_proxy(target: str, *, seed: int = 0) -> Iterator[tuple[str, FaultProxy]]:
    """Run the proxy on loopback; yield its endpoint and its controls."""
    proxy = FaultProxy(target, seed=seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(proxy))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # killed clients reset
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", proxy
    finally:
        server.shutdown()
        server.server_close()
