"""Predictions in Redis, for one identity: the Redis commands they need.

Entries are read and written with the client's own rights, always with an expiry. There is no list of them: they are
deleted by a scan of the database, or expire.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redisai_py.errors import MODEL_KEY_EMPTY, MissingKey, WrongType
from redisai_py.model import Kind
from redisai_py.predictions.circuit_breaker import CircuitBreaker
from redisai_py.predictions.rule import RULE_FIELD, Rule, decode_rule
from redisai_py.predictions.shared_inputs import LIFE_S, SharedInputs
from redisai_py.store.kinds import watch_kind
from redisai_py.store.link import Link, commit, last_reply
from redisai_py.tensor import Buffer, Tensor

__all__ = ["StoredPredictions"]

_SCAN_COUNT = 1000
_COUNTED = 4
"""A counter holds this many times the number of inputs that are warmed."""


class StoredPredictions:
    """The predictions that one identity may read and write. Thread: the event loop's."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.breaker = CircuitBreaker()
        self.inserting = 0
        """Number of inserts that Redis has not answered."""

    async def fetch(self, key: bytes, large: bool) -> tuple[Buffer | None, float]:
        """An entry and its remaining lifetime in seconds; None if there is none. Raises UpstreamError.

        Args: large: it is probably too large for the shared stream.
        """
        value, life_ms = await self._send(((b"GET", key), (b"PTTL", key)), large)
        return value, max(0, life_ms) / 1000

    async def _send(self, commands: Sequence[Sequence[Any]], large: bool) -> list[Any]:
        """The replies. large: send the commands on a connection of their own. Raises UpstreamError."""
        if large:
            async with self._link.dedicated() as connection:
                return [await reply for reply in [connection.call(*command) for command in commands]]
        return [await reply for reply in self._link.pipeline(commands)]

    async def fetch_many(self, keys: Sequence[bytes]) -> list[tuple[Buffer | None, float]]:
        """`fetch` of several, in one round trip."""
        values, *lives = self._link.pipeline([(b"MGET", *keys), *((b"PTTL", key) for key in keys)])
        found = await values
        return [(value, max(0, await life) / 1000) for value, life in zip(found, lives, strict=True)]

    async def which_exist(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys that exist. Raises UpstreamError."""
        found = self._link.pipeline([(b"EXISTS", key) for key in keys])
        return {key for key, pending in zip(keys, found, strict=True) if await pending}

    async def insert(
        self,
        items: Sequence[tuple[bytes, Sequence[Buffer], int]],
        counters: Mapping[bytes, tuple[int, int]],
        large: bool,
    ) -> list[int]:
        """Write entries: key, value in pieces, lifetime in seconds.

        Args:    counters: key -> (bytes to add, lifetime in seconds).
        Returns: the new values of the counters.   Raises: UpstreamError.
        """
        commands: list[Sequence[Any]] = []
        for key, pieces, life_s in items:
            value = tuple(pieces) if large else b"".join(pieces)
            commands.append((b"SET", key, value, b"EX", b"%d" % life_s))
        for counter, (size, life_s) in counters.items():
            commands += ((b"INCRBY", counter, b"%d" % size), (b"EXPIRE", counter, b"%d" % life_s))
        replies = await self._send(commands, large)
        return [int(total) for total in replies[len(items) :: 2]]

    async def totals(self, counters: Sequence[bytes]) -> list[int]:
        """The values of counters, 0 for missing ones. Raises UpstreamError."""
        (pending,) = self._link.pipeline([(b"MGET", *counters)])
        return [int(value) if value is not None and bytes(value).isdigit() else 0 for value in await pending]

    async def purge(self, pattern: bytes) -> int:
        """Delete all matching keys. Returns: their number. Raises UpstreamError. O(keys of the database), in steps."""
        cursor, count = b"0", 0
        while True:
            (page,) = self._link.pipeline([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN_COUNT)])
            cursor, keys = await page
            if keys:
                count += int(await last_reply(self._link.pipeline([(b"UNLINK", *keys)])))
            if cursor == b"0":
                return count

    async def share_inputs(
        self, shared: SharedInputs, news: Sequence[tuple[bytes, int, Sequence[Tensor] | None]], most: int
    ) -> None:
        """Add this server's counts to the counts of all servers. Raises UpstreamError.

        Args: news: see `Frequent.news`.   most: number of inputs to warm; a counter has at most four times as many.
        """
        counter = shared.counter(time.time())
        commands: list[Sequence[Any]] = []
        for digest, times, inputs in news:
            member = shared.member(digest)
            commands.append((b"ZINCRBY", counter, b"%d" % times, member))
            if inputs is not None:
                commands.append((b"SET", shared.key(member), shared.encode(member, inputs), b"EX", b"%d" % LIFE_S))
        commands.append((b"ZREMRANGEBYRANK", counter, b"0", b"%d" % (-_COUNTED * most - 1)))
        commands.append((b"EXPIRE", counter, b"%d" % LIFE_S))
        await self._send(commands, large=True)

    async def most_frequent(self, shared: SharedInputs, count: int) -> list[bytes]:
        """Members of the counters, most frequent first: up to four times `count`, as some inputs may have expired.
        Raises UpstreamError.
        """
        last = b"%d" % (_COUNTED * count - 1)
        commands = [(b"ZREVRANGE", counter, b"0", last, b"WITHSCORES") for counter in shared.counters(time.time())]
        replies = await self._send(commands, large=False)
        return shared.most_frequent(replies, _COUNTED * count)

    async def shared_inputs(self, shared: SharedInputs, members: Sequence[bytes], each: int) -> list[list[Tensor]]:
        """The inputs of those members whose inputs still exist. each: inputs per run. Raises UpstreamError."""
        async with self._link.dedicated() as connection:
            values = await connection.call(b"MGET", *map(shared.key, members))
        found = []
        for member, value in zip(members, values, strict=True):
            with suppress(WrongType):
                if value is not None:
                    found.append(shared.decode(member, value, each))
        return found

    async def set_rule(self, key: bytes, value: bytes | None) -> bool:
        """Set or remove the rule in a model's hash. Returns: whether there was one before.

        Raises: MissingKey: no model at the key.   WrongType, UpstreamError.
        """
        command = (b"HDEL", key, RULE_FIELD) if value is None else (b"HSET", key, RULE_FIELD, value)
        async with self._link.dedicated() as connection:
            while True:
                await watch_kind(connection, key, Kind.MODEL)
                kind, before = await connection.call(b"HMGET", key, b"kind", RULE_FIELD)
                done = await commit(connection, [command] if kind is not None else [])
                if kind is None:
                    raise MissingKey(MODEL_KEY_EMPTY)
                if done is not None:
                    return before is not None

    async def rule(self, key: bytes) -> Rule | None:
        """The rule in a hash, whatever else the hash holds. Raises UpstreamError."""
        (pending,) = self._link.pipeline([(b"HGET", key, RULE_FIELD)])
        return decode_rule(await pending)
