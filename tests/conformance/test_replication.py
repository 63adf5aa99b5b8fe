"""SYNC and PSYNC: a tunnel to Redis, and only if Redis agrees."""

from __future__ import annotations

import pytest
import redis

from tests.support import FrontDoor
from tests.wire import Wire


@pytest.mark.parametrize("command", [("SYNC",), ("PSYNC", "?", "-1")])
def test_a_refused_one_leaves_the_connection_as_it_was(
    client: redis.Redis, front_door: FrontDoor, command: tuple[str, ...]
) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-sync", "-psync")
    try:
        with Wire(front_door.port) as wire:
            assert wire("AUTH", "reader", "pw") == b"OK"
            for _ in range(2):
                assert str(wire(*command)).startswith("NOPERM")
                assert wire("PING") == b"PONG"
                assert wire("AI.TENSORSET", "x", "FLOAT", "1", "VALUES", "1") == b"OK"
                assert wire("AI.TENSORGET", "x", "VALUES") == [b"1"]
                assert wire("SELECT", "0") == b"OK"
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


def test_what_a_pipeline_has_behind_a_refused_one_is_carried_out(client: redis.Redis, front_door: FrontDoor) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-psync")
    try:
        with Wire(front_door.port) as wire:
            assert wire("AUTH", "reader", "pw") == b"OK"
            wire.socket.sendall(b"PSYNC ? -1\r\nAI.TENSORSET x FLOAT 1 VALUES 7\r\nAI.TENSORGET x VALUES\r\nPING\r\n")
            replies = [wire.receive() for _ in range(4)]
        assert str(replies[0]).startswith("NOPERM")
        assert replies[1:] == [b"OK", [b"7"], b"PONG"]
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


def test_an_accepted_one_is_a_tunnel(front_door: FrontDoor) -> None:
    with Wire(front_door.port) as wire:
        wire.socket.sendall(b"PSYNC ? -1\r\n")
        came = b""
        while b"REDIS0" not in came and b"VALKEY" not in came:  # the snapshot, as Redis or as Valkey 9 begins it
            data = wire.socket.recv(65536)
            assert data, came
            came += data
        assert came.lstrip(b"\n").startswith(b"+FULLRESYNC")
