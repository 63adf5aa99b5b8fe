"""Shared by both clients and both pipelines: methods that send the calls of `calls`, options, builders.

The classes that mix these in move the bytes: `_call` sends a call, and so does `_run`, regardless of the options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from redis.client import NEVER_DECODE
from redis.exceptions import ResponseError

from redisai_py.client import calls, direct
from redisai_py.client.call import Call, Key, Keys
from redisai_py.client.failures import failure_of
from redisai_py.client.graph import DagBuilder
from redisai_py.client.wire import decode_strings, flag

__all__ = ["Extension", "QueuedCalls", "sends", "sends_later"]

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound=DagBuilder)
M = TypeVar("M", bound=Callable[..., Any])
Q = TypeVar("Q", bound="QueuedCalls")


_DIRECT: dict[Any, Callable[..., Call[Any]]] = {
    calls.tensorset: direct.tensorset,
    calls.tensorget: direct.tensorget,
}
"""What a client with a direct connection sends instead, from the same arguments."""


def sends(describe: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method of the blocking client that sends a call; it has the call's arguments and docstring."""

    @functools.wraps(describe)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        make = _DIRECT.get(describe, describe) if self._direct else describe
        result: T = self._call(make(*args, **kwargs))
        return result

    return _shown(method, describe)


def sends_later(describe: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """The same for the asyncio client."""

    @functools.wraps(describe)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        make = _DIRECT.get(describe, describe) if self._direct else describe
        result: T = await self._call(make(*args, **kwargs))
        return result

    return _shown(method, describe)


def queues(describe: Callable[P, Call[Any]], decoded: bool = True) -> Callable[Concatenate[Q, P], Q]:
    """A method of both pipelines that queues a call and returns the pipeline.   decoded: False keeps the reply as it
    is.
    """

    @functools.wraps(describe)
    def method(self: Q, /, *args: P.args, **kwargs: P.kwargs) -> Q:
        call = describe(*args, **kwargs)
        return self._queue(call, call.decode if decoded else _as_it_is)

    method.__doc__ = f"Queue the call; its result is in that of `execute`.\n\n{describe.__doc__}"
    return _shown(method, describe, "Self")


def _as_it_is(reply: Any) -> Any:
    return reply


def _shown(method: M, describe: Callable[..., Any], result: str | None = None) -> M:
    """Give the method the signature of the call, for `help` and editors. result: type, by default that of the call."""
    described = inspect.signature(describe)
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *described.parameters.values()]
    result = result or str(described.return_annotation).removeprefix("Call[").removesuffix("]")
    method.__signature__ = described.replace(parameters=parameters, return_annotation=result)  # type: ignore[attr-defined]
    return method


class Extension(Generic[D]):
    """What both clients add to redis-py's. D: the builder class of `dag`."""

    _dag: type[D]
    _redis: type[Any]
    """The redis-py class that `direct` may have."""
    connection_pool: Any
    _call: Any
    _run: Any

    def _set_up(self, debug: bool, enable_postprocess: bool, direct: Any) -> None:
        self.debug = flag("debug", debug)
        self.enable_postprocess = flag("enable_postprocess", enable_postprocess)
        kind = self._redis
        if direct is not None and not isinstance(direct, (str, kind)):
            name = f"{kind.__module__}.{kind.__name__}".replace(".client", "")
            raise TypeError(f"direct must be a URL or a {name}, not {type(direct)}")
        self._direct = kind.from_url(direct) if isinstance(direct, str) else direct
        self._owns_direct = isinstance(direct, str)

    def client(self) -> Self:
        """A client like this one, with a single connection."""
        kind: Any = type(self)
        alike: Self = kind(
            self.debug,
            self.enable_postprocess,
            direct=self._direct,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )
        return alike

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
    ) -> D:
        """A builder for one command with many operations; see `DagBuilder` and its `execute`."""
        return self._dag(load, persist, routing, timeout, self._run, readonly, ex, keepttl, ifunchanged)


class QueuedCalls:
    """What both pipelines add to redis-py's. `tensorset` returns bytes, as in the `redisai` package.

    Methods return the pipeline, for chaining. As in redis-py, between `watch` and `multi` they return the result. Runs
    are for pipelines without a transaction; the server refuses them inside one.
    """

    connection: Any
    connection_pool: Any
    command_stack: list[Any]
    execute_command: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decoders: dict[int, Callable[[Any], Any]] = {}
        self._repeatable = True
        self._retry: Any = None

    tensorset = queues(calls.tensorset, decoded=False)
    tensorget = queues(calls.tensorget)
    modelexecute = queues(calls.modelexecute)
    scriptexecute = queues(calls.scriptexecute)
    modelrun = queues(calls.modelrun)
    scriptrun = queues(calls.scriptrun)

    def _queue(self, call: Call[Any], decode: Callable[[Any], Any]) -> Self:
        answer = self.execute_command(*call.argv, **{NEVER_DECODE: True})
        if answer is not self:  # between WATCH and MULTI, commands are executed immediately
            at_once: Any = _decoded(answer, decode) if inspect.isawaitable(answer) else decode(answer)
            return cast(Self, at_once)
        self._decoders[len(self.command_stack) - 1] = decode
        self._repeatable = self._repeatable and call.repeatable
        return self

    def _decode_all(self, results: list[Any], decoders: dict[int, Callable[[Any], Any]]) -> list[Any]:
        for index, decode in decoders.items():
            result = results[index]
            results[index] = failure_of(result) if isinstance(result, ResponseError) else decode(result)
        return results

    def _send_once(self, connection: Any, retry: Any) -> None:
        """Make this connection send the pipeline only once; `_forget` undoes that before the connection is released.

        retry: a policy without retries.
        """
        self.connection = connection
        self._retry = connection.retry
        connection.retry = retry

    def _restore_retry(self) -> None:
        if self.connection is not None and self._retry is not None:
            self.connection.retry = self._retry
        self._retry = None

    def _forget(self) -> None:
        self._decoders = {}
        self._repeatable = True

    def _is_taken_apart(self, connection: Any, command_name: Any) -> bool:
        """Whether a transaction's reply contains tensors and must be decoded selectively, so it is read undecoded."""
        return command_name == "_" and bool(self._decoders) and connection.encoder.decode_responses

    def _take_apart(self, reply: Any, encoder: Any) -> Any:
        """A transaction's reply, with all strings decoded except tensors."""
        if not isinstance(reply, list):
            return decode_strings(reply, encoder)
        return [item if at in self._decoders else decode_strings(item, encoder) for at, item in enumerate(reply)]


async def _decoded(reply: Awaitable[Any], decode: Callable[[Any], Any]) -> Any:
    return decode(await reply)
