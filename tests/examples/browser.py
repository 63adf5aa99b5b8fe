"""Pages of the examples as their visitors have them: over HTTP, and in a headless Chromium."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import waiting
from tests.runtime.serving import Serving
from tests.support import free_port

__all__ = ["ROOT", "Browser", "Page", "chromium", "needs_chromium", "until"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are needed on PATH")


class Page:
    """An example's page, a process of its own: `python -m` and these words, beside a server."""

    def __init__(self, server: Serving, port: int, *words: str) -> None:
        self.port = port
        where = ["--port", str(port), "--url", f"redis://127.0.0.1:{server.port}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words, *where],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(lambda: self.request("GET", "/")[0] == 200)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
        """(status, content, cookie to send back)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("Content-Type", "").startswith("application/json")
            cookie = response.getheader("Set-Cookie", "").partition(";")[0]
            return response.status, json.loads(content) if is_json else content, cookie
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(LIMIT_S)


def until(condition: Any, limit_s: float = LIMIT_S) -> Any:
    """The first true result; errors count as not yet."""
    return waiting.until(
        condition, seconds=limit_s, every_s=0.02, not_yet=(OSError, http.client.HTTPException, LookupError)
    )


class Browser:
    """A WebDriver session (w3.org/TR/webdriver2), as much of it as is needed here."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = ""
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=760,1140"]
        options = {"binary": CHROMIUM, "args": arguments}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._session = f"/session/{self.call('POST', '/session', {'capabilities': capabilities})['sessionId']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, self._session + path, data, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def script(self, source: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": source, "args": []})

    def element(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def type(self, selector: str, text: str) -> None:
        self.call("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.element(selector)}/click", {})

    def close(self) -> None:
        self.call("DELETE", "")


@contextmanager
def chromium() -> Iterator[Browser]:
    assert DRIVER is not None
    port = free_port()
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        browser = until(lambda: Browser(port))
        yield browser
        browser.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # its own group: the browser goes with it
        driver.wait(LIMIT_S)
