"""Drive Debian's Chromium over its DevTools protocol: load a page, look at it, ask it questions."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import websocket  # websocket-client, which the kubernetes client brings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
START_SECONDS = 30.0
MARGIN = 24  # pixels beside a pictured element


class Browser:
    """One headless browser with one tab.

    `problems` collects console errors, exceptions and blocked loads; `requests` every URL that was
    asked for.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        self._profile = profile
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--hide-scrollbars", "--disable-background-networking",
                   "--remote-debugging-port=0", "--remote-allow-origins=*",
                   f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._next = 0
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._socket = websocket.create_connection(self._address(), timeout=180)
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.call(f"{domain}.enable")

    def _address(self) -> str:
        """Wait for the browser's port and return the tab's socket address."""
        import urllib.request

        port_file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if port_file.exists() and port_file.read_text().count("\n"):
                port = port_file.read_text().splitlines()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = json.load(answer)
                pages = [tab for tab in tabs if tab["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.05)
        raise TimeoutError("Chromium did not open its debugging port")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events on the way are noted."""
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._next:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(found["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.problems.append(str(found["args"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.problems.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, page: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Load `page` at this size and colour scheme, and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + START_SECONDS
        while not self._loaded:
            assert time.monotonic() < deadline, f"{page} did not load"
            self.evaluate("1")
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression (a promise is awaited)."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def render_seconds(self) -> float:
        """CPU time of the page's own thread so far: what other work on the machine can't change."""
        found = self.call("Performance.getMetrics")["metrics"]
        return float(next(item["value"] for item in found if item["name"] == "ThreadTime"))

    def hover(self, selector: str, dx: float = 0.0, dy: float = 0.0) -> None:
        """Move the mouse to the middle of an element, or `dx`, `dy` pixels beside it."""
        what = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{what}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"{what}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def key(self, name: str) -> None:
        """Press and release a named key such as ``ArrowRight``."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def screenshot(self, path: Path, *, part: int | str | None = None) -> None:
        """Save the whole page, its first `part` pixels, or the element that `part` selects."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": part or size["height"]}
        if isinstance(part, str):
            box = f"document.querySelector({json.dumps(part)}).getBoundingClientRect().toJSON()"
            found = self.evaluate(box)
            found["y"] += self.evaluate("scrollY")  # from the window's corner to the page's
            clip = {"x": found["x"] - MARGIN, "y": found["y"], "width": found["width"] + 2 * MARGIN,
                    "height": found["height"]}  # fmt: skip
        options = {"format": "png", "captureBeyondViewport": True, "clip": {**clip, "scale": 1}}
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))
