"""The traditional program as a FastAPI application, for uvicorn: a pooled asyncio client, state as plain bytes.

The model runs on the event loop: a run takes less time than a hop to a thread and back.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from fastapi import FastAPI, Request, Response

from benchmarks.chatbot.in_process import MODELS, REDIS_SOCKET, SAFE, STATE_TTL_S, Answerer

__all__ = ["app"]

app = FastAPI()
_client: Any = redis.asyncio.Redis(unix_socket_path=REDIS_SOCKET)


@app.post("/{model}/{conversation}")
async def answer(model: str, conversation: str, request: Request) -> Response:
    exchange = _exchange_safely if model in SAFE else _exchange
    reply = await exchange(MODELS[model], f"fastapi:{model}:{conversation}", await request.body())
    return Response(reply, media_type="application/octet-stream")


async def _exchange(model: Answerer, key: str, message: bytes) -> bytes:
    reply, state = model.answer(message, await _client.get(key))
    await _client.set(key, state, ex=STATE_TTL_S)
    return reply


async def _exchange_safely(model: Answerer, key: str, message: bytes) -> bytes:
    """The same, again if another message of the conversation came between reading and writing."""
    async with _client.pipeline() as pipeline:
        while True:
            try:
                await pipeline.watch(key)
                reply, state = model.answer(message, await pipeline.get(key))
                pipeline.multi()
                pipeline.set(key, state, ex=STATE_TTL_S)
                await pipeline.execute()
            except redis.WatchError:
                continue
            return reply
