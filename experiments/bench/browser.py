"""Headless Chromium for pages of ours, driven by its own protocol over a pipe: no driver, no package, no port.

    if find_chromium():
        with Browser(width=1300, height=900) as browser:
            browser.open(Path("explorer.html"))
            browser.ask("document.title")
            browser.press("ArrowRight")
            browser.screenshot(Path("page.png"))
            assert not browser.errors

Tests of our pages and the measurement of their times use it. Its profile is a temporary folder.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from freeanchor.errors import FreeAnchorError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars",
    "--disable-extensions", "--disable-background-networking", "--disable-dev-shm-usage", "--force-color-profile=srgb",
)  # fmt: skip
TIMEOUT = 60.0  # seconds that a page may take to say that it is drawn
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9, "Enter": 13, " ": 32, "Home": 36,
        "End": 35}  # fmt: skip


class BrowserError(FreeAnchorError):
    """A page that does not do what it is asked, or a browser that does not start."""


def find_chromium() -> str | None:
    """The path of a Chromium on this machine; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser, of `width` by `height` CSS pixels.

    `errors` are its console's errors, warnings and exceptions, `requests` the addresses that it asked for.
    """

    def __init__(self, *, width: int = 1300, height: int = 900, is_dark: bool = False, is_touch: bool = False) -> None:
        self.width, self.height, self.is_dark, self.is_touch = width, height, is_dark, is_touch
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._events = 0, list[dict[str, Any]]()
        self._left = b""

    def __enter__(self) -> Self:
        path = find_chromium()
        if path is None:
            raise BrowserError(f"no Chromium here (looked for {', '.join(NAMES)}); install one")
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        (read_by_it, self._write), (self._read, written_by_it) = os.pipe(), os.pipe()
        command = [path, *OPTIONS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=lambda: _as_three_and_four(read_by_it, written_by_it),
        )
        os.close(read_by_it)
        os.close(written_by_it)
        self._session = ""
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._set_up()
        return self

    def _set_up(self) -> None:
        size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.is_touch}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        if self.is_touch:
            self._call("Emulation.setTouchEmulationEnabled", enabled=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def open(self, page: Path, fragment: str = "", ready: str = "true") -> None:
        """Load a file, and wait until the expression `ready` is true."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait_for(f"document.readyState === 'complete' && ({ready})")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true in the page; raises BrowserError after a minute."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            if self.ask(f"!!({expression})"):
                return
            time.sleep(0.02)
        raise BrowserError(f"the page never made this true: {expression}")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page, as json has it; of a promise what it gives."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key, where the focus is."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        code = {"windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, **code, **(text if kind == "keyDown" else {}))

    def click(self, x: float, y: float) -> None:
        """The mouse, or a finger, at a place in the window."""
        if self.is_touch:
            self._call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
            self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x: float, y: float) -> None:
        """The mouse over a place in the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """A png of the window, or of the whole page."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def show_as_printed(self) -> None:
        """The window as the page prints."""
        self._call("Emulation.setEmulatedMedia", media="print")

    def print(self, path: Path) -> None:
        """The page as a pdf, as it prints."""
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"]))

    def _call(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            if not select.select([self._read], [], [], TIMEOUT)[0]:
                raise BrowserError(f"the browser has not answered for {TIMEOUT:.0f} s; is the machine very busy?")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise BrowserError("the browser ended; does it start by hand, with --headless?")
            self._left += part
        message, self._left = self._left.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the console or the page calls an error, and what it asks for."""
        values = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description") or details.get("text")))
        elif event.get("method") == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in values["args"]))
        elif event.get("method") == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.errors.append(values["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])


def _as_three_and_four(read_by_it: int, written_by_it: int) -> None:
    """In the browser's process: its pipe where it looks for it."""
    first, second = os.dup(read_by_it), os.dup(written_by_it)  # in case either is 3 or 4 itself
    os.dup2(first, 3)
    os.dup2(second, 4)
