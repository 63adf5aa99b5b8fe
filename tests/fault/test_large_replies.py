"""What may be stored can be read, however large it is, and by clients that are slow."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.conformance.transcript import request_bytes
from tests.support import FrontDoor, RedisServer, raw_socket

MEGABYTE = 1024 * 1024
_SIZE = 12 * MEGABYTE
_META = b"*6\r\n$5\r\ndtype\r\n$5\r\nUINT8\r\n$5\r\nshape\r\n*1\r\n:%d\r\n$4\r\nblob\r\n" % _SIZE


@pytest.fixture(scope="module")
def door(redis_server: RedisServer) -> Iterator[FrontDoor]:
    """A server whose limit on what is not read is far below what is stored."""
    server = FrontDoor(
        Config(redis=redis_server.url, port=0, upstream_pool=2, output_buffer_limit_bytes=MEGABYTE, drain_timeout_s=1)
    )
    yield server
    server.stop()


@pytest.fixture
def data(door: FrontDoor, bare: redis.Redis) -> bytes:
    """The bytes of the tensor under `large`."""
    data = os.urandom(_SIZE)
    with redis.Redis(port=door.port) as client:
        client.execute_command("AI.TENSORSET", "large", "UINT8", _SIZE, "BLOB", data)
    return data


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _slowly(client: socket.socket, size: int) -> bytes:
    """So many bytes, taken a little at a time."""
    received = bytearray()
    client.settimeout(30)
    while len(received) < size:
        piece = client.recv(min(400_000, size - len(received)))
        assert piece, f"closed after {len(received)} of {size} bytes"
        received += piece
        threading.Event().wait(0.001)
    return bytes(received)


@pytest.mark.parametrize("first", [True, False], ids=["first command", "later command"])
def test_a_tensor_above_the_limit_is_read(first: bool, data: bytes, door: FrontDoor) -> None:
    for words, expected in (("AI.TENSORGET large BLOB", _bulk(data)), ("AI.TENSORGET large", _META + _bulk(data))):
        with raw_socket(door.port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            if not first:
                client.sendall(b"AI.TENSORSET small INT8 1 VALUES 1\r\n")
                assert client.recv(100) == b"+OK\r\n"
            client.sendall(request_bytes(words, {}))
            assert _slowly(client, len(expected)) == expected


def test_replies_of_a_pipeline_are_in_order(data: bytes, door: FrontDoor) -> None:
    commands = [
        "AI.TENSORSET small INT8 1 VALUES 1", "AI.TENSORGET large BLOB", "AI.TENSORGET small VALUES",
        "AI.TENSORGET none", "AI.TENSORGET large BLOB", "GET plain", "AI.TENSORGET large BLOB", "SET a 1",
        "AI.TENSORGET large BLOB", "AI.TENSORGET list BLOB",
    ]  # fmt: skip
    with redis.Redis(port=door.port) as other, raw_socket(door.port) as client:
        other.rpush("list", "x")
        client.sendall(b"".join(request_bytes(words, {}) for words in commands))
        large = _bulk(data)
        expected = b"".join([
            b"+OK\r\n", large, b"*1\r\n:1\r\n", b"-ERR tensor key is empty or in a different shard\r\n", large,
            b"$-1\r\n", large, b"+OK\r\n", large,
            b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        ])  # fmt: skip
        assert _slowly(client, len(expected)) == expected


def test_many_large_tensors_asked_for_at_once_are_not_held(data: bytes, door: FrontDoor) -> None:
    process = psutil.Process()
    with redis.Redis(port=door.port) as other:
        other.execute_command("AI.TENSORSET", "middle", "UINT8", 900_000, "BLOB", bytes(900_000))
    for key, size in (("large", _SIZE), ("middle", 900_000)):
        expected = len(_bulk(bytes(size))) * 100
        with raw_socket(door.port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            before = process.memory_info().rss
            client.sendall(request_bytes(f"AI.TENSORGET {key} BLOB", {}) * 100)
            threading.Event().wait(1)
            assert process.memory_info().rss - before < 60 * MEGABYTE
            client.settimeout(30)
            buffer = bytearray(MEGABYTE)
            while expected > 0:
                count = client.recv_into(buffer)
                assert count
                expected -= count
            assert expected == 0


def test_nobody_waits_for_who_does_not_read(data: bytes, door: FrontDoor) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            idle = stack.enter_context(raw_socket(door.port))
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            idle.sendall(request_bytes("AI.TENSORGET large BLOB", {}))
        threading.Event().wait(0.5)
        with raw_socket(door.port) as client:
            client.sendall(request_bytes("AI.TENSORGET large BLOB", {}))
            assert _slowly(client, len(_bulk(data))) == _bulk(data)
        with talk(door.port) as other:
            other.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.MODELGET m BLOB")
            other.given("AI.TENSORSET middle UINT8 100000", "AI.TENSORGET middle META")


def test_a_client_that_leaves_in_the_middle(data: bytes, door: FrontDoor, bare: redis.Redis) -> None:
    for _ in range(5):
        with raw_socket(door.port) as client:
            client.sendall(request_bytes("AI.TENSORGET large BLOB", {}) * 3)
            client.recv(100_000)
    with raw_socket(door.port) as client:
        client.sendall(request_bytes("AI.TENSORGET large BLOB", {}))
        assert _slowly(client, len(_bulk(data))) == _bulk(data)


def test_messages_come_behind_what_is_streamed(data: bytes, door: FrontDoor, bare: redis.Redis) -> None:
    with talk(door.port) as client:
        client.given("HELLO 3", "SUBSCRIBE c")
        client.socket.sendall(request_bytes("AI.TENSORGET large BLOB", {}))
        received = _slowly(client.socket, 1_000_000)
        for _ in range(3):
            bare.publish("c", "hello")
        received += _slowly(client.socket, len(_bulk(data)) - len(received))
        assert received == _bulk(data)
        assert client.reply() == '["message", "c", "hello"]'


@pytest.mark.parametrize("protocol", [2, 3])
def test_other_ways_to_read_it(protocol: int, data: bytes, door: FrontDoor) -> None:
    with redis.Redis(port=door.port, protocol=protocol, socket_timeout=30) as client:
        words = ("AI.TENSORGET", "large", "BLOB")
        assert client.execute_command("AI.DAGEXECUTE_RO", "LOAD", 1, "large", "|>", *words, "|>", *words) == [
            data,
            data,
        ]
        with client.pipeline() as pipeline:
            for _ in range(2):
                pipeline.execute_command(*words)
            assert pipeline.execute() == [data, data]


def test_a_model_above_the_limit_is_read(door: FrontDoor, bare: redis.Redis) -> None:
    """Whatever the pieces in which it is stored, and given back."""
    blob = os.urandom(5 * MEGABYTE)
    fields = {
        "kind": "MODEL", "id": "0" * 32, "backend": "ONNX", "device": "CPU", "tag": "", "batchsize": 0,
        "minbatchsize": 0, "minbatchtimeout": 0, "inputs": "[]", "outputs": "[]",
    }  # fmt: skip
    for pieces in (1, 3, 7):
        step = -(-len(blob) // pieces)
        chunks = {f"blob:{i}": blob[i * step : (i + 1) * step] for i in range(pieces)}
        bare.hset("model", mapping={**fields, "chunks": pieces, **chunks})
        with redis.Redis(port=door.port, socket_timeout=30) as client:
            assert client.execute_command("AI.MODELGET", "model", "BLOB") == blob
            before = client.execute_command("AI.CONFIG", "GET", "MODEL_CHUNK_SIZE")
            client.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", MEGABYTE)
            try:
                given = client.execute_command("AI.MODELGET", "model", "BLOB")
            finally:
                client.execute_command("AI.CONFIG", "MODEL_CHUNK_SIZE", before)
            assert b"".join(given) == blob
            assert [len(piece) for piece in given] == [MEGABYTE] * 5 + [0]


def test_a_large_tensor_is_shown_in_the_form_that_was_asked_for(door: FrontDoor, bare: redis.Redis) -> None:
    count = 2 * MEGABYTE
    with redis.Redis(port=door.port, socket_timeout=60) as client:
        client.execute_command("AI.TENSORSET", "large", "UINT8", count, "BLOB", b"\x07" * count)
        assert client.execute_command("AI.TENSORGET", "large", "VALUES") == [7] * count
        assert client.execute_command("AI.TENSORGET", "large", "META") == [b"dtype", b"UINT8", b"shape", [count]]
        *meta, values = client.execute_command("AI.TENSORGET", "large", "META", "VALUES")
        assert (meta[:2], values) == ([b"dtype", b"UINT8"], [7] * count)
