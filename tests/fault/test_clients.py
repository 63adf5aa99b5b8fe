"""Clients that behave badly: slow, silent, leaving in the middle, too many, too large."""

from __future__ import annotations

import contextlib
import gc
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
import redis

from redisai_py.config import Config
from scripts.make_models import build_onnx_mul
from tests.conformance.conversation import Conversation, talk
from tests.conformance.transcript import request_bytes
from tests.support import FrontDoor, RedisServer, exchange, raw_socket
from tests.waiting import until

MEGABYTE = 1024 * 1024
WRONGTYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"


def _head(command: str, size: int) -> bytes:
    """A command up to its last argument, of which `size` bytes are announced."""
    whole = request_bytes(f"{command} x", {})
    return whole[: -len(b"$1\r\nx\r\n")] + b"$%d\r\n" % size


def test_an_argument_that_is_too_large_is_refused_when_it_is_announced(front_door: FrontDoor) -> None:
    size = 600 * MEGABYTE
    for command in (f"AI.TENSORSET t UINT8 {size} BLOB", "SET k"):
        reply = exchange(front_door.port, _head(command, size), 10**6)
        assert reply == b"-ERR Protocol error: invalid bulk length\r\n"


def test_announced_arguments_take_no_memory(front_door: FrontDoor, bare: redis.Redis) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    with ExitStack() as stack:
        for command in (f"AI.TENSORSET t UINT8 {500 * MEGABYTE} BLOB", "SET k", "GET"):
            for _ in range(10):
                connection = stack.enter_context(raw_socket(front_door.port))
                connection.sendall(_head(command, 500 * MEGABYTE) + b"a little of it")
        with talk(front_door.port) as client:
            client.given("AI.TENSORSET t FLOAT 1 VALUES 1")
        assert process.memory_info().rss - before < 200 * MEGABYTE


def test_memory_of_half_an_argument_returns_when_its_client_leaves(front_door: FrontDoor, bare: redis.Redis) -> None:
    process = psutil.Process()
    gc.collect()
    gc.disable()  # an idle server does not collect either
    try:
        before = process.memory_info().rss
        with ExitStack() as stack:
            for command in ("SET k", "AI.DAGEXECUTE PERSIST 1 t |> AI.TENSORSET t UINT8 5 BLOB"):
                connection = stack.enter_context(raw_socket(front_door.port))
                connection.sendall(_head(command, 100 * MEGABYTE) + bytes(90 * MEGABYTE))
            until(lambda: process.memory_info().rss - before > 160 * MEGABYTE, "the server did not take it")
        until(lambda: process.memory_info().rss - before < 40 * MEGABYTE, "the server keeps it")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "command", ["AI.TENSORSET t UINT8 8 BLOB 12345678", "SET k v", "AI.DAGEXECUTE ROUTING r |> AI.TENSORSET a FLOAT 1"]
)
def test_half_a_command_and_gone(command: str, front_door: FrontDoor, bare: redis.Redis) -> None:
    whole = request_bytes(command, {})
    for length in range(len(whole)):
        with raw_socket(front_door.port) as connection:
            connection.sendall(whole[:length])
    with talk(front_door.port) as client:
        assert client.ask("EXISTS t k a") == ":0"


@pytest.mark.parametrize("abort", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("exists", [True, False], ids=["over another", "new"])
def test_leaving_in_the_middle_of_a_streamed_tensor(
    abort: bool, exists: bool, front_door: FrontDoor, bare: redis.Redis
) -> None:
    size = 64 * MEGABYTE
    with talk(front_door.port) as client:
        if exists:
            client.given("AI.TENSORSET big UINT8 2 VALUES 1 2")
        with raw_socket(front_door.port) as leaving:
            leaving.sendall(_head(f"AI.TENSORSET big UINT8 {size} BLOB", size) + bytes(20 * MEGABYTE))
            if abort:
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: bare.info("memory")["used_memory"] < 15 * MEGABYTE, "Redis keeps a part of the tensor")
        assert client.ask("KEYS *") == ('["big"]' if exists else "[]")
        if exists:
            assert client.ask("AI.TENSORGET big VALUES") == "[:1, :2]"


