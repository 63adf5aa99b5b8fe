"""The chat as a web page: one static file, and three routes that pass messages on to the chatbot.

A visitor's conversation is named by a random cookie. This program keeps nothing either: restart it, and the page that
is open in a browser goes on with its conversation.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from examples.chatbot.conversation import Busy, Chatbot

__all__ = ["MESSAGE_LIMIT", "page_app"]

MESSAGE_LIMIT = 500
"""Longest message, in characters."""
_BODY_LIMIT_BYTES = 8 * 1024
_COOKIE = "conversation"
_PAGE = Path(__file__).with_name("page.html")


def page_app(bot: Chatbot) -> Starlette:
    """The page at /, and its messages.

    GET  /conversation  {"remembered": bool}
    POST /messages      {"message": text} gives {"reply": text, "ms": duration of the command}
    POST /forget        begin anew
    Failures: status 400 (not a message), 503 (the server is away or busy), with {"error": text}.
    """

    async def page(request: Request) -> Response:
        # The policy lets the page talk to this server alone, whatever a reply may contain.
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        response = FileResponse(_PAGE, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})
        if not _conversation(request):
            response.set_cookie(_COOKIE, secrets.token_urlsafe(16), max_age=bot.ttl_s, httponly=True, samesite="strict")
        return response

    async def conversation(request: Request) -> Response:
        return JSONResponse({"remembered": await bot.remembers(_conversation(request))})

    async def messages(request: Request) -> Response:
        message = await _message(request)
        if not message or not _conversation(request):
            return JSONResponse({"error": f"A message has 1 to {MESSAGE_LIMIT} characters."}, 400)
        began = time.perf_counter()
        reply = await bot.reply(_conversation(request), message)
        return JSONResponse({"reply": reply, "ms": round((time.perf_counter() - began) * 1e3, 1)})

    async def forget(request: Request) -> Response:
        await bot.forget(_conversation(request))
        return Response(status_code=204)

    async def away(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "The shop is closed for a moment. Please say that again."}, 503)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/conversation", conversation),
            Route("/messages", messages, methods=["POST"]),
            Route("/forget", forget, methods=["POST"]),
        ],
        exception_handlers={redis.RedisError: away, Busy: away},
    )


def _conversation(request: Request) -> str:
    """The visitor's, or "" if the cookie is not one of ours."""
    name = request.cookies.get(_COOKIE, "")
    return name if len(name) == 22 and name.replace("-", "").replace("_", "").isalnum() and name.isascii() else ""


async def _message(request: Request) -> str:
    """The message, or "" if there is none in the request. JSON only: another site's form cannot send that."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return ""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_LIMIT_BYTES:
            return ""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    message = content.get("message") if isinstance(content, dict) else None
    return message.strip() if isinstance(message, str) and len(message) <= MESSAGE_LIMIT else ""
