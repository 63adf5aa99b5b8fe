"""The asyncio client: the blocking client's methods as coroutines. `calls` describes every call.

After a lost connection, a call is repeated only if it is repeatable. Connecting is always retried, with redis-py's
`retry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.client import Pipeline as RedisPipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

from redisai_py import errors
from redisai_py.client import cache_calls, calls
from redisai_py.client.call import Call, warn_deprecated
from redisai_py.client.failures import failure_of, failures_among, from_error
from redisai_py.client.graph import DagBuilder
from redisai_py.client.methods import Extension, QueuedCalls, sends_later
from redisai_py.client.wire import debug_words, flag, pack, reported

__all__ = ["AsyncClient", "AsyncDag", "AsyncPipeline"]

C = TypeVar("C", bound="AsyncClient")
T = TypeVar("T")


_POOL_TIMEOUT_S = 20.0


def _waiting(pool: redis.asyncio.ConnectionPool, timeout_s: float | None) -> redis.asyncio.ConnectionPool:
    """A pool like this unused one, whose callers wait for a free connection instead of failing."""
    return redis.asyncio.BlockingConnectionPool(
        pool.max_connections, timeout_s, pool.connection_class, **pool.connection_kwargs
    )


class AsyncDag(DagBuilder):
    """A DAG that can be executed repeatedly; made by `AsyncClient.dag`."""

    async def execute(self) -> Any:
        """Run all operations. Returns: a list with one element per operation, errors as exceptions; or 'TIMEDOUT'.

        Raises: redis.ResponseError: the whole command was refused.   Conflict: see `ifunchanged`.
        """
        return failures_among(await self.executor(self.call()))

    async def run(self) -> Any:
        """Run all operations; deprecated, use `execute`."""
        warn_deprecated("run", "execute", stacklevel=3)
        return await self.execute()


class AsyncPipeline(QueuedCalls, RedisPipeline):  # type: ignore[misc]  # two bases of redis-py's own disagree
    """redis-py's pipeline with tensors and runs; see `QueuedCalls`."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands: one result per command, in order. Raises: the first error, if `raise_on_error`."""
        decoders = self._decoders
        if not self._repeatable:
            self._send_once(self.connection or await self.connection_pool.get_connection(), Retry(NoBackoff(), 0))
        return self._decode_all(await super().execute(raise_on_error), decoders)

    async def reset(self) -> None:  # type: ignore[override]  # redis-py's own Pipeline differs from Redis here
        """Drop the queued commands, and release the connection."""
        self._restore_retry()
        base: Any = super()
        await base.reset()
        self._forget()

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As redis-py's, but does not decode tensors in a transaction's reply as text."""
        base: Any = super()
        if not self._is_taken_apart(connection, command_name):
            return await base.parse_response(connection, command_name, **options)
        reply = await base.parse_response(connection, command_name, **{NEVER_DECODE: True})
        return self._take_apart(reply, connection.encoder)


class AsyncClient(Extension[AsyncDag], redis.asyncio.Redis):  # type: ignore[misc]  # as above
    """`Client` for asyncio, based on redis-py's asyncio client: the same arguments, and the same methods as coroutines.

    debug: print every command before it is sent.   enable_postprocess: False returns replies as redis-py parses them.
    direct: a Redis (URL, or an asyncio redis-py client) from and to which tensors are read and written without the
            server, as safetensors strings. Such a write replaces any value of the key.
    pool_timeout: seconds a call waits for a connection while all `max_connections` (by default 100) are in use, None to
            wait forever; then it raises redis.ConnectionError. A given `connection_pool` has its own rules.
    All other arguments are redis-py's, as keywords. `socket_timeout` defaults to None, since a run may take long.
    """

    _dag = AsyncDag
    _redis = redis.asyncio.Redis

    def __init__(
        self,
        debug: bool = False,
        enable_postprocess: bool = True,
        *args: Any,
        direct: redis.asyncio.Redis | str | None = None,
        pool_timeout: float | None = _POOL_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        flag("debug", debug)  # checked first: a host passed by position would end up here
        if args:
            raise TypeError(f"AsyncClient takes what is redis-py's by keyword, as host='localhost', not {args[0]!r}")
        if kwargs.get("connection_pool") is None:
            kwargs.setdefault("socket_timeout", None)
        super().__init__(**kwargs)
        if kwargs.get("connection_pool") is None:
            self.connection_pool = _waiting(self.connection_pool, pool_timeout)
        self._set_up(debug, enable_postprocess, direct)

    @classmethod
    def from_url(
        cls: type[C],
        url: str,
        single_connection_client: bool = False,
        auto_close_connection_pool: bool | None = None,
        *,
        debug: bool = False,
        enable_postprocess: bool = True,
        direct: redis.asyncio.Redis | str | None = None,
        pool_timeout: float | None = _POOL_TIMEOUT_S,
        **kwargs: Any,
    ) -> C:
        """A client for `redis://`, `rediss://` (TLS) or `unix://`; see `redis.asyncio.Redis.from_url`."""
        kwargs.setdefault("socket_timeout", None)
        client = super().from_url(url, single_connection_client, auto_close_connection_pool, **kwargs)
        assert isinstance(client, cls)
        client.connection_pool = _waiting(client.connection_pool, pool_timeout)
        client._set_up(debug, enable_postprocess, direct)
        return client

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections."""
        await super().aclose(close_connection_pool)
        if self._owns_direct and self._direct is not None:
            await self._direct.aclose()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, after printing it if `debug`."""
        if self.debug:
            print(*args)
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _call(self, call: Call[T]) -> T:
        return await self._run(call, self.enable_postprocess)

    async def _run(self, call: Call[T], postprocess: bool = True) -> T:
        if self.debug:
            print(*debug_words(call))
        try:
            reply = await self._send(call, postprocess)
            return call.decode(reply) if postprocess else reply
        except ResponseError as error:
            raise failure_of(error) from None
        except errors.RedisAIError as error:
            raise from_error(error) from None

    async def _send(self, call: Call[Any], undecoded: bool) -> Any:
        client: Any = self._direct if call.direct and self._direct is not None else self
        await client.initialize()
        single = client.connection
        connection = single or await client.connection_pool.get_connection()
        try:
            async with client._single_conn_lock if single else nullcontext():
                if not call.repeatable:
                    return await _exchange(connection, call, undecoded)
                return await connection.retry.call_with_retry(
                    lambda: _exchange(connection, call, undecoded), lambda error: connection.disconnect()
                )
        finally:
            if not single:
                await client.connection_pool.release(connection)

    # -- calls ---------------------------------------------------------------------------------------------------------

    tensorset = sends_later(calls.tensorset)
    tensorget = sends_later(calls.tensorget)

    modelstore = sends_later(calls.modelstore)
    modelset = sends_later(calls.modelset)
    modelget = sends_later(calls.modelget)
    modeldel = sends_later(calls.modeldel)
    modelexecute = sends_later(calls.modelexecute)
    modelrun = sends_later(calls.modelrun)
    modelscan = sends_later(calls.modelscan)

    scriptstore = sends_later(calls.scriptstore)
    scriptset = sends_later(calls.scriptset)
    scriptget = sends_later(calls.scriptget)
    scriptdel = sends_later(calls.scriptdel)
    scriptexecute = sends_later(calls.scriptexecute)
    scriptrun = sends_later(calls.scriptrun)
    scriptscan = sends_later(calls.scriptscan)

    cacheset = sends_later(cache_calls.cacheset)
    cacheget = sends_later(cache_calls.cacheget)
    cachedel = sends_later(cache_calls.cachedel)
    cachepurge = sends_later(cache_calls.cachepurge)
    cachestats = sends_later(cache_calls.cachestats)
    cachewarm = sends_later(cache_calls.cachewarm)

    infoget = sends_later(calls.infoget)
    inforeset = sends_later(calls.inforeset)
    config = sends_later(calls.config)
    loadbackend = sends_later(calls.loadbackend)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> AsyncPipeline:
        """redis-py's pipeline, with methods for tensors and runs."""
        return AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


# asyncio joins all buffers it is given, and copies what the socket does not accept. So larger data goes in pieces.
_JOINED = 4 * 1024 * 1024


async def _exchange(connection: Any, call: Call[Any], undecoded: bool) -> Any:
    segments = pack(call, connection.encoder)
    if call.progress is None and sum(map(len, segments)) < _JOINED:
        await connection.send_packed_command(segments)
    else:
        await _send_pieces(connection, reported(segments, call.progress or _nobody))
    return await connection.read_response(disable_decoding=undecoded)


def _nobody(sent: int, total: int) -> None:
    """The default progress callback."""


async def _send_pieces(connection: Any, pieces: Iterable[bytes | memoryview]) -> None:
    """Send one command in pieces. If it fails between two pieces, or in `progress`, the connection is closed."""
    check_health = True
    try:
        for piece in pieces:
            # redis-py checks health with a PING; after the first piece it would become part of the command.
            await connection.send_packed_command([piece], check_health=check_health)
            check_health = False
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
