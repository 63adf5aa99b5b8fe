"""Random pipelines of plain and AI commands: Redis's part replies as Redis, the AI part as a model of it says.

The model runs on the same Redis, in another database: each plain command is sent there as it is, each AI command is
replaced by what it means in terms of GET and SET.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from redisai_py.errors import RedisAIError
from redisai_py.store import codec
from redisai_py.tensor import DType, Tensor
from tests.conformance.transcript import read_reply, request_bytes
from tests.support import FrontDoor, RedisServer, raw_socket

WRONGTYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"
EMPTY = "-ERR tensor key is empty or in a different shard"
Command = str

keys = st.sampled_from(["a", "b", "c"])
values = st.integers(-9, 99)
plain = st.one_of(
    st.builds("SET {} {}".format, keys, values),
    st.builds("SET {} {} EX 1000".format, keys, values),
    st.builds("GET {}".format, keys),
    st.builds("DEL {}".format, keys),
    st.builds("INCR {}".format, keys),
    st.builds("APPEND {} x".format, keys),
    st.builds("STRLEN {}".format, keys),
    st.builds("RPUSH {} {}".format, keys, values),
    st.builds("LRANGE {} 0 -1".format, keys),
    st.builds("TYPE {}".format, keys),
    st.builds("EXISTS {} {}".format, keys, keys),
    st.builds("RENAME {} {}".format, keys, keys),
    st.builds("EXPIRE {} 1000".format, keys),
    st.builds("PERSIST {}".format, keys),
    st.builds("MGET {} {}".format, keys, keys),
    st.just("PING"),
    st.just("NOSUCH command"),
    st.just("GET"),
)
sets = st.one_of(
    st.builds("AI.TENSORSET {} INT8 2 VALUES {} {}".format, keys, values, values),
    st.builds("AI.TENSORSET {} FLOAT 1 1 VALUES {}".format, keys, values),
    st.builds("AI.TENSORSET {} UINT8 3 BLOB abc".format, keys),
    st.builds("AI.TENSORSET {} STRING 2 VALUES x {}".format, keys, values),
)
gets = st.builds("AI.TENSORGET {} {}".format, keys, st.sampled_from(["VALUES", "BLOB", "META VALUES", "META"]))
mistakes = st.builds("AI.TENSORSET {} NOPE 1".format, keys) | st.builds("AI.TENSORGET {} NOPE".format, keys)
single = plain | sets | gets | mistakes
transaction = st.lists(plain.filter(lambda c: c not in ("GET", "NOSUCH command")) | sets | gets | mistakes, max_size=6)
pipelines = st.lists(single.map(lambda c: [c]) | transaction.map(lambda cs: ["MULTI", *cs, "EXEC"]), max_size=12)


class Model:
    """What Redis and RedisAI would reply, one command after the other."""

    def __init__(self, port: int, database: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=50)
        self._answers = self._socket.makefile("rb")
        self._ask(b"*2\r\n$6\r\nSELECT\r\n$1\r\n%d\r\n" % database)
        self._ask(b"*1\r\n$7\r\nFLUSHDB\r\n")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def _ask(self, data: bytes) -> str:
        self._socket.sendall(data)
        return read_reply(self._answers, {})

    def _raw(self, key: str) -> bytes | str:
        """The string under a key, or the error instead."""
        self._socket.sendall(request_bytes(f"GET {key}", {}))
        line = self._answers.readline()
        if line[:1] == b"-":
            return WRONGTYPE
        size = int(line[1:])
        return EMPTY if size < 0 else self._answers.read(size + 2)[:-2]

    def _get(self, key: str) -> Tensor | str:
        """The tensor under a key, or the error instead."""
        value = self._raw(key)
        if isinstance(value, str):
            return value
        try:
            return codec.decode_tensor(value)
        except RedisAIError:
            return WRONGTYPE

    def _may_set(self, key: str) -> bool:
        """Whether a tensor may be written: what is there has a tensor's header, whatever follows it."""
        value = self._raw(key)
        if isinstance(value, str):
            return value == EMPTY
        try:
            codec.read_header(value[: codec.header_size(value)])
        except RedisAIError:
            return False
        return True

    def reply(self, command: Command) -> str:
        """The reply to one command."""
        if command.startswith("AI.TENSORSET"):
            return self._set(*command.split()[1:])
        if command.startswith("AI.TENSORGET"):
            return self._show(*command.split()[1:])
        return self._ask(request_bytes(command, {}))

    def _set(self, key: str, dtype: str, *words: str) -> str:
        if not self._may_set(key):
            return WRONGTYPE
        if dtype == "NOPE":
            return "-ERR invalid data type"
        at = next(i for i, word in enumerate(words) if word in ("VALUES", "BLOB"))
        shape, items = tuple(map(int, words[:at])), words[at + 1 :]
        if dtype == "STRING":
            tensor = Tensor(DType.STRING, shape, b"".join(item.encode() + b"\0" for item in items))
        elif words[at] == "BLOB":
            tensor = Tensor(DType.UINT8, shape, items[0].encode())
        else:
            kind = DType[dtype]
            tensor = Tensor(kind, shape, np.array(list(map(int, items)), kind.numpy_dtype).tobytes())
        value = codec.encode_header(tensor) + bytes(tensor.data)
        return self._ask(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key.encode(), len(value), value))

    def _show(self, key: str, *options: str) -> str:
        tensor = self._get(key)
        if isinstance(tensor, str):
            return tensor
        if options == ("NOPE",):
            return "-ERR unsupported data format"
        meta = f'"dtype", "{tensor.dtype.name}", "shape", [{", ".join(f":{n}" for n in tensor.shape)}]'
        if options == ("META",):
            return f"[{meta}]"
        if options == ("BLOB",):
            text = bytes(tensor.data).decode("latin-1")
            return '"' + "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text).replace('"', '\\"') + '"'
        shown = "[" + ", ".join(map(self._element, tensor.numpy().ravel().tolist())) + "]"
        return f'[{meta}, "values", {shown}]' if "META" in options else shown

    @staticmethod
    def _element(value: float | bytes) -> str:
        if isinstance(value, bytes):
            return f'"{value.decode()}"'
        return f":{value}" if isinstance(value, int) else f'"{value:.17g}"'


