"""What a team would write without us: a FastAPI application that runs ONNX models in its own process, for uvicorn.

A tensor comes and goes as the bytes of a request's body. The state of a conversation lies in Redis, read and written
through a pooled asyncio client with hiredis. The model runs on the event loop: a hop to a thread costs more than most
runs here, and each worker has a core.

Settings come from the environment, as is usual for such programs: MODELS, a directory, and REDIS_SOCKET.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import redis.asyncio
from fastapi import FastAPI, Request, Response

__all__ = ["app"]

_SHAPES = {"mlp": ("x", (1, 784)), "cnn": ("image", (1, 3, 64, 64))}
_GRU_STATE = 256
_BYTES = "application/octet-stream"


def _session(path: Path) -> Any:
    """With the settings of our server: one thread inside an operation, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(path, options)


app = FastAPI()
_sessions = {path.stem: _session(path) for path in Path(os.environ["MODELS"]).glob("*.onnx")}
_client: Any = redis.asyncio.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])


@app.post("/ready")
async def ready() -> Response:
    return Response()


@app.post("/run/{model}")
async def run(model: str, request: Request) -> Response:
    """One output of a model with one input."""
    name, shape = _SHAPES[model]
    values = np.frombuffer(await request.body(), np.float32).reshape(shape)
    (output,) = _sessions[model].run(None, {name: values})
    return Response(output.tobytes(), media_type=_BYTES)


@app.post("/gru/{conversation}")
async def answer(conversation: str, request: Request) -> Response:
    """The reply to a message, 128 floats; the conversation's state, 256, is read and written."""
    message = np.frombuffer(await request.body(), np.float32).reshape(1, -1)
    key = f"fastapi:state:{conversation}"
    stored = await _client.get(key)
    state = np.zeros((1, _GRU_STATE), np.float32) if stored is None else np.frombuffer(stored, np.float32)
    reply, after = _sessions["gru"].run(["reply", "new_state"], {"message": message, "state": state.reshape(1, -1)})
    await _client.set(key, after.tobytes())
    return Response(reply.tobytes(), media_type=_BYTES)
