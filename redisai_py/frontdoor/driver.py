"""Runs a handler's coroutine without an asyncio Task.

A small AI command is over in a few microseconds of our own work and one or two waits on Redis; a Task around it
would cost as much again. `drive` steps the coroutine at once, is woken by the `Pending` (or asyncio future) it
awaits, and hands the outcome to a callback. What it runs must not ask for the current task (`asyncio.timeout`,
`TaskGroup`): such parts become a task of their own and are awaited as a future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from redisai_py.pending import Pending
from redisai_py.upstream.containment import contain

__all__ = ["NO_REPLY", "drive"]

NO_REPLY = object()
"""What a handler gives that has already written its reply."""

Done = Callable[[Any, BaseException | None], object]


class _Drive:
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
        except (Exception, asyncio.CancelledError) as error:  # the one place where a handler's failure is caught
            self._end(None, error)
            return
        if isinstance(waiting, Pending):
            waiting.waiter = self.step
        elif waiting is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self.step)
        else:
            waiting._asyncio_future_blocking = False  # the handshake that a Task does with a future
            waiting.add_done_callback(self.step)

    def _end(self, value: Any, error: BaseException | None) -> None:
        try:
            self._done(value, error)
        except Exception as failure:  # it must not reach whoever woke the coroutine: a stream of many clients
            contain(self._done, failure)


def drive(coroutine: Coroutine[Any, Any, Any], done: Done) -> None:
    """Run `coroutine`, at once as far as it goes, and call `done(value, error)` exactly once."""
    _Drive(coroutine, done).step()
