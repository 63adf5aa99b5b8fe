"""Clients that leave while a command of theirs is under way: as from Redis itself."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import talk
from tests.support import FrontDoor, RedisServer, free_port
from tests.waiting import until


def _blocked(client: redis.Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


@pytest.mark.parametrize("half", [True, False], ids=["half close", "close"])
def test_a_blocking_command_ends_with_its_client(half: bool, front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.send("BLPOP q 0")
        while not _blocked(bare):
            pass
        if half:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.socket.recv(100) == b""
    while _blocked(bare):
        pass
    bare.rpush("q", "x")
    assert bare.lrange("q", 0, -1) == [b"x"]


@pytest.mark.parametrize(
    "before",
    [[], ["SET a 1"], ["AI.TENSORSET t INT8 1 VALUES 1"], ["SELECT 0"], ["HELLO 3", "AI.TENSORGET t VALUES"]],
    ids=" then ".join,
)
def test_a_client_that_left_at_once_takes_no_job(before: list[str], front_door: FrontDoor, bare: redis.Redis) -> None:
    """Its connection to Redis, or what it sent before, was still under way when it left."""
    for number in range(5):
        with talk(front_door.port) as client:
            client.send(*before, "BLPOP jobs 0")
        threading.Event().wait(0.2)  # long enough for the command to reach Redis, far shorter than the grace
        bare.rpush("jobs", number)
        threading.Event().wait(0.05)
        assert bare.lpop("jobs") == b"%d" % number


def test_what_came_before_the_end_is_answered(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
        client.send("AI.MODELEXECUTE m INPUTS 1 x OUTPUTS 1 y", "SET a 1", "AI.TENSORGET y VALUES", "GET a")
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.reply() for _ in range(4)] == ["+OK", "+OK", '["2", "4"]', '"1"']
        assert client.socket.recv(100) == b""


def test_who_has_waited_for_something_before_gets_long_replies_at_the_end(
    front_door: FrontDoor, bare: redis.Redis
) -> None:
    """Redis is not told of the end, as for a command that waits: it would not send the rest."""
    bare.rpush("q", "x")
    bare.set("big", bytes(5_000_000))
    with talk(front_door.port) as client:
        assert client.ask("BLPOP q 0") == '["q", "x"]'
        client.send("GET big", "GET big", "ECHO end")
        client.socket.shutdown(socket.SHUT_WR)
        received = bytearray()
        while chunk := client.socket.recv(1 << 20):
            received += chunk
    assert len(received) == 2 * len(b"$5000000\r\n\r\n") + 10_000_000 + len(b"$3\r\nend\r\n")


def test_a_streamed_tensor_that_ends_what_a_client_sends(front_door: FrontDoor, bare: redis.Redis) -> None:
    size = 2 * 1024 * 1024
    head = f"*6\r\n$12\r\nAI.TENSORSET\r\n$1\r\nt\r\n$5\r\nUINT8\r\n$7\r\n{size}\r\n$4\r\nBLOB\r\n${size}\r\n"
    for behind, answers in ((["PING"], ["+PONG"]), (["ECHO a", "AI.TENSORGET u VALUES"], ['"a"', "[:7]"]), ([], [])):
        for _ in range(5):
            with talk(front_door.port) as client:
                client.given("AI.TENSORSET u UINT8 1 VALUES 7")
                client.socket.sendall(head.encode() + bytes(size) + b"\r\n")
                client.send(*behind)
                client.socket.shutdown(socket.SHUT_WR)
                assert client.reply() == "+OK"
                assert [client.reply() for _ in answers] == answers
                assert client.socket.recv(100) == b""


def test_a_command_that_waits_behind_another_does_not_hold_the_connection(
    front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis
) -> None:
    with talk(front_door.port) as client:
        client.send("BLPOP q 0", "AI.TENSORGET t")
        while not _blocked(bare):
            pass
        client.socket.shutdown(socket.SHUT_WR)
        assert client.socket.recv(100) == b""
    while _blocked(bare):
        pass


def test_a_dag_starts_nothing_more_for_a_client_that_is_gone(redis_server: RedisServer, bare: redis.Redis) -> None:
    server = FrontDoor(Config(redis=redis_server.url, port=0, http=free_port(), drain_timeout_s=5))
    try:
        with talk(server.port) as watcher:
            watcher.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_slow>", "AI.TENSORSET x FLOAT 1 2 VALUES 1 2")
            with talk(server.port) as client:
                chain = [f"AI.MODELEXECUTE m INPUTS 1 {a} OUTPUTS 1 {b}" for a, b in ("xy", "yz", "zw")]
                client.send(" |> ".join(["AI.DAGEXECUTE LOAD 1 x", *chain]))
                # Runs, and does not only wait: then it would be taken out of its queue.
                until(lambda: server.figure('redisai_device_running{device="CPU"}') == 1, "nothing ever ran")
                # A reset instead of an end, so that it is not taken for a client that only sends no more.
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            until(lambda: '"unfinished", :0,' in watcher.ask("AI.INFO m FULL"), "a run of the lost client goes on")
            assert watcher.ask("AI.INFO m").endswith('"calls", :1, "errors", :0]')
    finally:
        server.stop()


def test_a_long_reply_reaches_a_client_that_sends_no_more(front_door: FrontDoor, bare: redis.Redis) -> None:
    bare.set("big", b"x" * 64 * 1024 * 1024)
    with talk(front_door.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send("GET big")
        client.socket.shutdown(socket.SHUT_WR)
        received = len(client.socket.recv(10, socket.MSG_WAITALL))
        threading.Event().wait(1.5)  # a slow reader: longer than commands may take at the end
        while chunk := client.socket.recv(1 << 20):
            received += len(chunk)
    assert received == len(b"$67108864\r\n\r\n") + 64 * 1024 * 1024
