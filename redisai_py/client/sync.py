"""The blocking client: redis-py's, with RedisAI's commands. `calls` describes every call; this module sends it.

After a lost connection, a call is repeated only if it is repeatable. Connecting is always retried, with redis-py's
`retry`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.client import Pipeline as RedisPipeline
from redis.exceptions import ResponseError
from redis.retry import Retry

from redisai_py import errors
from redisai_py.client import cache_calls, calls
from redisai_py.client.call import Call, warn_deprecated
from redisai_py.client.failures import failure_of, failures_among, from_error
from redisai_py.client.graph import DagBuilder
from redisai_py.client.methods import Extension, QueuedCalls, sends
from redisai_py.client.wire import debug_words, flag, pack, reported

__all__ = ["Client", "Dag", "Pipeline"]

C = TypeVar("C", bound="Client")
T = TypeVar("T")

_SOCKET_TIMEOUT = 5  # position of that argument in redis-py's signature


class Dag(DagBuilder):
    """A DAG that can be executed repeatedly; made by `Client.dag`."""

    def execute(self) -> Any:
        """Run all operations. Returns: a list with one element per operation, errors as exceptions; or 'TIMEDOUT'.

        Raises: redis.ResponseError: the whole command was refused.   Conflict: see `ifunchanged`.
        """
        return failures_among(self.executor(self.call()))

    def run(self) -> Any:
        """Run all operations; deprecated, use `execute`."""
        warn_deprecated("run", "execute", stacklevel=3)
        return self.execute()


class Pipeline(QueuedCalls, RedisPipeline):
    """redis-py's pipeline with tensors and runs; see `QueuedCalls`."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands: one result per command, in order. Raises: the first error, if `raise_on_error`."""
        decoders = self._decoders
        if not self._repeatable:
            self._send_once(self.connection or self.connection_pool.get_connection(), Retry(NoBackoff(), 0))
        return self._decode_all(super().execute(raise_on_error), decoders)

    def reset(self) -> None:  # type: ignore[override]  # redis-py's own Pipeline differs from Redis here
        """Drop the queued commands, and release the connection."""
        self._restore_retry()
        super().reset()
        self._forget()

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As redis-py's, but does not decode tensors in a transaction's reply as text."""
        base: Any = super()
        if not self._is_taken_apart(connection, command_name):
            return base.parse_response(connection, command_name, **options)
        reply = base.parse_response(connection, command_name, **{NEVER_DECODE: True})
        return self._take_apart(reply, connection.encoder)


class Client(Extension[Dag], redis.Redis):
    """A drop-in replacement for `redisai.Client`, on current redis-py, with all of redis-py's own methods.

    debug: print every command before it is sent.   enable_postprocess: False returns replies as redis-py parses them.
    direct: a Redis (URL, or a redis-py client such as a Sentinel's master) from and to which tensors are read and
            written without the server, as safetensors strings. Such a write replaces any value of the key.
    All other arguments are redis-py's: host, port, db, username, password, ssl..., connection_pool. `socket_timeout`
    defaults to None, since a run may take long.

    Source: the `redisai` package, version 1.3.
    """

    _dag = Dag
    _redis = redis.Redis

    def __init__(
        self,
        debug: bool = False,
        enable_postprocess: bool = True,
        *args: Any,
        direct: redis.Redis | str | None = None,
        **kwargs: Any,
    ) -> None:
        flag("debug", debug)  # checked first: a host passed by position would end up here
        if len(args) < _SOCKET_TIMEOUT and "connection_pool" not in kwargs:
            kwargs.setdefault("socket_timeout", None)
        super().__init__(*args, **kwargs)
        self._set_up(debug, enable_postprocess, direct)

    @classmethod
    def from_url(
        cls: type[C],
        url: str,
        *,
        debug: bool = False,
        enable_postprocess: bool = True,
        direct: redis.Redis | str | None = None,
        **kwargs: Any,
    ) -> C:
        """A client for `redis://`, `rediss://` (TLS) or `unix://`; see `redis.Redis.from_url`."""
        kwargs.setdefault("socket_timeout", None)
        client = super().from_url(url, **kwargs)
        assert isinstance(client, cls)
        client._set_up(debug, enable_postprocess, direct)
        return client

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Close the connections."""
        super().close()
        if self._owns_direct and self._direct is not None:
            self._direct.close()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, after printing it if `debug`."""
        if self.debug:
            print(*args)
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's

    # -- sending -------------------------------------------------------------------------------------------------------

    def _call(self, call: Call[T]) -> T:
        return self._run(call, self.enable_postprocess)

    def _run(self, call: Call[T], postprocess: bool = True) -> T:
        if self.debug:
            print(*debug_words(call))
        try:
            reply = self._send(call, postprocess)
            return call.decode(reply) if postprocess else reply
        except ResponseError as error:
            raise failure_of(error) from None
        except errors.RedisAIError as error:
            raise from_error(error) from None

    def _send(self, call: Call[Any], undecoded: bool) -> Any:
        client = self._direct if call.direct and self._direct is not None else self
        single: Any = client.connection
        connection: Any = single or client.connection_pool.get_connection()
        try:
            with client.single_connection_lock if single else nullcontext():
                if not call.repeatable:
                    return _exchange(connection, call, undecoded)
                return connection.retry.call_with_retry(
                    lambda: _exchange(connection, call, undecoded), lambda error: connection.disconnect()
                )
        finally:
            if not single:
                client.connection_pool.release(connection)

    # -- calls ---------------------------------------------------------------------------------------------------------

    tensorset = sends(calls.tensorset)
    tensorget = sends(calls.tensorget)

    modelstore = sends(calls.modelstore)
    modelset = sends(calls.modelset)
    modelget = sends(calls.modelget)
    modeldel = sends(calls.modeldel)
    modelexecute = sends(calls.modelexecute)
    modelrun = sends(calls.modelrun)
    modelscan = sends(calls.modelscan)

    scriptstore = sends(calls.scriptstore)
    scriptset = sends(calls.scriptset)
    scriptget = sends(calls.scriptget)
    scriptdel = sends(calls.scriptdel)
    scriptexecute = sends(calls.scriptexecute)
    scriptrun = sends(calls.scriptrun)
    scriptscan = sends(calls.scriptscan)

    cacheset = sends(cache_calls.cacheset)
    cacheget = sends(cache_calls.cacheget)
    cachedel = sends(cache_calls.cachedel)
    cachepurge = sends(cache_calls.cachepurge)
    cachestats = sends(cache_calls.cachestats)
    cachewarm = sends(cache_calls.cachewarm)

    infoget = sends(calls.infoget)
    inforeset = sends(calls.inforeset)
    config = sends(calls.config)
    loadbackend = sends(calls.loadbackend)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """redis-py's pipeline, with methods for tensors and runs."""
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def _exchange(connection: Any, call: Call[Any], undecoded: bool) -> Any:
    segments = pack(call, connection.encoder)
    connection.send_packed_command(segments if call.progress is None else reported(segments, call.progress))
    return connection.read_response(disable_decoding=undecoded)
