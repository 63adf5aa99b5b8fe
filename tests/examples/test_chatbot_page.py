"""The chat in the browser: its routes as any client sees them, and the page in a headless Chromium."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from examples.chatbot.training import Trained, train
from tests.examples.test_chatbot import Local, store
from tests.runtime.serving import Serving
from tests.support import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def hardly_trained() -> Trained:
    return train(steps=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hardly_trained: Trained) -> Iterator[Serving]:
    serving = Serving("--data-dir", tmp_path_factory.mktemp("data"))
    try:
        serving.wait_ready()
        store(serving.port, hardly_trained)
        yield serving
        serving.stop()
    finally:
        serving.close()


class Page:
    """`python -m examples.chatbot web`, a process of its own."""

    def __init__(self, server: Serving, port: int) -> None:
        self.port = port
        where = ["--port", str(port), "--url", f"redis://127.0.0.1:{server.port}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.chatbot", "web", *where],
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


def until(condition: Any) -> Any:
    """The first true result; errors count as not yet."""
    give_up = time.monotonic() + LIMIT_S
    while True:
        with suppress(OSError, http.client.HTTPException, LookupError):
            if result := condition():
                return result
        assert time.monotonic() < give_up, "it did not happen in time"
        threading.Event().wait(0.02)


@pytest.fixture(scope="module")
def page(server: Serving) -> Iterator[Page]:
    started = Page(server, free_port())
    yield started
    started.stop()


# -- routes


def test_a_visitor_gets_a_conversation(page: Page, server: Serving, hardly_trained: Trained) -> None:
    local = Local(hardly_trained)
    cookie = page.request("GET", "/")[2]
    assert page.request("GET", "/conversation", Cookie=cookie)[1] == {"remembered": False}
    for message in ("my name is Ada", "what is my name?"):
        status, content, _ = page.request("POST", "/messages", {"message": message}, Cookie=cookie)
        assert (status, content["reply"]) == (200, local.reply(message))
        assert 0 < content["ms"] < 10_000
    assert page.request("GET", "/conversation", Cookie=cookie)[1] == {"remembered": True}
    assert page.request("POST", "/forget", Cookie=cookie)[0] == 204
    assert page.request("GET", "/conversation", Cookie=cookie)[1] == {"remembered": False}


def test_visitors_are_told_apart(page: Page) -> None:
    cookies = {page.request("GET", "/")[2] for _ in range(3)}
    assert len(cookies) == 3
    assert page.request("GET", "/", Cookie=cookies.pop())[2] == "", "who has a cookie keeps it"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"message": 1}', b'{"message": " "}', {"message": "x" * 501}, b"x" * 20_000]
)
def test_what_is_no_message_is_refused(page: Page, body: Any) -> None:
    cookie = page.request("GET", "/")[2]
    assert page.request("POST", "/messages", body, Cookie=cookie)[0] == 400


@pytest.mark.parametrize("cookie", ["", "conversation=", "conversation=x", "conversation=" + "*" * 22])
def test_a_cookie_that_is_not_ours_is_refused(page: Page, cookie: str) -> None:
    assert page.request("POST", "/messages", {"message": "hello"}, Cookie=cookie)[0] == 400


def test_a_form_of_another_site_is_refused(page: Page) -> None:
    cookie = page.request("GET", "/")[2]
    headers = {"Cookie": cookie, "Content-Type": "text/plain"}
    assert page.request("POST", "/messages", {"message": "hello"}, **headers)[0] == 400


def test_a_lost_server_is_said_and_not_a_traceback(hardly_trained: Trained, tmp_path: Path) -> None:
    serving = Serving("--data-dir", tmp_path)
    try:
        serving.wait_ready()
        store(serving.port, hardly_trained)
        lonely = Page(serving, free_port())
        try:
            cookie = lonely.request("GET", "/")[2]
            assert lonely.request("POST", "/messages", {"message": "hello"}, Cookie=cookie)[0] == 200
            serving.stop()
            status, content, _ = lonely.request("POST", "/messages", {"message": "hello"}, Cookie=cookie)
            assert (status, list(content)) == (503, ["error"])
        finally:
            lonely.stop()
    finally:
        serving.close()


# -- the page, in Chromium


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are needed on PATH")


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

    def lines(self) -> list[tuple[str, str]]:
        """(kind, text) of every line of the chat; the durations are left out."""
        return [
            (kind, text)
            for kind, text in self.script(
                "return [...document.querySelectorAll('#log li')].map(li => [li.className, li.firstChild.textContent])"
            )
        ]

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


@needs_chromium
@pytest.mark.timeout(90)
def test_the_page_in_a_browser(server: Serving, hardly_trained: Trained) -> None:
    local = Local(hardly_trained)
    address = free_port()
    page = Page(server, address)
    try:
        with chromium() as browser:
            browser.open(f"http://127.0.0.1:{address}/")
            asked, markup = "my name is Ada", "<img src=x onerror=document.title=1>"
            for message in (asked, markup):
                before = len(browser.lines())
                browser.type("#message", message + "\ue007")  # Enter
                until(lambda before=before: len(browser.lines()) == before + 2)
                assert browser.lines()[-2:] == [("guest", message), ("shop", local.reply(message))]
            assert browser.script("return document.title") == "The tea shop", "text is text, never markup"
            assert browser.script("return document.querySelector('#message').value") == ""

            # The program is another one now; the page in the browser goes on.
            page.stop()
            browser.type("#message", "hello\ue007")
            until(lambda: browser.lines()[-1][0] == "note")
            assert "does not answer" in browser.lines()[-1][1]
            page = Page(server, address)
            browser.type("#message", "what is my name?")
            browser.click("#send")
            until(lambda: browser.lines()[-1] == ("shop", local.reply("what is my name?")))

            # So does a page that is loaded again, until the visitor begins anew.
            browser.open(f"http://127.0.0.1:{address}/")
            until(lambda: any("remembers you" in text for _, text in browser.lines()))
            browser.click("#forget")
            until(lambda: any("has forgotten" in text for _, text in browser.lines()))
            remembered = browser.script("return fetch('/conversation').then(answer => answer.json())")
            assert remembered == {"remembered": False}
    finally:
        page.stop()
