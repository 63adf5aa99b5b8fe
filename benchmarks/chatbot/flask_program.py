"""The traditional program as a Flask application, for gunicorn: a pooled, blocking client, state as plain bytes."""

from __future__ import annotations

from typing import Any

import redis
from flask import Flask, Response, request

from benchmarks.chatbot.in_process import MODELS, REDIS_SOCKET, SAFE, STATE_TTL_S, Answerer

__all__ = ["app"]

app = Flask(__name__)
_client: Any = redis.Redis(unix_socket_path=REDIS_SOCKET)


@app.post("/<model>/<conversation>")
def answer(model: str, conversation: str) -> Response:
    exchange = _exchange_safely if model in SAFE else _exchange
    reply = exchange(MODELS[model], f"flask:{model}:{conversation}", request.get_data())
    return Response(reply, mimetype="application/octet-stream")


def _exchange(model: Answerer, key: str, message: bytes) -> bytes:
    reply, state = model.answer(message, _client.get(key))
    _client.set(key, state, ex=STATE_TTL_S)
    return reply


def _exchange_safely(model: Answerer, key: str, message: bytes) -> bytes:
    """The same, again if another message of the conversation came between reading and writing."""
    with _client.pipeline() as pipeline:
        while True:
            try:
                pipeline.watch(key)
                reply, state = model.answer(message, pipeline.get(key))
                pipeline.multi()
                pipeline.set(key, state, ex=STATE_TTL_S)
                pipeline.execute()
            except redis.WatchError:
                continue
            return reply
