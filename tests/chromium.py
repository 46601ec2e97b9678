"""A headless Chromium that tests drive: real pointers, keys, touches, screen sizes, screenshots. Knows no page.

It speaks the DevTools protocol over a pair of pipes (file descriptors 3 and 4 of the browser, messages end in NUL), so
nothing but the browser is needed and no port is opened.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Screen: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine; apt-get install chromium"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
    "--remote-debugging-io-pipes=3,4",
]
PATIENCE = 60.0
KEY_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36}
KEY_CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """One Chromium process; `open` gives a fresh page in a context of its own."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
        os.close(to_browser)
        os.close(from_browser)
        silence = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        moves = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in zip((3, 4), theirs, strict=True)]
        command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._pid = os.posix_spawn(
            BROWSER, command, dict(os.environ), file_actions=[silence, *moves], setpgroup=0
        )
        for end in theirs:
            os.close(end)
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command's result; RuntimeError with the browser's words where it refuses."""
        self._last += 1
        number = self._last
        message = {
            "id": number,
            "method": method,
            "params": params,
            **({"sessionId": session} if session else {}),
        }
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next(PATIENCE)).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, patience: float) -> dict[str, Any]:
        until = time.monotonic() + patience
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {patience:g} s")
            received = os.read(self._read, 2**20)
            if not received:
                raise RuntimeError("Chromium ended")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    @contextmanager
    def open(
        self,
        address: str,
        size: tuple[int, int] = (1000, 640),
        *,
        touch: bool = False,
        media: dict[str, str] | None = None,
        scripts: str = "",
    ) -> Iterator[Tab]:
        """A page, loaded. media: features such as prefers-color-scheme; scripts: run before the page's own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.resize(size, touch=touch)
        tab.media(media or {})
        if scripts:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=scripts)
        tab.call("Page.navigate", url=address)
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        try:
            yield tab
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._write)
        os.close(self._read)
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "an exception"))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not self._holds(condition):
            assert time.monotonic() < until, f"{condition} did not come true in {seconds:g} s"
            time.sleep(0.03)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.js(f"Boolean({condition})"))
        except RuntimeError as error:
            if "navigated" in str(error):  # between two pages
                return False
            raise

    def settle(self) -> None:
        """Wait until tiles are drawn and nothing moves."""
        still = "!hypermosaic.viewer.isAnimating?.() && hypermosaic.image?.getFullyLoaded()"
        self.wait("window.hypermosaic && hypermosaic.image")
        self.wait(f"{still} && hypermosaic.viewer.viewport.zoomSpring.isAtTargetValue()")
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, size: tuple[int, int], *, touch: bool = False) -> None:
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch, maxTouchPoints=5 if touch else 1)

    def media(self, features: dict[str, str]) -> None:
        listed = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def key(self, key: str, *, times: int = 1) -> None:
        code = KEY_CODES.get(key, ord(key.upper()) if len(key) == 1 and key.isalnum() else 0)
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        button = {} if kind == "mouseWheel" else {"button": "left", "clickCount": 1, "buttons": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **(button | more))

    def click(self, x: float, y: float) -> None:
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        self.mouse("mousePressed", *start)
        for step in range(1, steps + 1):
            share = step / steps
            self.mouse("mouseMoved", *(a + (b - a) * share for a, b in zip(start, end, strict=True)))
            time.sleep(0.02)
        self.mouse("mouseReleased", *end)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        listed = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=listed)

    def press(self, selector: str) -> None:
        """Click the middle of an element, which must be in view and not covered."""
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'});"
            " const b = e.getBoundingClientRect(); const x = b.x + b.width / 2, y = b.y + b.height / 2;"
            " const top = document.elementFromPoint(x, y);"
            " return e.contains(top) ? [x, y] : `covered by ${top?.outerHTML.slice(0, 80)}`; })()"
        )
        assert isinstance(box, list), f"{selector} is {box}"
        self.click(*box)

    def screen(self, save_as: Path | None = None) -> Screen:
        """What the page shows, (height, width, 3)."""
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if save_as is not None:
            save_as.write_bytes(shot)
        with Image.open(io.BytesIO(shot)) as image:
            return np.asarray(image.convert("RGB"))

    def screen_when(self, shows: Callable[[Screen], bool], seconds: float = 20) -> Screen:
        """The first screen that shows what is waited for; after `seconds` the last one, for the test to complain of."""
        until = time.monotonic() + seconds
        while not shows(screen := self.screen()) and time.monotonic() < until:
            time.sleep(0.05)
        return screen

    def complaints(self) -> list[str]:
        """Everything on this page's console so far: messages, uncaught errors, failed requests, refused content."""
        self.js("0")  # what was said before is then here
        said = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            match event["method"], event["params"]:
                case "Runtime.consoleAPICalled", params:
                    said.append(" ".join(str(part.get("value", part)) for part in params["args"]))
                case "Runtime.exceptionThrown", params:
                    details = params["exceptionDetails"]
                    said.append(details.get("exception", {}).get("description", details["text"]))
                case "Log.entryAdded", params:
                    said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        return said
