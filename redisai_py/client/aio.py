"""The asyncio client: the same methods as of the blocking one, as coroutines. Every call is described in `calls`.

A call is sent again after a lost connection only if it is repeatable; connecting is always tried again, as redis-py is
told to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Self, TypeVar, cast, overload

import redis.asyncio
from numpy.typing import NDArray
from redis.asyncio.client import Pipeline as RedisPipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

from redisai_py import errors
from redisai_py.client import calls, direct
from redisai_py.client.calls import Call, Key, Keys, Progress
from redisai_py.client.failures import failure_of, failures_among, from_error
from redisai_py.client.files import ModelData, open_model
from redisai_py.client.graph import DagBuilder
from redisai_py.client.wire import ProgressReport, debug_words, decode_strings, flag, pack

__all__ = ["AsyncClient", "AsyncDag", "AsyncPipeline"]

C = TypeVar("C", bound="AsyncClient")
T = TypeVar("T")


_POOL_TIMEOUT_S = 20.0


def _waiting(pool: redis.asyncio.ConnectionPool, timeout_s: float | None) -> redis.asyncio.ConnectionPool:
    """A pool like this unused one, in which a call waits for a connection instead of failing when all are in use."""
    return redis.asyncio.BlockingConnectionPool(
        pool.max_connections, timeout_s, pool.connection_class, **pool.connection_kwargs
    )


class AsyncClient(redis.asyncio.Redis):
    """`Client` for asyncio, on redis-py's own asyncio client: the same arguments and methods, to be awaited.

    debug: print every command before it is sent.   enable_postprocess: False gives replies as redis-py reads them.
    direct: a Redis (URL, or an asyncio client of redis-py) that tensors are read from and written to without the
            sidecar, as safetensors strings. Such a write replaces whatever the key held.
    pool_timeout: seconds that a call waits for a connection while all `max_connections` (100 unless given) are in use,
            None for as long as it takes; then it raises redis.ConnectionError. A `connection_pool` has its own.
    Everything else is redis-py's, as keywords. `socket_timeout` is None unless given, since a run may take long.
    """

    def __init__(
        self,
        debug: bool = False,
        enable_postprocess: bool = True,
        *args: Any,
        direct: redis.asyncio.Redis | str | None = None,
        pool_timeout: float | None = _POOL_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        flag("debug", debug)  # before what is made of the arguments behind it
        if args:
            raise TypeError(f"AsyncClient takes what is redis-py's by keyword, as host='localhost', not {args[0]!r}")
        if kwargs.get("connection_pool") is None:
            kwargs.setdefault("socket_timeout", None)
        super().__init__(**kwargs)
        if kwargs.get("connection_pool") is None:
            self.connection_pool = _waiting(self.connection_pool, pool_timeout)
        self._set_up(debug, enable_postprocess, direct)

    def _set_up(self, debug: bool, enable_postprocess: bool, direct: Any) -> None:
        self.debug = flag("debug", debug)
        self.enable_postprocess = flag("enable_postprocess", enable_postprocess)
        if direct is not None and not isinstance(direct, (str, redis.asyncio.Redis)):
            raise TypeError(f"direct must be a URL or a redis.asyncio.Redis, not {type(direct)}")
        self._direct = redis.asyncio.Redis.from_url(direct) if isinstance(direct, str) else direct
        self._owns_direct = isinstance(direct, str)

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
        """A client for `redis://`, `rediss://` (TLS) or `unix://`, as of `redis.asyncio.Redis.from_url`."""
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

    def client(self) -> Self:
        """A client like this one that keeps to a single connection."""
        return type(self)(
            self.debug,
            self.enable_postprocess,
            direct=self._direct,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; printed first if `debug`."""
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

    # -- tensors -------------------------------------------------------------------------------------------------------

    async def tensorset(self, key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> str:
        """Store a tensor.

        Args:    tensor: a numpy array, torch tensor, or anything with `__array__` or `__dlpack__`; or a list or tuple.
                 shape, dtype: of a list; without a shape it is the list's.
        Returns: 'OK'.
        Raises:  TypeError: no tensor can be made of it.   WrongType: the key holds something else.
        Copies:  none of a C-contiguous array's data.
        """
        call: Call[str] = (direct if self._direct else calls).tensorset(key, tensor, shape, dtype)
        return await self._call(call)

    @overload
    async def tensorget(
        self,
        key: Key,
        as_numpy: Literal[True] = True,
        as_numpy_mutable: bool = False,
        meta_only: Literal[False] = False,
    ) -> NDArray[Any]: ...

    @overload
    async def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, *, meta_only: Literal[True]
    ) -> dict[str, Any]: ...

    @overload
    async def tensorget(
        self, key: Key, as_numpy: Literal[False], as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> dict[str, Any]: ...

    @overload
    async def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> NDArray[Any] | dict[str, Any]: ...

    async def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> NDArray[Any] | dict[str, Any]:
        """Read a tensor.

        Returns: a read-only array that shares memory with the reply; a writable one if `as_numpy_mutable`; a dict with
                 `dtype` and `shape` if `meta_only`, and `values`, a flat list, if not `as_numpy`.
        Raises:  MissingKey, WrongType.
        """
        tensors = direct if self._direct else calls
        call: Call[NDArray[Any] | dict[str, Any]] = tensors.tensorget(key, as_numpy, as_numpy_mutable, meta_only)
        return await self._call(call)

    # -- models --------------------------------------------------------------------------------------------------------

    async def modelstore(
        self,
        key: Key,
        backend: str,
        device: str,
        data: ModelData,
        batch: int | None = None,
        minbatch: int | None = None,
        minbatchtimeout: int | None = None,
        tag: Key | None = None,
        inputs: Keys | None = None,
        outputs: Keys | None = None,
        progress: Progress | None = None,
        signature: str | None = None,
    ) -> str:
        """Store a model, given as bytes or as a path (`os.PathLike`).

        Args:    backend: TF, TFLITE, TORCH or ONNX.   device: CPU, GPU, CPU:n or GPU:n.
                 batch, minbatch: rows.   minbatchtimeout: ms.   inputs, outputs: node names, TF only.
                 signature: of a SavedModel (whose names may be left out; default: the one that has the names) or of a
                 TFLITE model (default: the main one).
                 progress: called with the bytes sent and the bytes in all, again and again.
        Returns: 'OK'.
        Raises:  ValueError: see `calls.modelstore`.   redis.ResponseError: the framework refused the model.
        """
        return await self._call(
            calls.modelstore(
                key,
                backend,
                device,
                open_model(data),
                batch,
                minbatch,
                minbatchtimeout,
                tag,
                inputs,
                outputs,
                progress,
                signature,
            )
        )

    async def modelset(
        self,
        key: Key,
        backend: str,
        device: str,
        data: ModelData,
        batch: int | None = None,
        minbatch: int | None = None,
        tag: Key | None = None,
        inputs: Keys | None = None,
        outputs: Keys | None = None,
    ) -> str:
        """Store a model; deprecated, use `modelstore`."""
        return await self._call(
            calls.modelset(key, backend, device, open_model(data), batch, minbatch, tag, inputs, outputs)
        )

    async def modelget(self, key: Key, meta_only: bool = False) -> dict[str, Any]:
        """Read a model: a dict, with its bytes as `blob` unless `meta_only`. Raises: MissingKey, WrongType."""
        return await self._call(calls.modelget(key, meta_only))

    async def modeldel(self, key: Key) -> str:
        """Delete a model. Raises: MissingKey, WrongType."""
        return await self._call(calls.modeldel(key))

    async def modelexecute(self, key: Key, inputs: Keys, outputs: Keys, timeout: int | None = None) -> str:
        """Run a model on stored tensors; `timeout` in ms bounds its time in the queue. Returns: 'OK' or 'TIMEDOUT'."""
        return await self._call(calls.modelexecute(key, inputs, outputs, timeout))

    async def modelrun(self, key: Key, inputs: Keys, outputs: Keys) -> str:
        """Run a model; deprecated, use `modelexecute`."""
        return await self._call(calls.modelrun(key, inputs, outputs))

    async def modelscan(self) -> list[list[str]]:
        """All models: a list of [key, tag]."""
        return await self._call(calls.modelscan())

    # -- scripts -------------------------------------------------------------------------------------------------------

    async def scriptstore(self, key: Key, device: str, script: str, entry_points: Keys, tag: Key | None = None) -> str:
        """Store a TorchScript source."""
        return await self._call(calls.scriptstore(key, device, script, entry_points, tag))

    async def scriptset(self, key: Key, device: str, script: str, tag: Key | None = None) -> str:
        """Store a TorchScript source; deprecated, use `scriptstore`."""
        return await self._call(calls.scriptset(key, device, script, tag))

    async def scriptget(self, key: Key, meta_only: bool = False) -> dict[str, Any]:
        """Read a script: a dict, with its `source` unless `meta_only`. Raises: MissingKey, WrongType."""
        return await self._call(calls.scriptget(key, meta_only))

    async def scriptdel(self, key: Key) -> str:
        """Delete a script. Raises: MissingKey, WrongType."""
        return await self._call(calls.scriptdel(key))

    async def scriptexecute(
        self,
        key: Key,
        function: str,
        keys: Keys | None = None,
        inputs: Keys | None = None,
        args: Any = None,
        outputs: Keys | None = None,
        timeout: int | None = None,
    ) -> str:
        """Run a function of a script; never sent twice. Returns: 'OK' or 'TIMEDOUT'."""
        return await self._call(calls.scriptexecute(key, function, keys, inputs, args, outputs, timeout))

    async def scriptrun(self, key: Key, function: str, inputs: Keys, outputs: Keys) -> str:
        """Run a function of a script; deprecated, use `scriptexecute`."""
        return await self._call(calls.scriptrun(key, function, inputs, outputs))

    async def scriptscan(self) -> list[list[str]]:
        """All scripts: a list of [key, tag]."""
        return await self._call(calls.scriptscan())

    # -- administration ------------------------------------------------------------------------------------------------

    async def infoget(self, key: Key, full: bool = False) -> dict[str, Any]:
        """Run statistics of a model or script: a dict. Raises: MissingKey.

        Args: full: with times, batches, and the model's inputs and outputs: name, element type and dimensions of each.
        """
        return await self._call(calls.infoget(key, full))

    async def inforeset(self, key: Key) -> str:
        """Set the run statistics of a model or script to zero. Raises: MissingKey."""
        return await self._call(calls.inforeset(key))

    async def config(self, name: str, value: str | int | None = None) -> str | int | None:
        """A setting's value (None if there is no such setting), or 'OK' if a value is given to set."""
        return await self._call(calls.config(name, value))

    async def loadbackend(self, identifier: Key, path: Key) -> str:
        """Load a framework now."""
        return await self._call(calls.loadbackend(identifier, path))

    # -- several commands ----------------------------------------------------------------------------------------------

    def dag(
        self,
        load: Keys | None = None,
        persist: Keys | None = None,
        routing: Key | None = None,
        timeout: int | None = None,
        readonly: bool = False,
        *,
        ex: int | None = None,
        keepttl: bool = False,
        ifunchanged: bool = False,
    ) -> AsyncDag:
        """A builder of one command with many operations; see `DagBuilder` and `AsyncDag.execute`."""
        return AsyncDag(load, persist, routing, timeout, self._run, readonly, ex, keepttl, ifunchanged)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> AsyncPipeline:
        """redis-py's pipeline, with the methods for tensors and runs."""
        return AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


# asyncio joins what it is given at once, and copies what the socket does not take: more goes piece by piece.
_JOINED = 4 * 1024 * 1024


async def _exchange(connection: Any, call: Call[Any], undecoded: bool) -> Any:
    segments = pack(call, connection.encoder)
    if call.progress is None and sum(map(len, segments)) < _JOINED:
        await connection.send_packed_command(segments)
    else:
        await _send_pieces(connection, ProgressReport(segments, call.progress or _nobody))
    return await connection.read_response(disable_decoding=undecoded)


def _nobody(sent: int, total: int) -> None:
    """Progress that nobody asked for."""


async def _send_pieces(connection: Any, pieces: Iterable[bytes | memoryview]) -> None:
    """Send one command piece by piece. A failure between two of them, as in `progress`, costs the connection."""
    check_health = True
    try:
        for piece in pieces:
            # redis-py checks with a PING of its own: after the first piece it would become part of the command.
            await connection.send_packed_command([piece], check_health=check_health)
            check_health = False
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


class AsyncDag(DagBuilder):
    """A DAG that can be executed, again and again; made by `AsyncClient.dag`."""

    def __init__(
        self,
        load: Keys | None,
        persist: Keys | None,
        routing: Key | None,
        timeout: int | None,
        executor: Callable[[Call[Any]], Awaitable[Any]],
        readonly: bool = False,
        ex: int | None = None,
        keepttl: bool = False,
        ifunchanged: bool = False,
    ) -> None:
        super().__init__(load, persist, routing, timeout, readonly, ex, keepttl, ifunchanged)
        self.executor = executor

    async def execute(self) -> Any:
        """Run all operations: a list with one element for each, errors among them as exceptions; or 'TIMEDOUT'.

        Raises: redis.ResponseError: the command as a whole was refused.   Conflict: see `ifunchanged`.
        """
        return failures_among(await self.executor(self.call()))

    async def run(self) -> Any:
        """Run all operations; deprecated, use `execute`."""
        calls.warn_deprecated("run", "execute", stacklevel=3)
        return await self.execute()


class AsyncPipeline(RedisPipeline):
    """redis-py's pipeline with tensors and runs. Results of `tensorset` stay bytes, as in the `redisai` package.

    Methods give the pipeline, to go on with; as in redis-py, between `watch` and `multi` they give the result at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decoders: dict[int, Callable[[Any], Any]] = {}
        self._repeatable = True
        self._retry: Any = None

    def tensorset(self, key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Self:
        """Queue AI.TENSORSET; arguments as of `AsyncClient.tensorset`."""
        return self._queue(calls.tensorset(key, tensor, shape, dtype), keep=True)

    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> Self:
        """Queue AI.TENSORGET; the result as of `AsyncClient.tensorget`."""
        return self._queue(calls.tensorget(key, as_numpy, as_numpy_mutable, meta_only))

    def modelexecute(self, key: Key, inputs: Keys, outputs: Keys, timeout: int | None = None) -> Self:
        """Queue AI.MODELEXECUTE, for pipelines without a transaction: inside one the server refuses it."""
        return self._queue(calls.modelexecute(key, inputs, outputs, timeout))

    def scriptexecute(
        self,
        key: Key,
        function: str,
        keys: Keys | None = None,
        inputs: Keys | None = None,
        args: Any = None,
        outputs: Keys | None = None,
        timeout: int | None = None,
    ) -> Self:
        """Queue AI.SCRIPTEXECUTE, for pipelines without a transaction: inside one the server refuses it."""
        return self._queue(calls.scriptexecute(key, function, keys, inputs, args, outputs, timeout))

    def modelrun(self, key: Key, inputs: Keys, outputs: Keys) -> Self:
        """Queue AI.MODELRUN; deprecated, use `modelexecute`."""
        return self._queue(calls.modelrun(key, inputs, outputs))

    def scriptrun(self, key: Key, function: str, inputs: Keys, outputs: Keys) -> Self:
        """Queue AI.SCRIPTRUN; deprecated, use `scriptexecute`."""
        return self._queue(calls.scriptrun(key, function, inputs, outputs))

    def _queue(self, call: Call[Any], keep: bool = False) -> Self:
        decode: Callable[[Any], Any] = (lambda reply: reply) if keep else call.decode
        queue: Any = self.execute_command
        answer = queue(*call.argv, **{NEVER_DECODE: True})
        if answer is not self:  # after WATCH and before MULTI commands are executed at once
            at_once: Any = _decoded(answer, decode)
            return cast(Self, at_once)
        self._decoders[len(self.command_stack) - 1] = decode
        self._repeatable = self._repeatable and call.repeatable
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was queued: one result per command, in order. Raises: the first error, unless told not to."""
        decoders = self._decoders
        if not self._repeatable:
            await self._hold_back_retries()
        base: Any = super()
        results: list[Any] = await base.execute(raise_on_error)
        for index, decode in decoders.items():
            result = results[index]
            results[index] = failure_of(result) if isinstance(result, ResponseError) else decode(result)
        return results

    async def _hold_back_retries(self) -> None:
        """Have the connection send this pipeline once, whatever happens; `reset` undoes it before giving it back."""
        pool: Any = self.connection_pool
        connection: Any = self.connection or await pool.get_connection()
        self.connection = connection
        self._retry = connection.retry
        connection.retry = Retry(NoBackoff(), 0)

    async def reset(self) -> None:  # type: ignore[override]  # redis-py's own Pipeline differs from Redis here
        """Forget what was queued, and give the connection back."""
        connection: Any = self.connection
        if connection is not None and self._retry is not None:
            connection.retry = self._retry
        self._retry = None
        base: Any = super()
        await base.reset()
        self._decoders = {}
        self._repeatable = True

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """redis-py's, except that tensors inside a transaction's reply are not decoded as text."""
        base: Any = super()
        encoder = connection.encoder
        if command_name != "_" or not self._decoders or not encoder.decode_responses:
            return await base.parse_response(connection, command_name, **options)
        reply = await base.parse_response(connection, command_name, **{NEVER_DECODE: True})
        if not isinstance(reply, list):
            return decode_strings(reply, encoder)
        return [item if at in self._decoders else decode_strings(item, encoder) for at, item in enumerate(reply)]


async def _decoded(reply: Awaitable[Any], decode: Callable[[Any], Any]) -> Any:
    return decode(await reply)
