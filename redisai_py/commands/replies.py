"""Replies of the AI commands, as reply values (`redisai_py.resp_reply`): the field names and their order are RedisAI's.

Pure: what was read from Redis or counted by the engine is handed in. Source: AI.TENSORGET, AI.MODELGET, AI.SCRIPTGET,
AI.INFO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redisai_py.commands._args import text_name
from redisai_py.commands.models import ModelGet
from redisai_py.commands.scripts import ScriptGet
from redisai_py.commands.tensors import Form, TensorGet
from redisai_py.model import Model, Script
from redisai_py.resp_reply import Reply, TensorReply, Values
from redisai_py.tensor import Buffer, DType

__all__ = ["RunInfo", "info_reply", "model_reply", "scan_reply", "script_reply", "tensor_reply"]


def tensor_reply(request: TensorGet, dtype: DType, shape: tuple[int, ...], data: Buffer) -> Reply:
    """AI.TENSORGET: dtype and shape if asked for, then the data as one bulk string or its values.

    Args: data: the tensor's bytes; not looked at, and may be empty, if neither BLOB nor VALUES is asked for.
    """
    form = request.form
    if form is Form.VALUES:
        return TensorReply(dtype, shape, request.meta, Values(dtype, shape, data))
    if form is Form.BLOB or not request.meta:
        return TensorReply(dtype, shape, request.meta or form is Form.NONE, data)
    return TensorReply(dtype, shape, True, None)


def model_reply(request: ModelGet, model: Model, chunk_size: int) -> Reply:
    """AI.MODELGET: 16 items, 18 with the blob, or the blob alone.

    Args: chunk_size: MODEL_CHUNK_SIZE in bytes. A blob of at least that many is an array of floor(length / size) + 1
          bulk strings, the last one empty if the length is a multiple of the size.
    """
    if not request.meta:
        return _chunked(model.blob, chunk_size)
    reply: list[Any] = [
        *(b"backend", model.backend.encode()),
        *(b"device", text_name(model.device.text)),
        *(b"tag", model.tag),
        *(b"batchsize", model.batchsize),
        *(b"minbatchsize", model.minbatchsize),
        *(b"inputs", [text_name(name) for name in model.inputs]),
        *(b"outputs", [text_name(name) for name in model.outputs]),
        *(b"minbatchtimeout", model.minbatchtimeout_ms),
    ]
    if request.blob:
        reply += (b"blob", _chunked(model.blob, chunk_size))
    return reply


def _chunked(blob: bytes, size: int) -> Reply:
    if len(blob) < size:
        return blob
    view = memoryview(blob)
    return [view[start : start + size] for start in range(0, len(blob) + 1, size)]


def script_reply(request: ScriptGet, script: Script) -> Reply:
    """AI.SCRIPTGET: 6 items, 8 with the source, or the source alone."""
    source = text_name(script.source)
    if not request.meta:
        return source
    reply: list[Any] = [
        *(b"device", text_name(script.device.text)),
        *(b"tag", script.tag),
        *(b"Entry Points", [text_name(name) for name in script.entry_points]),
    ]
    if request.source:
        reply += (b"source", source)
    return reply


def scan_reply(entries: Iterable[tuple[bytes, bytes]]) -> Reply:
    """AI._MODELSCAN and AI._SCRIPTSCAN: a (key, tag) pair for each."""
    return [[key, tag] for key, tag in entries]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Counters of one model or script.

    kind: MODEL or SCRIPT.   duration_us: sum over successful runs.   samples: rows of the first output, -1 for a
    script. calls: runs finished.   errors: of these, failed.   more: what AI.INFO FULL adds, in order.
    """

    key: bytes
    kind: str
    backend: str
    device: str
    tag: bytes
    duration_us: int
    samples: int
    calls: int
    errors: int
    more: Mapping[bytes, Any]


def info_reply(info: RunInfo, full: bool = False) -> Reply:
    """AI.INFO: 18 items; AI.INFO FULL appends ours."""
    reply: list[Any] = [
        *(b"key", info.key),
        *(b"type", info.kind.encode()),
        *(b"backend", text_name(info.backend)),
        *(b"device", text_name(info.device)),
        *(b"tag", info.tag),
        *(b"duration", info.duration_us),
        *(b"samples", info.samples),
        *(b"calls", info.calls),
        *(b"errors", info.errors),
    ]
    if full:
        for name, value in info.more.items():
            reply += (name, value)
    return reply
