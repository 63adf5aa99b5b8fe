"""A future result: the cheapest possible awaitable.

asyncio's Future schedules its callbacks, and a Task wraps each coroutine; both cost more than a small command's own
work. `Pending` calls its only waiter immediately, on the event loop's thread. It implements enough of the Future
protocol that an asyncio Task may await it too (then the wake-up goes through the loop, as a Task requires). It does no
I/O, and uses no loop until a Task awaits it.

Rule: call `resolve` and `fail`, and await, only on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from redisai_py.errors import RedisAIError

__all__ = ["Pending"]

T = TypeVar("T")


class Pending(Generic[T]):
    """One value or one error, awaited by at most one coroutine or callback."""

    __slots__ = ("_asyncio_future_blocking", "done", "error", "value", "waiter")

    def __init__(self) -> None:
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None
        self.waiter: Callable[[Pending[T]], object] | None = None
        self._asyncio_future_blocking = False

    def resolve(self, value: T) -> None:
        """Set the value; a second call, or one after `fail`, does nothing."""
        if not self.done:
            self.done = True
            self.value = value
            if self.waiter is not None:
                waiter, self.waiter = self.waiter, None  # it may refer to this object; leave no reference cycle
                waiter(self)

    def fail(self, error: BaseException) -> None:
        """Set an error instead of a value."""
        if not self.done:
            self.done = True
            self.error = error
            if self.waiter is not None:
                waiter, self.waiter = self.waiter, None  # it may refer to this object; leave no reference cycle
                waiter(self)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Set the error, if there is one, otherwise the value."""
        if error is None:
            self.resolve(value)
        else:
            self.fail(error)

    def result(self) -> T:
        """The value, or raise the error. Only if `done`."""
        if self.error is not None:
            raise _fresh(self.error)
        return self.value  # type: ignore[return-value]  # done: the value is there

    def __await__(self) -> Generator[Pending[T], None, T]:
        if not self.done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    __iter__ = __await__

    # The part of asyncio's Future protocol that a Task uses.

    def get_loop(self) -> Any:
        """The loop that the awaiting Task runs on."""
        import asyncio  # only a Task needs it, and then it is loaded; this module itself stays free of it

        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        """Wake a Task through its loop."""
        loop = self.get_loop()
        self.waiter = lambda _: loop.call_soon(callback, self, context=context)

    def cancel(self, msg: Any = None) -> bool:
        """Called when the awaiting Task is cancelled."""
        if self.done:
            return False
        import asyncio

        self.fail(asyncio.CancelledError(msg))
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.error is not None and _is_cancellation(self.error)

    def exception(self) -> BaseException | None:
        """The error, if any."""
        return self.error


def _is_cancellation(error: BaseException) -> bool:
    return type(error).__name__ == "CancelledError"


def _fresh(error: BaseException) -> BaseException:
    """The error to raise: a copy of one of ours, or of a cancellation.

    Its traceback refers to the frames that await it, and those to the `Pending`: if that had the same object, all of
    them, and a model that they mention, would stay until the next collection of garbage.
    """
    if not (isinstance(error, RedisAIError) or _is_cancellation(error)):
        return error
    kind = type(error)
    fresh = kind.__new__(kind, *error.args)  # not the constructor, which may take something else than the text
    fresh.__dict__.update(error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh.with_traceback(error.__traceback__)
