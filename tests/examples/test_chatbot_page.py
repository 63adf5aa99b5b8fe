"""The chat in the browser: its routes as any client sees them, and the page in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.chatbot.training import Trained, train
from tests.examples.browser import Browser, Page, chromium, needs_chromium, until
from tests.examples.test_chatbot import Local, store
from tests.runtime.serving import Serving
from tests.support import free_port


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


def chat_page(server: Serving, port: int) -> Page:
    return Page(server, port, "examples.chatbot", "web")


@pytest.fixture(scope="module")
def page(server: Serving) -> Iterator[Page]:
    started = chat_page(server, free_port())
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
        lonely = chat_page(serving, free_port())
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


def lines(browser: Browser) -> list[tuple[str, str]]:
    """(kind, text) of every line of the chat; the durations are left out."""
    found = "return [...document.querySelectorAll('#log li')].map(li => [li.className, li.firstChild.textContent])"
    return [(kind, text) for kind, text in browser.script(found)]


@needs_chromium
@pytest.mark.timeout(90)
def test_the_page_in_a_browser(server: Serving, hardly_trained: Trained) -> None:
    local = Local(hardly_trained)
    address = free_port()
    page = chat_page(server, address)
    try:
        with chromium() as browser:
            browser.open(f"http://127.0.0.1:{address}/")
            asked, markup = "my name is Ada", "<img src=x onerror=document.title=1>"
            for message in (asked, markup):
                before = len(lines(browser))
                browser.type("#message", message + "\ue007")  # Enter
                until(lambda before=before: len(lines(browser)) == before + 2)
                assert lines(browser)[-2:] == [("guest", message), ("shop", local.reply(message))]
            assert browser.script("return document.title") == "The tea shop", "text is text, never markup"
            assert browser.script("return document.querySelector('#message').value") == ""

            # The program is another one now; the page in the browser goes on.
            page.stop()
            browser.type("#message", "hello\ue007")
            until(lambda: lines(browser)[-1][0] == "note")
            assert "does not answer" in lines(browser)[-1][1]
            page = chat_page(server, address)
            browser.type("#message", "what is my name?")
            browser.click("#send")
            until(lambda: lines(browser)[-1] == ("shop", local.reply("what is my name?")))

            # So does a page that is loaded again, until the visitor begins anew.
            browser.open(f"http://127.0.0.1:{address}/")
            until(lambda: any("remembers you" in text for _, text in lines(browser)))
            browser.click("#forget")
            until(lambda: any("has forgotten" in text for _, text in lines(browser)))
            remembered = browser.script("return fetch('/conversation').then(answer => answer.json())")
            assert remembered == {"remembered": False}
    finally:
        page.stop()
