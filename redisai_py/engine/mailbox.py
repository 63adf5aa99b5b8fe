"""Calls from other threads to the event loop, made on its thread in the order in which they were posted.

Appending to a deque needs no lock, and the loop is woken once for all waiting calls. Code that waits for other threads
waits here, because nothing of theirs changes without a call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from redisai_py.engine.settle import deliver
from redisai_py.pending import Pending

__all__ = ["Mailbox"]


class Mailbox:
    """Thread: the event loop's, except `post`."""

    __slots__ = ("_awaited", "_calls", "_loop", "_wake_up_sent")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._wake_up_sent = False
        self._awaited: tuple[Callable[[], bool], Pending[bool]] | None = None

    def post(self, handle: Callable[[Any], None], argument: Any) -> None:
        """Call `handle(argument)` on the event loop's thread. Thread: any."""
        self._calls.append((handle, argument))
        if not self._wake_up_sent:
            self._wake_up_sent = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed, so there is nobody to call
                return

    def _deliver(self) -> None:
        # Clear the flag before looking: a call appended in between is seen here, or sends its own wake-up.
        self._wake_up_sent = False
        calls = self._calls
        while calls:
            handle, argument = calls.popleft()
            deliver(self._loop, handle, argument)
        self.look()

    def look(self) -> None:
        """Something has changed that `wait_until` may be waiting for."""
        if self._awaited is not None:
            condition, pending = self._awaited
            if condition():
                pending.resolve(True)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds; checked after each call from a thread. False if the time passes first."""
        if condition():
            return True
        pending: Pending[bool] = Pending()
        self._awaited = (condition, pending)
        timer = self._loop.call_later(timeout_s, pending.resolve, False)
        try:
            return await pending
        finally:
            self._awaited = None
            timer.cancel()