def test_leaving_while_runs_are_queued(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given(
            "AI.MODELSTORE m ONNX CPU BATCHSIZE 100 MINBATCHSIZE 100 BLOB <onnx_mul>",
            "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
        )
        for _ in range(20):
            with raw_socket(front_door.port) as leaving:
                leaving.sendall(request_bytes("AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u", {}) * 3)
        until(lambda: '"unfinished", :0,' in client.ask("AI.INFO m FULL"), "runs of lost clients wait on")
        assert client.ask("EXISTS u") == ":0"


def test_a_slow_reader_costs_no_memory_and_nobody_else(front_door: FrontDoor, bare: redis.Redis) -> None:
    process = psutil.Process()
    bare.set("plain", bytes(MEGABYTE))
    with talk(front_door.port) as client, raw_socket(front_door.port) as slow:
        client.given(f"AI.TENSORSET big UINT8 {MEGABYTE}")
        before = process.memory_info().rss
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        request = request_bytes("AI.TENSORGET big BLOB", {}) + request_bytes("GET plain", {})
        slow.sendall(request * 150)
        for _ in range(50):
            client.given("AI.TENSORSET t FLOAT 1 VALUES 1", "GET t")
        assert process.memory_info().rss - before < 100 * MEGABYTE
        expected = 300 * (MEGABYTE + len(b"$1048576\r\n\r\n"))
        buffer = bytearray(MEGABYTE)
        while expected > 0:
            count = slow.recv_into(buffer)
            assert count, "the server closed a client that was only slow"
            expected -= count
        assert expected == 0


PAIR = {"tensor": "AI.TENSORSET t UINT8 {0} BLOB {1}|AI.TENSORGET t BLOB", "plain": "SET k {1}|GET k"}


@pytest.mark.parametrize("kind", list(PAIR))
def test_a_pipeline_may_be_sent_whole_before_its_replies_are_read(
    kind: str, front_door: FrontDoor, bare: redis.Redis
) -> None:
    """More than all buffers between here and there hold, both ways."""
    size, count = 10_000, 4000
    pair = b"".join(request_bytes(words, {}) for words in PAIR[kind].format(size, "x" * size).split("|"))
    with raw_socket(front_door.port) as client:
        client.sendall(pair * count)
        with client.makefile("rb") as answers:
            expected = b"+OK\r\n$%d\r\n%b\r\n" % (size, b"x" * size)
            assert all(answers.read(len(expected)) == expected for _ in range(count))


def test_who_sends_more_than_the_limit_without_reading_has_to_wait(
    redis_server: RedisServer, bare: redis.Redis
) -> None:
    server = FrontDoor(Config(redis=redis_server.url, port=0, output_buffer_limit_bytes=MEGABYTE, drain_timeout_s=1))
    pair = request_bytes("AI.TENSORSET t UINT8 10000 BLOB " + "x" * 10_000, {}) + request_bytes("AI.TENSORGET t", {})
    rest = memoryview(pair * 10_000)
    process = psutil.Process()
    before = process.memory_info().rss
    try:
        with raw_socket(server.port) as client:
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while rest:
                    rest = rest[client.send(rest[:MEGABYTE]) :]
            assert len(rest) > MEGABYTE
            assert process.memory_info().rss - before < 50 * MEGABYTE
            client.settimeout(25)  # for all that is still to be sent
            sender = threading.Thread(target=client.sendall, args=(rest,))
            sender.start()
            with client.makefile("rb") as answers:
                # OK, and dtype, shape and blob.
                expected = 5 + len(exchange(server.port, request_bytes("AI.TENSORGET t", {}), b"x\r\n"))
                for _ in range(10_000):
                    assert len(answers.read(expected)) == expected
            sender.join()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("command", "size"),
    [("SET k", MEGABYTE), ("AI.TENSORSET t BOOL 60000 BLOB", 60_000), ("AI.TENSORSET t UINT8 200000 BLOB", 200_000)],
)
def test_what_redis_does_not_take_waits_at_the_client(
    command: str, size: int, front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis
) -> None:
    """A client that sends on and on while Redis stands still: not all of it is kept here."""
    piece = _head(command, size) + bytes(size) + b"\r\n"
    sent, most = 0, 200 * MEGABYTE
    with raw_socket(front_door.port) as client, client.makefile("rb") as answers:
        client.sendall(b"PING\r\n" + piece)
        assert answers.read(12) == b"+PONG\r\n+OK\r\n"
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)
        try:
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while sent < most:
                    sent += client.send(memoryview(piece)[sent % len(piece) :])
        finally:
            redis_server.process.send_signal(signal.SIGCONT)
        assert sent < most
        client.settimeout(10)
        rest = memoryview(piece)[sent % len(piece) :]
        sender = threading.Thread(target=client.sendall, args=(rest,))
        sender.start()
        replies = (sent + len(rest)) // len(piece)
        assert answers.read(5 * replies) == b"+OK\r\n" * replies
        sender.join()


