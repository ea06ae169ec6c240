"""Chromium without a window, driven by its own protocol over two pipes: no driver, no port.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
#: For tests that need it: skipped by name for a user, a failure where CI should have installed it.
needed = pytest.mark.skipif(BROWSER is None and not os.environ.get("CI"), reason="chromium is not installed")
LIMIT = 120.0
PHONE, SCREEN = 390, 1280


class Page:
    """One tab, with what it complained of."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._data = b""
        self._count = 0
        self.complaints: list[str] = []
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def look(self, *, width: int, dark: bool = False) -> None:
        """As on a screen so wide."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && document.body.innerText.length > 0")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; None while the page is being replaced."""
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get(
            "value"
        )

    def until(self, expression: str) -> None:
        end = time.monotonic() + LIMIT
        while self.ask(expression) is not True:
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def screenshot(self, to: Path) -> None:
        taken = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") != self._count:
                self._heard(told)
            elif "error" in told:
                if method == "Runtime.evaluate":  # the page goes away meanwhile
                    return {"result": {}}
                raise AssertionError(f"{method}: {told['error']}")
            else:
                return dict(told["result"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + LIMIT
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            block = os.read(self._reader, 1 << 20)
            assert block, "the browser has gone"
            self._data += block
        first, _, self._data = self._data.partition(b"\0")
        return dict(json.loads(first))

    def _heard(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(f"console: {params['args']}")
            case "Runtime.exceptionThrown":
                self.complaints.append(f"exception: {params['exceptionDetails']}")
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"log: {params['entry']['text']}")
            case "Network.loadingFailed" if not params.get("canceled"):
                self.complaints.append(f"network: {params['errorText']}")


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A page of a browser of its own, whose files are in ``profile``."""
    assert BROWSER is not None, "chromium is not installed"
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()

    def place() -> None:
        # Numbers 3 and 4 are where it looks; neither may be overwritten before it is moved.
        first, second = os.dup(from_us), os.dup(to_us)
        os.dup2(first, 3)
        os.dup2(second, 4)

    process = subprocess.Popen(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
        ],
        preexec_fn=place,  # noqa: PLW1509  (no thread of ours runs Python between fork and exec)
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us)
    os.close(to_us)
    try:
        yield Page(from_browser, to_browser)
    finally:
        process.kill()
        process.wait()
        os.close(from_browser)
        os.close(to_browser)
