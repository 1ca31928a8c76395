"""A headless Chromium, driven through its DevTools protocol: what a person would see of a page.

Needs Chromium or Chrome on the machine and `websocket-client`, which Jupyter brings.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# MLflow's assistant opens beside the page on a user's first visit: closed, as everybody does once.
_CLOSED = """
try {
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
} catch (error) {}
"""


def find() -> str | None:
    """The path of the browser, if this machine has one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of a browser of its own; a context manager."""

    def __init__(self, *, width: int = 1600, height: int = 1000) -> None:
        import websocket

        self._folder = tempfile.mkdtemp(prefix="cxr-browser-")
        words = [
            find(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        # frames stay in the page's own process, where `text` reads them
        words += ["--disable-site-isolation-trials", "--disable-features=IsolateSandboxedIframes,IsolateOrigins"]
        words += [f"--user-data-dir={self._folder}", "--remote-debugging-port=0", "about:blank"]
        self._process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self._process.stderr:
            said += line
            if found := re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line):
                break
        else:
            raise RuntimeError(f"the browser did not start: {said[-2000:]}")
        with urllib.request.urlopen(f"http://127.0.0.1:{found.group(1)}/json", timeout=30) as answer:
            page = next(item for item in json.load(answer) if item["type"] == "page")
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
        self._number = 0
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_CLOSED)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: Any) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)
        self._process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:  # others are events
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url="about:blank")  # or another `#...` of one page would not load it anew
        self.call("Page.navigate", url=address)

    def text(self) -> str:
        """What can be read on the page and in its frames."""
        frames, found = [self.call("Page.getFrameTree")["frameTree"]], []
        while frames:
            tree = frames.pop(0)
            frames += tree.get("childFrames", [])
            try:
                world = self.call("Page.createIsolatedWorld", frameId=tree["frame"]["id"])["executionContextId"]
                read = "document.body ? document.body.innerText : ''"
                answer = self.call("Runtime.evaluate", expression=read, contextId=world, returnByValue=True)
            except RuntimeError:  # the frame has gone meanwhile
                continue
            found.append(str(answer["result"].get("value", "")))
        return "\n".join(found)

    def wait(self, condition: str, *, seconds: float = 60) -> bool:
        """Whether a JavaScript expression becomes true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.ask(condition):
                return True
            time.sleep(0.3)
        return False

    def missing(self, *words: str, seconds: float = 60) -> list[str]:
        """Those words that do not come to be on the page in time."""
        deadline = time.monotonic() + seconds
        while True:
            text = self.text()
            left = [word for word in words if word not in text]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.3)

    def screenshot(self, path: str | Path, *, settle: float = 1.5) -> None:
        time.sleep(settle)  # charts grow into their place
        picture = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(picture))
