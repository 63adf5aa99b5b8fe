"""Questions of a running script, and the frames that answer them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from redisai_py.engine.torchscript.frames import ReplyTree, decode_tensors, encode_tensors
from redisai_py.engine.torchscript.hosts import parse_question
from redisai_py.errors import ProtocolError, RedisAIError
from redisai_py.framing import FrameReader
from redisai_py.tensor import Tensor


class Host:
    """Gives one reply to every command and the inputs, in reverse order, to every model."""

    def __init__(self, reply: ReplyTree = None) -> None:
        self.reply = reply
        self.asked: list[Any] = []

    async def execute(self, argv: list[bytes]) -> ReplyTree:
        self.asked.append(argv)
        return self.reply

    async def model_execute(self, key: bytes, inputs: list[Tensor], outputs: int) -> list[Tensor]:
        self.asked.append((key, outputs))
        return inputs[::-1]


def answer(host: Host, op: str, header: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], memoryview]:
    async def ask() -> list[Any]:
        return await parse_question(op, header, memoryview(payload), host)()

    data = b"".join(bytes(part) for part in asyncio.run(ask()))
    reader = FrameReader()
    reader.buffer()[: len(data)] = data
    (frame,) = reader.received(len(data))
    return frame


def test_execute() -> None:
    host = Host([b"ab", 7, None])
    header, payload = answer(host, "execute", {"words": [3, 0, 2]}, b"GETab")
    assert host.asked == [[b"GET", b"", b"ab"]]
    assert header == {"op": "reply", "kinds": [1, 2, 0, 3], "strings": [2], "integers": [7, 3]}
    assert bytes(payload) == b"ab"


def test_model_execute() -> None:
    host = Host()
    tensors = [Tensor.from_numpy(np.arange(n, dtype=np.int16)) for n in (3, 5)]
    metas, parts = encode_tensors(tensors)
    payload = b"".join(bytes(part) for part in parts) + b"key"
    question = json.loads(json.dumps({"tensors": metas, "key": 3, "outputs": 2}))  # as the frame has it
    header, payload_back = answer(host, "model", question, payload)
    assert host.asked == [(b"key", 2)]
    assert decode_tensors(header["tensors"], payload_back) == tensors[::-1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("ERR wrong number of arguments for 'get' command", "Invalid argument (ERR wrong number of arguments for"),
        ("ERR unknown command 'X'", "No such file or directory (ERR unknown command 'X')"),
        ("NOPERM no", "NOPERM no"),
    ],
)
def test_error_replies(error: str, text: str) -> None:
    with pytest.raises(RedisAIError) as raised:
        answer(Host(RedisAIError(error)), "execute", {"words": []})
    assert str(raised.value).startswith(f"Redis command returned an error: {text}")


def test_unknown_question() -> None:
    with pytest.raises(ProtocolError):
        parse_question("other", {}, memoryview(b""), Host())


@pytest.mark.parametrize(("op", "header"), [("execute", {}), ("execute", {"words": 3}), ("model", {"tensors": []})])
def test_malformed_question(op: str, header: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        parse_question(op, header, memoryview(b""), Host())
