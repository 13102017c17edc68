"""Chromium without a window, driven through its debugging pipe: a page opened, scripts run in it, its errors kept.

with Browser.open(path, width=1300) as page:
    page.run("document.title")
    page.errors         # of the console and of scripts
    page.requests       # addresses that it asked for
"""

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --disable-extensions "
    "--disable-background-networking --disable-dev-shm-usage"
)
_PATIENCE = 60.0  # seconds for an answer, on a busy machine


def chromium() -> str | None:
    """The browser's path, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in a browser of its own."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer, self._number = write, read, b"", 0
        self._session = ""
        self.errors: list[str] = []
        self.requests: list[str] = []

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, width: int = 1300, dark: bool = False) -> Iterator["Browser"]:
        """The page of a file, as wide as asked for; the browser ends with the block."""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            program = f"exec {shlex.quote(chromium() or '')} {_FLAGS} --user-data-dir={home} about:blank"
            process = subprocess.Popen(
                ["bash", "-c", f"{program} 3<&{theirs_in} 4>&{theirs_out}"],
                pass_fds=(theirs_in, theirs_out),
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            os.close(theirs_in)
            os.close(theirs_out)
            try:
                page = cls(ours_out, ours_in)
                page._start(path.resolve().as_uri(), width, dark)
                yield page
            finally:
                process.kill()
                process.wait()
                os.close(ours_out)
                os.close(ours_in)

    def _start(self, address: str, width: int, dark: bool) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=address)
        end = time.monotonic() + _PATIENCE
        while self.run("location.protocol + document.readyState") != "file:complete" and time.monotonic() < end:
            time.sleep(0.05)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the protocol; events on the way are kept."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._keep(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], _PATIENCE)[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _keep(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; `RuntimeError` where it throws."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self) -> bytes:
        """The whole page as png."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])
