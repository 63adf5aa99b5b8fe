"""What a write may overwrite is what a read takes for a tensor, whichever way the write goes.

Three judges look at a key before a tensor is written there: a script in Redis, the server itself for users without
scripts, and the server again for large tensors. They must agree with the one that reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
import safetensors.numpy

from redisai_py.errors import WrongType
from redisai_py.store import codec
from redisai_py.tensor import DType, Tensor
from tests.conformance.conversation import Conversation, talk
from tests.support import FrontDoor

WRONGTYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"
ARRAY = np.arange(2, dtype=np.uint8)


def _value(header: Any, data: bytes = b"\1\2") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype: str = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _own(tensor: Tensor) -> bytes:
    return codec.encode_header(tensor) + bytes(tensor.data)


TENSORS = {
    "our own": _own(Tensor(DType.FLOAT, (2, 1), bytes(8))),
    "a scalar": _own(Tensor(DType.DOUBLE, (), bytes(8))),
    "of 40 dimensions": _own(Tensor(DType.UINT8, (1,) * 40, b"x")),
    "strings": _own(Tensor(DType.STRING, (2,), b"a\0b\0")),
    "of another name": safetensors.numpy.save({"weights": ARRAY}),
    "with metadata": safetensors.numpy.save({"x": ARRAY}, metadata={"format": "pt"}),
    "with much metadata": safetensors.numpy.save({"x": ARRAY}, metadata={"text": "y" * 50_000}),
    "with blanks in its header": _value(json.dumps({"x": _entry()}, indent=3).encode()),
    "with the longest header": _value(b"{" + json.dumps({"x": _entry()}).encode()[1:].rjust(codec.MAX_HEADER - 1)),
    "of no elements": safetensors.numpy.save({"x": np.zeros((0, 3), np.float32)}),
}
OTHERS = {
    "an empty string": b"",
    "text": b"some text that is long enough to be a header of something",
    "a number": b"17",
    "zeros": bytes(200),
    "JSON": b'{"tensor": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}',
    "two tensors": safetensors.numpy.save({"x": ARRAY, "y": ARRAY}),
    "of an element type that there is not": _value({"tensor": _entry("F8_E4M3")}),
    "of a made-up element type": _value(b'{"tensor":{"dtype":"C64","shape":[2],"data_offsets":[0,2]}}'),
    "no entry": _value({"x": 5}),
    "no dtype": _value({"x": {"shape": [2], "data_offsets": [0, 2]}}),
    "a dtype that is a list": _value({"x": {"dtype": [], "shape": [2], "data_offsets": [0, 2]}}),
    "no shape": _value({"x": {"dtype": "U8", "data_offsets": [0, 2]}}),
    "a shape of words": _value({"x": _entry(shape=["2"])}),
    "a negative shape": _value({"x": _entry(shape=[-1, -2])}),
    "no offsets": _value({"x": {"dtype": "U8", "shape": [2]}}),
    "offsets that do not fit the shape": _value({"x": _entry("F64")}),
    "offsets that begin behind the header": _value({"x": _entry(offsets=[1, 3])}),
    "of 65 dimensions": _value({"x": _entry(shape=[1] * 64 + [2])}),
    "no tensor": _value({"__metadata__": {"a": "b"}}, b""),
    "a broken header": _value(b'{"x": {"dtype"'),
    "a list for a header": _value(b"[1, 2]"),
    "a header longer than the value": struct.pack("<Q", 5000) + b'{"x":' + bytes(100),
    "a header of 70 000 bytes": safetensors.numpy.save({"x": ARRAY}, metadata={"text": "y" * 70_000}),
    "a length of 2**40": struct.pack("<Q", 1 << 40) + b"{" + bytes(100),
}


@pytest.fixture(params=["script", "no scripts"])
def client(request: pytest.FixtureRequest, front_door: FrontDoor, bare: redis.Redis) -> Iterator[Conversation]:
    bare.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", "~*", "+@all", "-eval", "-evalsha", "-script")
    with talk(front_door.port) as conversation:
        if request.param == "no scripts":
            conversation.given("AUTH bob pw")
        yield conversation
    bare.execute_command("ACL", "DELUSER", "bob")


@pytest.mark.parametrize("size", [1, 100_000, 2_000_000], ids=["small", "large", "streamed"])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_may_be_overwritten(name: str, size: int, client: Conversation, bare: redis.Redis) -> None:
    value = TENSORS[name]
    bare.set("k", value)
    assert codec.decode_tensor(value)
    for _ in range(2):  # the first command of a client goes another way
        assert not client.ask("AI.TENSORGET k META").startswith("-")
    assert _write(client, size) == "+OK"
    assert client.ask("AI.TENSORGET k META") == f'["dtype", "UINT8", "shape", [:{size}]]'


@pytest.mark.parametrize("size", [1, 100_000, 2_000_000], ids=["small", "large", "streamed"])
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_may(name: str, size: int, client: Conversation, bare: redis.Redis) -> None:
    value = OTHERS[name]
    bare.set("k", value)
    with pytest.raises(WrongType):
        codec.decode_tensor(value)
    assert client.ask("AI.TENSORGET k META") == WRONGTYPE
    assert _write(client, size) == WRONGTYPE
    assert bare.get("k") == value
    assert client.ask("PING") == "+PONG"


def _write(client: Conversation, size: int) -> str:
    words = [b"AI.TENSORSET", b"k", b"UINT8", b"%d" % size, b"BLOB", bytes(size)]
    client.socket.sendall(b"*6\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
    return client.reply()