def _expected(model: Model, parts: Sequence[Sequence[Command]]) -> list[str]:
    replies: list[str] = []
    for part in parts:
        if len(part) == 1:
            replies.append(model.reply(part[0]))
            continue
        inner = [model.reply(command) for command in part[1:-1]]
        replies += ["+OK", *["+QUEUED"] * len(inner), f"[{', '.join(inner)}]"]
    return replies


def _send(port: int, data: bytes, cuts: Sequence[int], count: int) -> list[str]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    with raw_socket(port) as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, stop in itertools.pairwise(edges):
            connection.sendall(data[start:stop])
        return [read_reply(answers, {}) for _ in range(count)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(pipelines, st.lists(st.integers(0, 2**40), max_size=4))
@example([["SET a 1"], ["AI.TENSORSET a INT8 2 VALUES 1 2"], ["AI.TENSORGET a VALUES"]], [])
@example([["AI.TENSORSET a UINT8 3 BLOB abc"], ["APPEND a x"], ["AI.TENSORGET a VALUES"], ["GET a"]], [5])
@example([["MULTI", "AI.TENSORSET a UINT8 3 BLOB abc", "RENAME a b", "AI.TENSORGET b BLOB", "EXEC"]], [])
def test_pipelines(
    front_door: FrontDoor, redis_server: RedisServer, parts: list[list[Command]], cuts: list[int]
) -> None:
    model = Model(redis_server.port, database=7)
    try:
        expected = _expected(model, parts)
    finally:
        model.close()
    commands = ["FLUSHDB", *itertools.chain.from_iterable(parts)]
    data = b"".join(request_bytes(command, {}) for command in commands)
    assert _send(front_door.port, data, cuts, len(commands)) == ["+OK", *expected]


def test_the_model_itself(redis_server: RedisServer) -> None:
    model = Model(redis_server.port, database=7)
    parts = [["AI.TENSORSET a FLOAT 1 1 VALUES 3"], ["AI.TENSORGET a META VALUES"], ["AI.TENSORGET b META"], ["TYPE a"]]
    try:
        replies = _expected(model, parts)
    finally:
        model.close()
    assert replies == ["+OK", '["dtype", "FLOAT", "shape", [:1, :1], "values", ["3"]]', EMPTY, "+string"]
