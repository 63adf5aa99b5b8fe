"""Eager tasks: a handler's coroutine runs without an asyncio Task.

A small AI command takes a few microseconds of our own work and one or two waits for Redis; a Task would double that.
`run_eagerly` steps the coroutine immediately, is woken by the `Pending` (or asyncio future) that it awaits, and passes
the outcome to a callback. The coroutine must not ask for the current task (`asyncio.timeout`, `TaskGroup`): such
parts run in a task of their own and are awaited as a future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from redisai_py.pending import Pending
from redisai_py.upstream.containment import contain

__all__ = ["NO_REPLY", "run_eagerly"]

NO_REPLY = object()
"""The result of a handler that has already written its reply."""

Done = Callable[[Any, BaseException | None], object]


class _EagerTask:
    __slots__ = ("_coroutine", "_done")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], done: Done) -> None:
        self._coroutine = coroutine
        self._done = done

    def step(self, _: Any = None) -> None:
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as stop:
            self._end(stop.value, None)
            return
        except (Exception, asyncio.CancelledError) as error:  # the only place that catches a handler's failure
            self._end(None, error)
            return
        if isinstance(waiting, Pending):
            waiting.waiter = self.step
        elif waiting is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self.step)
        else:
            waiting._asyncio_future_blocking = False  # a Task's handshake with a future
            waiting.add_done_callback(self.step)

    def _end(self, value: Any, error: BaseException | None) -> None:
        try:
            self._done(value, error)
        except Exception as failure:  # it must not reach the caller that woke the coroutine: a stream of many clients
            contain(self._done, failure)


def run_eagerly(coroutine: Coroutine[Any, Any, Any], done: Done) -> None:
    """Run `coroutine` immediately, as far as possible, and call `done(value, error)` exactly once."""
    _EagerTask(coroutine, done).step()
