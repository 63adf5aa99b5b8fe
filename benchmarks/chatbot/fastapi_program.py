"""The traditional program as a FastAPI application, for uvicorn: a pooled asyncio client, state as plain bytes.

The model runs on the event loop: a run takes less time than a hop to a thread and back.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from fastapi import FastAPI, Request, Response

from benchmarks.chatbot.in_process import MODELS, REDIS_SOCKET, STATE_TTL_S

__all__ = ["app"]

app = FastAPI()
_client: Any = redis.asyncio.Redis(unix_socket_path=REDIS_SOCKET)


@app.post("/{model}/{conversation}")
async def answer(model: str, conversation: str, request: Request) -> Response:
    key = f"fastapi:{model}:{conversation}"
    reply, state = MODELS[model].answer(await request.body(), await _client.get(key))
    await _client.set(key, state, ex=STATE_TTL_S)
    return Response(reply, media_type="application/octet-stream")
