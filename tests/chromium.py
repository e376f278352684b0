"""A headless Chromium that opens a file, is clicked and typed at, and is asked what it shows."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


class Chromium:
    """Speaks Chromium's DevTools protocol over a pipe, which takes no further package."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self.messages: list[dict[str, Any]] = []  # what it reported by itself: the console, errors, requests
        self._replies: dict[int, dict[str, Any]] = {}
        self._count, self._rest = 0, b""
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'  # the descriptors that it listens and speaks on
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, str(EXECUTABLE), *flags, "--no-first-run", "--disable-dev-shm-usage"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def open(self, page: Path | str) -> None:
        """Open a file, or an address."""
        self.messages.clear()
        self.do("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(message["method"] == "Page.loadEventFired" for message in self.messages):
            self._receive()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on the page."""
        return self._call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """What JavaScript says; its objects as plain Python."""
        reply = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, expression: str, within: float = 30) -> Any:
        """What JavaScript says, as soon as it is true."""
        deadline = time.monotonic() + within
        while not (said := self.value(expression)):
            assert time.monotonic() < deadline, (
                f"waited in vain for {expression}; there is {self.value('document.body.innerText')}"
            )
            time.sleep(0.05)
        return said

    def press(self, key: str, text: str = "") -> None:
        """Press a key as a user does, wherever the focus is."""
        codes = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowDown": 40, "Home": 36}
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.do("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.do("Input.dispatchKeyEvent", type="keyUp", **shared)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._call("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._read)
        os.close(self._write)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while number not in self._replies:
            self._receive()
        reply = self._replies.pop(number)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def _receive(self) -> None:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        if "id" in message:
            self._replies[message["id"]] = message
        else:
            self.messages.append(message)
