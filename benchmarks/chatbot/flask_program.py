"""The traditional program as a Flask application, for gunicorn: a pooled, blocking client, state as plain bytes."""

from __future__ import annotations

from typing import Any

import redis
from flask import Flask, Response, request

from benchmarks.chatbot.in_process import MODELS, REDIS_SOCKET, STATE_TTL_S

__all__ = ["app"]

app = Flask(__name__)
_client: Any = redis.Redis(unix_socket_path=REDIS_SOCKET)


@app.post("/<model>/<conversation>")
def answer(model: str, conversation: str) -> Response:
    key = f"flask:{model}:{conversation}"
    reply, state = MODELS[model].answer(request.get_data(), _client.get(key))
    _client.set(key, state, ex=STATE_TTL_S)
    return Response(reply, mimetype="application/octet-stream")