def test_a_subscriber_that_does_not_read_is_closed(redis_server: RedisServer, bare: redis.Redis) -> None:
    """Messages come without being asked for: the limit on what waits for a client is what bounds them."""
    server = FrontDoor(Config(redis=redis_server.url, port=0, output_buffer_limit_bytes=MEGABYTE, drain_timeout_s=1))
    limits = bare.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    # Valkey 9.1 counts a message of its own memory once, so that its usual limit of 32 MB would not be reached.
    bare.config_set("client-output-buffer-limit", f"pubsub {4 * MEGABYTE} {4 * MEGABYTE} 60")
    try:
        with talk(server.port) as idle:
            idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.given("SUBSCRIBE c")
            message = bytes(MEGABYTE)
            for _ in range(100):
                bare.publish("c", message)
            # Either we close it, or Redis does by its own limit for subscribers; nobody keeps 100 MB.
            until(lambda: not bare.pubsub_numsub("c")[0][1], "the subscriber is still there")
    finally:
        bare.config_set("client-output-buffer-limit", limits)
        server.stop()


def test_many_clients_at_once(front_door: FrontDoor, bare: redis.Redis) -> None:
    count = 200
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        received = {}
        for number in range(count):
            connection = stack.enter_context(raw_socket(front_door.port))
            commands = [
                f"AI.TENSORSET t{number} INT32 1 VALUES {number}", f"SET k{number} {number}",
                f"AI.TENSORGET t{number} VALUES", f"GET k{number}",
            ]  # fmt: skip
            connection.sendall(b"".join(request_bytes(command, {}) for command in commands))
            received[connection] = (number, bytearray())
            selector.register(connection, selectors.EVENT_READ)
        waiting = set(received)
        while waiting:
            ready = selector.select(20)
            assert ready, f"{len(waiting)} clients have no answer"
            for key, _ in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                number, data = received[connection]
                data += connection.recv(4096)
                text = str(number).encode()
                if data == b"+OK\r\n+OK\r\n*1\r\n:%b\r\n$%d\r\n%b\r\n" % (text, len(text), text):
                    waiting.discard(connection)
        shared = [entry for entry in bare.client_list() if entry["name"].startswith("redisai-")]
        assert len(shared) < 20, "clients of one identity share their connections"


@pytest.mark.parametrize("size", [4, 100_000, 2 * MEGABYTE], ids=["small", "large", "streamed"])
def test_a_tensor_never_overwrites_what_is_none(size: int, front_door: FrontDoor, bare: redis.Redis) -> None:
    """One writes and deletes a plain value, another a tensor under the same key, as fast as they can."""
    stop = threading.Event()
    replies: set[str] = set()

    def write() -> None:
        with talk(front_door.port) as client:
            request = _head(f"AI.TENSORSET k UINT8 {size} BLOB", size) + bytes(size) + b"\r\n"
            while not stop.is_set():
                client.socket.sendall(request)
                replies.add(client.reply())

    writer = threading.Thread(target=write)
    writer.start()
    won = 0
    try:
        deadline = time.monotonic() + 5
        while won < 30 and time.monotonic() < deadline:
            if bare.set("k", "plain", nx=True):
                won += 1
                for _ in range(5):
                    assert bare.get("k") == b"plain"
            bare.delete("k")
    finally:
        stop.set()
        writer.join()
    assert won
    assert replies <= {"+OK", WRONGTYPE}
    assert bare.keys() in ([], [b"k"])


