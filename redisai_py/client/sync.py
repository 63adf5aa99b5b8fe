"""The blocking client: redis-py's, with RedisAI's commands. Every call is described in `calls`; here it is only sent.

A call is sent again after a lost connection only if it is repeatable; connecting is always tried again, as redis-py is
told to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Self, TypeVar, overload

import redis
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.client import Pipeline as RedisPipeline
from redis.exceptions import ResponseError
from redis.retry import Retry

from redisai_py import errors
from redisai_py.client import calls, direct
from redisai_py.client.calls import Call, Key, Keys, Progress
from redisai_py.client.failures import failure_of, failures_among, from_error
from redisai_py.client.files import ModelData, open_model
from redisai_py.client.graph import DagBuilder
from redisai_py.client.wire import ProgressReport, debug_words, decode_strings, flag, pack

__all__ = ["Client", "Dag", "Pipeline"]

C = TypeVar("C", bound="Client")
T = TypeVar("T")

_SOCKET_TIMEOUT = 5  # position of that argument among redis-py's own


class Client(redis.Redis):
    """A drop-in for `redisai.Client`, on current redis-py; all of redis-py's own methods are there too.

    debug: print every command before it is sent.   enable_postprocess: False gives replies as redis-py reads them.
    direct: a Redis (URL, or a client of redis-py, for example of a Sentinel's master) that tensors are read from and
            written to without the sidecar, as safetensors strings. Such a write replaces whatever the key held.
    Everything else is redis-py's: host, port, db, username, password, ssl..., connection_pool. `socket_timeout` is None
    unless given, since a run may take long.

    Source: the `redisai` package, version 1.3.
    """

    def __init__(
        self,
        debug: bool = False,
        enable_postprocess: bool = True,
        *args: Any,
        direct: redis.Redis | str | None = None,
        **kwargs: Any,
    ) -> None:
        flag("debug", debug)  # before what is made of the arguments behind it
        if len(args) < _SOCKET_TIMEOUT and "connection_pool" not in kwargs:
            kwargs.setdefault("socket_timeout", None)
        super().__init__(*args, **kwargs)
        self._set_up(debug, enable_postprocess, direct)

    def _set_up(self, debug: bool, enable_postprocess: bool, direct: Any) -> None:
        self.debug = flag("debug", debug)
        self.enable_postprocess = flag("enable_postprocess", enable_postprocess)
        if direct is not None and not isinstance(direct, (str, redis.Redis)):
            raise TypeError(f"direct must be a URL or a redis.Redis, not {type(direct)}")
        self._direct = redis.Redis.from_url(direct) if isinstance(direct, str) else direct
        self._owns_direct = isinstance(direct, str)

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
        """A client for `redis://`, `rediss://` (TLS) or `unix://`, as of `redis.Redis.from_url`."""
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

    def client(self) -> Self:
        """A client like this one that keeps to a single connection."""
        return type(self)(
            self.debug,
            self.enable_postprocess,
            direct=self._direct,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; printed first if `debug`."""
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

    # -- tensors -------------------------------------------------------------------------------------------------------

    def tensorset(self, key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> str:
        """Store a tensor.

        Args:    tensor: a numpy array, torch tensor, or anything with `__array__` or `__dlpack__`; or a list or tuple.
                 shape, dtype: of a list; without a shape it is the list's.
        Returns: 'OK'.
        Raises:  TypeError: no tensor can be made of it.   WrongType: the key holds something else.
        Copies:  none of a C-contiguous array's data.
        """
        call: Call[str] = (direct if self._direct else calls).tensorset(key, tensor, shape, dtype)
        return self._call(call)

    @overload
    def tensorget(
        self,
        key: Key,
        as_numpy: Literal[True] = True,
        as_numpy_mutable: bool = False,
        meta_only: Literal[False] = False,
    ) -> NDArray[Any]: ...

    @overload
    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, *, meta_only: Literal[True]
    ) -> dict[str, Any]: ...

    @overload
    def tensorget(
        self, key: Key, as_numpy: Literal[False], as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> dict[str, Any]: ...

    @overload
    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> NDArray[Any] | dict[str, Any]: ...

    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> NDArray[Any] | dict[str, Any]:
        """Read a tensor.

        Returns: a read-only array that shares memory with the reply; a writable one if `as_numpy_mutable`; a dict with
                 `dtype` and `shape` if `meta_only`, and `values`, a flat list, if not `as_numpy`.
        Raises:  MissingKey, WrongType.
        """
        tensors = direct if self._direct else calls
        call: Call[NDArray[Any] | dict[str, Any]] = tensors.tensorget(key, as_numpy, as_numpy_mutable, meta_only)
        return self._call(call)

    # -- models --------------------------------------------------------------------------------------------------------

    def modelstore(
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
        return self._call(
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

    def modelset(
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
        return self._call(calls.modelset(key, backend, device, open_model(data), batch, minbatch, tag, inputs, outputs))

    def modelget(self, key: Key, meta_only: bool = False) -> dict[str, Any]:
        """Read a model: a dict, with its bytes as `blob` unless `meta_only`. Raises: MissingKey, WrongType."""
        return self._call(calls.modelget(key, meta_only))

    def modeldel(self, key: Key) -> str:
        """Delete a model. Raises: MissingKey, WrongType."""
        return self._call(calls.modeldel(key))

    def modelexecute(self, key: Key, inputs: Keys, outputs: Keys, timeout: int | None = None) -> str:
        """Run a model on stored tensors; `timeout` in ms bounds its time in the queue. Returns: 'OK' or 'TIMEDOUT'."""
        return self._call(calls.modelexecute(key, inputs, outputs, timeout))

    def modelrun(self, key: Key, inputs: Keys, outputs: Keys) -> str:
        """Run a model; deprecated, use `modelexecute`."""
        return self._call(calls.modelrun(key, inputs, outputs))

    def modelscan(self) -> list[list[str]]:
        """All models: a list of [key, tag]."""
        return self._call(calls.modelscan())

    # -- scripts -------------------------------------------------------------------------------------------------------

    def scriptstore(self, key: Key, device: str, script: str, entry_points: Keys, tag: Key | None = None) -> str:
        """Store a TorchScript source."""
        return self._call(calls.scriptstore(key, device, script, entry_points, tag))

    def scriptset(self, key: Key, device: str, script: str, tag: Key | None = None) -> str:
        """Store a TorchScript source; deprecated, use `scriptstore`."""
        return self._call(calls.scriptset(key, device, script, tag))

    def scriptget(self, key: Key, meta_only: bool = False) -> dict[str, Any]:
        """Read a script: a dict, with its `source` unless `meta_only`. Raises: MissingKey, WrongType."""
        return self._call(calls.scriptget(key, meta_only))

    def scriptdel(self, key: Key) -> str:
        """Delete a script. Raises: MissingKey, WrongType."""
        return self._call(calls.scriptdel(key))

    def scriptexecute(
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
        return self._call(calls.scriptexecute(key, function, keys, inputs, args, outputs, timeout))

    def scriptrun(self, key: Key, function: str, inputs: Keys, outputs: Keys) -> str:
        """Run a function of a script; deprecated, use `scriptexecute`."""
        return self._call(calls.scriptrun(key, function, inputs, outputs))

    def scriptscan(self) -> list[list[str]]:
        """All scripts: a list of [key, tag]."""
        return self._call(calls.scriptscan())

    # -- administration ------------------------------------------------------------------------------------------------

    def infoget(self, key: Key, full: bool = False) -> dict[str, Any]:
        """Run statistics of a model or script: a dict. Raises: MissingKey.

        Args: full: with times, batches, and the model's inputs and outputs: name, element type and dimensions of each.
        """
        return self._call(calls.infoget(key, full))

    def inforeset(self, key: Key) -> str:
        """Set the run statistics of a model or script to zero. Raises: MissingKey."""
        return self._call(calls.inforeset(key))

    def config(self, name: str, value: str | int | None = None) -> str | int | None:
        """A setting's value (None if there is no such setting), or 'OK' if a value is given to set."""
        return self._call(calls.config(name, value))

    def loadbackend(self, identifier: Key, path: Key) -> str:
        """Load a framework now."""
        return self._call(calls.loadbackend(identifier, path))

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
    ) -> Dag:
        """A builder of one command with many operations; see `DagBuilder` and `Dag.execute`."""
        return Dag(load, persist, routing, timeout, self._run, readonly, ex, keepttl, ifunchanged)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """redis-py's pipeline, with the methods for tensors and runs."""
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def _exchange(connection: Any, call: Call[Any], undecoded: bool) -> Any:
    segments = pack(call, connection.encoder)
    connection.send_packed_command(segments if call.progress is None else ProgressReport(segments, call.progress))
    return connection.read_response(disable_decoding=undecoded)


class Dag(DagBuilder):
    """A DAG that can be executed, again and again; made by `Client.dag`."""

    def __init__(
        self,
        load: Keys | None,
        persist: Keys | None,
        routing: Key | None,
        timeout: int | None,
        executor: Callable[[Call[Any]], Any],
        readonly: bool = False,
        ex: int | None = None,
        keepttl: bool = False,
        ifunchanged: bool = False,
    ) -> None:
        super().__init__(load, persist, routing, timeout, readonly, ex, keepttl, ifunchanged)
        self.executor = executor

    def execute(self) -> Any:
        """Run all operations: a list with one element for each, errors among them as exceptions; or 'TIMEDOUT'.

        Raises: redis.ResponseError: the command as a whole was refused.   Conflict: see `ifunchanged`.
        """
        return failures_among(self.executor(self.call()))

    def run(self) -> Any:
        """Run all operations; deprecated, use `execute`."""
        calls.warn_deprecated("run", "execute", stacklevel=3)
        return self.execute()


class Pipeline(RedisPipeline):
    """redis-py's pipeline with tensors and runs. Results of `tensorset` stay bytes, as in the `redisai` package.

    Methods give the pipeline, to go on with; as in redis-py, between `watch` and `multi` they give the result at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decoders: dict[int, Callable[[Any], Any]] = {}
        self._repeatable = True
        self._retry: Any = None

    def tensorset(self, key: Key, tensor: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> Self:
        """Queue AI.TENSORSET; arguments as of `Client.tensorset`."""
        return self._queue(calls.tensorset(key, tensor, shape, dtype), keep=True)

    def tensorget(
        self, key: Key, as_numpy: bool = True, as_numpy_mutable: bool = False, meta_only: bool = False
    ) -> Self:
        """Queue AI.TENSORGET; the result as of `Client.tensorget`."""
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
            at_once: Self = decode(answer)
            return at_once
        self._decoders[len(self.command_stack) - 1] = decode
        self._repeatable = self._repeatable and call.repeatable
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was queued: one result per command, in order. Raises: the first error, unless told not to."""
        decoders = self._decoders
        if not self._repeatable:
            self._hold_back_retries()
        base: Any = super()
        results: list[Any] = base.execute(raise_on_error)
        for index, decode in decoders.items():
            result = results[index]
            results[index] = failure_of(result) if isinstance(result, ResponseError) else decode(result)
        return results

    def _hold_back_retries(self) -> None:
        """Have the connection send this pipeline once, whatever happens; `reset` undoes it before giving it back."""
        connection: Any = self.connection or self.connection_pool.get_connection()
        self.connection = connection
        self._retry = connection.retry
        connection.retry = Retry(NoBackoff(), 0)

    def reset(self) -> None:  # type: ignore[override]  # redis-py's own Pipeline differs from Redis here
        """Forget what was queued, and give the connection back."""
        connection: Any = self.connection
        if connection is not None and self._retry is not None:
            connection.retry = self._retry
        self._retry = None
        super().reset()
        self._decoders = {}
        self._repeatable = True

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """redis-py's, except that tensors inside a transaction's reply are not decoded as text."""
        base: Any = super()
        encoder = connection.encoder
        if command_name != "_" or not self._decoders or not encoder.decode_responses:
            return base.parse_response(connection, command_name, **options)
        reply = base.parse_response(connection, command_name, **{NEVER_DECODE: True})
        if not isinstance(reply, list):
            return decode_strings(reply, encoder)
        return [item if at in self._decoders else decode_strings(item, encoder) for at, item in enumerate(reply)]
