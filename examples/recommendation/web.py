"""The films as a web page: one static file, and routes that pass clicks on to the recommender.

A viewer is named by a random cookie. This program keeps nothing: restart it, and the page that is open in a browser
goes on with its history.
"""

from __future__ import annotations

import json
import secrets
import time
from itertools import islice
from pathlib import Path
from typing import Any

import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from examples.recommendation.clicks import Busy, Recommendation, Recommender
from examples.recommendation.ratings import Ratings, kept

__all__ = ["page_app"]

_BODY_LIMIT_BYTES = 1024
_COOKIE = "viewer"
_PAGE = Path(__file__).with_name("page.html")
_FOUND = 8


def page_app(recommender: Recommender, ratings: Ratings) -> Starlette:
    """The page at /, and what it asks for. A film is {"film": number, "title": text}.

    GET  /films            {"seen": [film], "films": [film with "score"], "published": models so far, "clicks": learnt}
    GET  /search?title=x   {"films": [film]}, the best known first
    POST /clicks           {"film": number} gives what /films gives, and "ms": duration of the command
    POST /begin            {"person": number} gives the history of that person of MovieLens; {} one without films
    Failures: status 400 (no such film, person or viewer), 503 (the server is away or busy), with {"error": text}.
    """
    cinema = _Cinema(recommender, ratings)
    return Starlette(
        routes=[
            Route("/", cinema.page),
            Route("/films", cinema.films),
            Route("/search", cinema.search),
            Route("/clicks", cinema.clicks, methods=["POST"]),
            Route("/begin", cinema.begin, methods=["POST"]),
        ],
        exception_handlers={redis.RedisError: _away, Busy: _away},
    )


class _Cinema:
    """The routes."""

    def __init__(self, recommender: Recommender, ratings: Ratings) -> None:
        self._recommender = recommender
        self._ratings = ratings
        self._best_known = [film for film in (-ratings.popularity()).argsort(kind="stable").tolist() if film]

    async def page(self, request: Request) -> Response:
        # The policy lets the page talk to this server alone.
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        response = FileResponse(_PAGE, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})
        if not _viewer(request):
            name, age = secrets.token_urlsafe(16), self._recommender.ttl_s
            response.set_cookie(_COOKIE, name, max_age=age, httponly=True, samesite="strict")
        return response

    async def films(self, request: Request) -> Response:
        if not (viewer := _viewer(request)):
            return _refused("The page gives the cookie that names a viewer.")
        return JSONResponse(await self._state(viewer, await self._recommender.recommend(viewer)))

    async def search(self, request: Request) -> Response:
        words = request.query_params.get("title", "").casefold().split()
        titles = self._ratings.titles
        found = (n for n in self._best_known if words and all(word in titles[n].casefold() for word in words))
        return JSONResponse({"films": [self._film(number) for number in islice(found, _FOUND)]})

    async def clicks(self, request: Request) -> Response:
        number, films = (await _content(request)).get("film"), len(self._ratings.titles) - 1
        if not (viewer := _viewer(request)) or not _is_one_of(number, films):
            return _refused(f"A film is a number from 1 to {films}.")
        began = time.perf_counter()
        given = await self._recommender.click(viewer, number)
        duration_ms = round((time.perf_counter() - began) * 1e3, 2)
        return JSONResponse(await self._state(viewer, given) | {"ms": duration_ms})

    async def begin(self, request: Request) -> Response:
        person, histories = (await _content(request)).get("person"), self._ratings.histories
        if not (viewer := _viewer(request)) or not (person is None or _is_one_of(person, len(histories))):
            return _refused(f"A person is a number from 1 to {len(histories)}.")
        if person is None:
            await self._recommender.forget(viewer)
        else:
            await self._recommender.become(viewer, kept(histories[person - 1]))
        return Response(status_code=204)

    async def _state(self, viewer: str, given: Recommendation) -> dict[str, Any]:
        published, clicks = await self._recommender.published()
        seen = [self._film(number) for number in await self._recommender.seen(viewer)]
        scored = zip(given.films, given.scores, strict=True)
        films = [self._film(number) | {"score": round(score, 2)} for number, score in scored]
        return {"seen": seen, "films": films, "published": published, "clicks": clicks}

    def _film(self, number: int) -> dict[str, Any]:
        return {"film": number, "title": self._ratings.titles[number]}


async def _away(request: Request, error: Exception) -> Response:
    return _refused("The cinema is closed for a moment. Please try again.", 503)


def _refused(text: str, status: int = 400) -> Response:
    return JSONResponse({"error": text}, status)


def _is_one_of(number: Any, count: int) -> bool:
    return type(number) is int and 0 < number <= count


def _viewer(request: Request) -> str:
    """The viewer's name, or "" if the cookie is not one of ours."""
    name = request.cookies.get(_COOKIE, "")
    return name if len(name) == 22 and name.replace("-", "").replace("_", "").isalnum() and name.isascii() else ""


async def _content(request: Request) -> dict[str, Any]:
    """The JSON object, or an impossible one if there is none. JSON only: another site's form cannot send that."""
    impossible = {"film": 0, "person": 0}
    if not request.headers.get("content-type", "").startswith("application/json"):
        return impossible
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_LIMIT_BYTES:
            return impossible
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return impossible
    return content if isinstance(content, dict) else impossible
