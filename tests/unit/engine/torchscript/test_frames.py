"""The format between the server and a script's worker: frames survive any chunking, nothing malformed passes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.engine.torchscript.frames import ReplyTree, decode_tensors, encode_reply, encode_tensors
from redisai_py.errors import ProtocolError, RedisAIError
from redisai_py.framing import Frame, FrameReader, encode_frame
from redisai_py.tensor import DType, Tensor


def feed(reader: FrameReader, data: bytes, chunk: int) -> list[Frame]:
    frames = []
    while data:
        buffer = reader.buffer()
        assert len(buffer)
        count = min(chunk, len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        frames.extend(reader.received(count))
    return frames


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_frames_survive_any_chunking(chunk: int) -> None:
    sent: list[tuple[dict[str, Any], bytes]] = [
        ({"op": "a"}, b""),
        ({"op": "b", "é": [1]}, b"xyz"),
        ({}, b"q" * 200_000),
    ]
    data = b"".join(
        bytes(part) for header, payload in sent for part in encode_frame(header, [payload[:1], payload[1:]])
    )
    received = feed(FrameReader(), data, chunk)
    assert [(header, bytes(payload)) for header, payload in received] == sent


def test_large_parts_are_not_copied() -> None:
    payload = bytes(1 << 20)
    assert encode_frame({}, [payload, b""])[1] is payload


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IQ", 0, 0),
        struct.pack(">IQ", 1 << 30, 0),
        struct.pack(">IQ", 2, 1001) + b"{}",
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 2, 0) + b"{]",
        struct.pack(">IQ", 1 << 20, 0) + b"[" * (1 << 20),
    ],
)
def test_malformed_frames_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(FrameReader(max_payload_bytes=1000), data, 1 << 20)


def test_tensors_come_back() -> None:
    tensors = [
        Tensor.from_numpy(np.arange(5, dtype=np.int8)),
        Tensor.from_numpy(np.array(2.5)),
        Tensor.from_numpy(np.zeros((3, 0), np.float32)),
        Tensor.from_numpy(np.arange(6, dtype=np.uint16).reshape(2, 3)),
    ]
    metas, parts = encode_tensors(tensors)
    payload = b"".join(bytes(part) for part in parts)
    assert len(payload) % 16 == 0
    assert decode_tensors(json.loads(json.dumps(metas)), memoryview(payload)) == tensors


@pytest.mark.parametrize(
    "meta",
    [
        ["FLOAT", [2], 4],
        ["FLOAT", [5], 20],
        ["FLOAT", [-1], -4],
        ["FLOAT", [1.0], 4],
        ["FLOAT", [True], 4],
        ["COMPLEX", [1], 8],
        ["FLOAT", [-2, -2], 16],
        ["FLOAT", ["a", 2**66], 4],
        ["FLOAT", [2**62, 0], 0],
        ["FLOAT", "12", 4],
        ["FLOAT", [1], 4.0],
        ["FLOAT", [0] * 65, 0],
    ],
)
def test_malformed_tensors_are_refused(meta: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_tensors([meta], memoryview(bytes(16)))


def rebuild(fields: dict[str, Any], strings: list[Any]) -> ReplyTree:
    """What the prelude does in TorchScript."""
    assert [len(item) for item in strings] == fields["strings"]
    texts, integers = iter(strings), iter(fields["integers"])
    stack: list[Any] = []
    for kind in fields["kinds"]:
        match kind:
            case 0:
                stack.append(None)
            case 1:
                stack.append(next(texts))
            case 2:
                stack.append(next(integers))
            case _:
                count = next(integers)
                items = stack[len(stack) - count :]
                del stack[len(stack) - count :]
                stack.append(items)
    (tree,) = stack
    reply: ReplyTree = tree
    return reply


@given(st.recursive(st.none() | st.binary() | st.integers(-(2**63), 2**63 - 1), st.lists))
def test_reply_trees_come_back(reply: ReplyTree) -> None:
    assert rebuild(*encode_reply(reply)) == reply


def test_first_error_in_a_reply_is_raised() -> None:
    with pytest.raises(RedisAIError, match="one"):
        encode_reply([1, [b"a", RedisAIError("ERR one")], RedisAIError("ERR two")])


def test_every_dtype_has_a_name_on_the_wire() -> None:
    for dtype in DType:
        if dtype is not DType.STRING:
            tensor = Tensor(dtype, (2,), bytes(2 * dtype.itemsize))
            metas, parts = encode_tensors([tensor])
            payload = memoryview(b"".join(bytes(part) for part in parts))
            assert decode_tensors(json.loads(json.dumps(metas)), payload) == [tensor]