def test_a_model_never_overwrites_what_is_none(front_door: FrontDoor, bare: redis.Redis) -> None:
    stop = threading.Event()
    replies: set[str] = set()

    def write() -> None:
        with talk(front_door.port) as client:
            while not stop.is_set():
                replies.add(client.ask("AI.MODELSTORE k ONNX CPU BLOB <onnx_mul>"))
                replies.add(client.ask("AI.MODELDEL k"))

    writer = threading.Thread(target=write)
    writer.start()
    won = 0
    try:
        deadline = time.monotonic() + 5
        while won < 20 and time.monotonic() < deadline:
            if bare.set("k", "plain", nx=True):
                won += 1
                for _ in range(20):
                    assert bare.get("k") == b"plain"
                bare.delete("k")
    finally:
        stop.set()
        writer.join()
    assert won
    assert replies <= {"+OK", WRONGTYPE, "-ERR model key is empty"}
    assert bare.keys() in ([], [b"k"])


@pytest.fixture
def doors(redis_server: RedisServer, bare: redis.Redis) -> Iterator[list[Conversation]]:
    """Two front doors on one Redis."""
    servers = [FrontDoor(Config(redis=redis_server.url, port=0, drain_timeout_s=2)) for _ in range(2)]
    with ExitStack() as stack:
        yield [stack.enter_context(talk(server.port)) for server in servers]
    for server in servers:
        server.stop()


def test_a_model_replaced_through_another_door_is_never_stale(doors: list[Conversation]) -> None:
    one, other = doors
    one.given("AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
    run = "AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y"
    dag = "AI.DAGEXECUTE_RO LOAD 1 x |> AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 z |> AI.TENSORGET z VALUES"
    for turn in range(15):
        name, expected = (("onnx_mul", '["2", "4"]'), ("onnx_triple", '["3", "6"]'))[turn % 2]
        storing, running = (one, other) if turn % 3 else (other, one)
        storing.given(f"AI.MODELSTORE m ONNX CPU BLOB <{name}>")
        assert running.ask(dag) == f"[+OK, {expected}]"
        running.given(run)
        assert running.ask("AI.TENSORGET y VALUES") == expected
        assert storing.ask("AI.TENSORGET y VALUES") == expected
        assert running.ask("AI.MODELGET m BLOB") == f'"<{name}>"'
    one.given("AI.MODELDEL m")
    assert other.ask(run) == "-ERR model key is empty"


def test_a_script_replaced_through_another_door_is_never_stale(doors: list[Conversation]) -> None:
    one, other = doors
    one.given("AI.TENSORSET x FLOAT 1 VALUES 1")
    for source, expected in (("old_script", '["2"]'), ("minus_script", '["0"]'), ("old_script", '["2"]')):
        one.given(f"AI.SCRIPTSET s CPU SOURCE <{source}>")
        for client in (other, one):
            client.given("AI.SCRIPTRUN s add INPUTS x x OUTPUTS y")
            assert client.ask("AI.TENSORGET y VALUES") == expected
    other.given("AI.SCRIPTDEL s")
    assert one.ask("AI.SCRIPTRUN s add INPUTS x x OUTPUTS y") == "-ERR script key is empty"


def test_tensors_written_through_another_door_are_seen(doors: list[Conversation], bare: redis.Redis) -> None:
    one, other = doors
    one.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.TENSORSET x FLOAT 1 2 VALUES 0 0")
    for n in range(100):
        other.given(f"AI.TENSORSET x FLOAT 1 2 VALUES {n} 1")
        one.given("AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y")
        assert other.ask("AI.TENSORGET y VALUES") == f'["{2 * n}", "2"]'
    bare.delete("x")
    assert one.ask("AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y") == "-ERR tensor key is empty or in a different shard"


@pytest.mark.parametrize(
    "damage",
    [
        ("HDEL", "m", "blob:0"),
        ("HSET", "m", "chunks", 2),
        ("HSET", "m", "chunks", 10**9),
        ("HSET", "m", "inputs", "[" * 9000),
    ],
    ids=["a piece gone", "a piece more", "a billion pieces", "a name nested too deep"],
)
def test_a_damaged_model_is_no_model(damage: tuple[str | int, ...], front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
        with redis.Redis(port=front_door.port) as storing:
            storing.execute_command("AI.MODELSTORE", "m", "ONNX", "CPU", "BLOB", build_onnx_mul())
        bare.execute_command(*damage)
        bare.hset("m", "id", "of another server")  # so that it must be loaded from what is there
        client.send("AI.MODELGET m BLOB", "AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y", "MULTI", "AI.MODELGET m", "EXEC")
        replies = [client.reply() for _ in range(5)]
    assert replies == [WRONGTYPE, WRONGTYPE, "+OK", "+QUEUED", f"[{WRONGTYPE}]"]
