"""What a client is (protocol, database, user, transaction, subscriptions, silenced) changes at random, AI commands in
between: every reply is the one that Redis itself gives.

A tensor stands for a string here: what AI.TENSORSET and AI.TENSORGET answer is compared with what SET and GET of that
string answer on a connection to Redis, in every state, at every place of a pipeline that is cut anywhere.
"""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any

import hiredis
import pytest
import redis

from tests.fault.hammering import Duration
from tests.support import FrontDoor, RedisServer, version_of
from tests.wire import Wire

_SECONDS = 4
_ENOUGH = 20  # connections
_END = b"the-end"
Argv = tuple[Any, ...]
Pair = tuple[Argv, Argv]
"""A command for the front door, and the one for Redis that it is compared with."""


class _Author:
    """Writes conversations. It keeps out of transactions what is refused there by us, and hence knows when one is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pairs: list[Pair] = []
        self._protocol = 2
        self._names: dict[str, set[str]] = {"": set(), "P": set()}
        self._multi = False

    def write(self) -> list[Pair]:
        """The commands of one client."""
        for number in range(self._rng.choice((3, 10, 30))):
            self._any(number)
        for argv in (("RESET",), ("CLIENT", "REPLY", "ON"), ("ECHO", _END)):
            self._both(*argv)
        return self._pairs

    def _both(self, *argv: Any) -> None:
        self._pairs.append((argv, argv))

    def _any(self, number: int) -> None:
        rng = self._rng
        kinds = [self._tensors, self._tensors, self._plain, self._plain, self._transaction]
        if not self._multi:
            kinds += [self._identity, self._silence, self._subscription]
        rng.choice(kinds)(number)

    def _tensors(self, number: int) -> None:
        rng, key = self._rng, self._rng.choice("tu")
        if rng.random() < 0.3:
            self._pairs.append((("AI.TENSORGET", key, "VALUES"), ("GET", key)))
            return
        for _ in range(rng.choice((1, 1, 1, 4, 8))):
            value = rng.randrange(1000)
            words = rng.choice((("VALUES", value), ("BLOB", value.to_bytes(8, "little"))))
            self._pairs.append((("AI.TENSORSET", key, "INT64", 1, *words), ("SET", key, f"T{value}")))

    def _plain(self, number: int) -> None:
        self._both(
            *self._rng.choice(
                [
                    ("ECHO", f"e{number}"), ("ECHO", f"e{number}"), ("SET", "a", number), ("GET", "a"), ("DEL", "t"),
                    ("PUBLISH", self._rng.choice("cde"), f"m{number}"), ("PING",), ("PING", f"p{number}"), ("GET",),
                    ("NOSUCH",), ("INCR", "n"), ("RPUSH", "l", number), ("LPOP", "l"), ("BLPOP", "l", "0.01"),
                    ("EVAL", "return redis.call('get', KEYS[1])", 1, "a"), ("SETRANGE", "big", 200_000, "x"),
                    ("GET", "big"),
                ]
            )
        )  # fmt: skip

    def _transaction(self, number: int) -> None:
        if self._multi:
            self._both(self._rng.choice(("EXEC", "DISCARD")))
            self._multi = False
            return
        self._both(*self._rng.choice([("MULTI",), ("MULTI",), ("WATCH", self._rng.choice("ta")), ("UNWATCH",)]))
        self._multi = self._pairs[-1][0] == ("MULTI",) and not self._is_subscriber

    @property
    def _is_subscriber(self) -> bool:
        return self._protocol == 2 and any(self._names.values())

    def _identity(self, number: int) -> None:
        rng = self._rng
        user, protocol = rng.choice(("alice", "default", "nobody")), rng.choice((2, 3))
        what = rng.randrange(5)
        if what == 0:
            self._both("RESET")
            self._protocol = 2
            self._names = {"": set(), "P": set()}
        elif what == 1:
            self._both("SELECT", rng.choice("012"))
        elif what == 2:
            self._both("AUTH", user, "x")
        else:
            self._both("HELLO", protocol, *(("AUTH", user, "x") if what == 3 else ()))
            if not self._is_subscriber and (what == 4 or user != "nobody"):
                self._protocol = protocol

    def _silence(self, number: int) -> None:
        self._both("CLIENT", "REPLY", self._rng.choice(("ON", "ON", "OFF", "SKIP")))

    def _subscription(self, number: int) -> None:
        rng, kind = self._rng, self._rng.choice(("", "P"))
        names = [rng.choice("cde") for _ in range(rng.randrange(3))]
        if rng.random() < 0.4 and names:
            self._both(f"{kind}SUBSCRIBE", *names)
            self._names[kind].update(names)
        else:
            self._both(f"{kind}UNSUBSCRIBE", *names)
            self._names[kind] -= set(names or self._names[kind])


def _plain(reply: Any) -> Any:
    """A reply in the form in which both sides can be compared."""
    if isinstance(reply, hiredis.ReplyError):
        text = str(reply)
        if text.startswith("ERR Can't execute"):
            return "refused to a subscriber"
        return None if text.startswith("ERR tensor key is empty") else text
    if isinstance(reply, list):
        if len(reply) == 3 and isinstance(reply[0], bytes) and reply[0].endswith(b"unsubscribe"):
            return (type(reply).__name__, reply[0], reply[2])  # from several names, in an order of Redis's own
        items = [_plain(item) for item in reply]
        if b"id" in items:
            items[items.index(b"id") + 1] = "of the connection"  # HELLO
        return f"T{items[0]}".encode() if len(items) == 1 and type(items[0]) is int else (type(reply).__name__, items)
    if isinstance(reply, dict):
        return {key: value for key, value in reply.items() if key != b"id"}
    return reply


def _ask(port: int, pieces: list[bytes]) -> list[Any]:
    """The replies up to the last."""
    replies: list[Any] = []
    with Wire(port) as client:
        client.socket.settimeout(10)
        sender = threading.Thread(target=lambda: [client.socket.sendall(piece) for piece in pieces])
        sender.start()
        try:
            while _END not in replies:
                replies.append(_plain(client.receive()))
        except TimeoutError:
            replies.append("no reply")
        sender.join()
    return replies


def _cut(rng: random.Random, data: bytes) -> list[bytes]:
    if len(data) < 1000 and rng.random() < 0.1:
        return [data[at : at + 1] for at in range(len(data))]
    edges = [0, *sorted(rng.sample(range(1, len(data)), rng.choice((0, 1, 5, 20)))), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


@pytest.mark.filterwarnings("error")
def test_every_reply_is_that_of_redis(front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis) -> None:
    bare.acl_setuser("alice", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all"])
    seed = 0
    duration = Duration(_SECONDS, lambda: seed > _ENOUGH)
    while not duration.is_over:
        rng = random.Random(seed := seed + 1)
        pairs = _Author(rng).write()
        if version_of(redis_server.binary).startswith("Redis 8."):
            # It forgets the reply to an AUTH that it refuses, if other commands are before it in a pipeline.
            pairs = [pair for pair in pairs if "nobody" not in pair[1]]
        ours, theirs = (b"".join(hiredis.pack_command(pair[side]) for pair in pairs) for side in (0, 1))
        bare.flushall()
        expected = _ask(redis_server.port, [theirs])
        assert "no reply" not in expected
        bare.flushall()
        assert _ask(front_door.port, _cut(rng, ours)) == expected, f"seed {seed}: {pairs}"
    bare.acl_deluser("alice")
    assert seed > _ENOUGH
