"""The functions that a running script may call, and the answers to its worker.

This is the interface between the engine and the code that knows clients and models: the caller makes a `ScriptHost` for
each run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from redisai_py.engine.torchscript.frames import ReplyTree, decode_tensors, encode_reply, encode_tensors
from redisai_py.errors import BackendError, ProtocolError, RedisAIError
from redisai_py.framing import encode_frame
from redisai_py.tensor import Buffer, Tensor

__all__ = ["Question", "ScriptHost", "parse_question"]

Question = Callable[[], Awaitable[list[Buffer]]]
"""Asks the host and returns the frame of its answer; raises RedisAIError with the text for the script."""


class ScriptHost(Protocol):
    """Functions for a running script; made for each run, so that they have the client's identity and database."""

    def execute(self, argv: list[bytes]) -> Awaitable[ReplyTree]:
        """Run one Redis command. An error is returned or raised."""

    def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> Awaitable[list[Tensor]]:
        """Run a stored model. An error is raised."""


def parse_question(op: str, header: dict[str, Any], payload: memoryview, host: ScriptHost) -> Question:
    """Parse a worker's question.

    Raises: ProtocolError, KeyError, TypeError, ValueError: not a question.
    """
    if op == "execute":
        argv = _split(payload, header["words"])

        async def execute() -> list[Buffer]:
            try:
                fields, strings = encode_reply(await host.execute(argv))
            except RedisAIError as error:
                raise BackendError(f"Redis command returned an error: {_reason(error)}") from error
            return encode_frame({"op": "reply", **fields}, strings)

        return execute
    if op == "model":
        inputs = decode_tensors(header["tensors"], payload)
        key = bytes(payload[len(payload) - header["key"] :])
        outputs = int(header["outputs"])

        async def model_execute() -> list[Buffer]:
            metas, parts = encode_tensors(await host.model_execute(key, inputs, outputs))
            return encode_frame({"op": "tensors", "tensors": metas}, parts)

        return model_execute
    raise ProtocolError(f"unexpected {op}")


def _split(payload: memoryview, sizes: Sequence[int]) -> list[bytes]:
    words = []
    offset = 0
    for size in sizes:
        words.append(bytes(payload[offset : offset + size]))
        offset += size
    return words


def _reason(error: RedisAIError) -> str:
    """The text of a Redis error in a script. For calls that RedisAI itself refused, C's text comes first."""
    text = error.wire()
    if text.startswith("ERR wrong number of arguments"):
        return f"Invalid argument ({text})"
    if text.startswith("ERR unknown command"):
        return f"No such file or directory ({text})"
    return text
