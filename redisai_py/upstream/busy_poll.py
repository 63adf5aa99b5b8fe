"""Busy polling: the event loop does not sleep when the next event is imminent.

Who sleeps must be woken: an interrupt, a switch of processes, and then code and data that the caches have lost. On a
small virtual machine that costs more than a tiny model's run. So where few clients are served, the event loop does not
sleep while Redis answers, nor while a client that just had its reply sends its next command: it keeps asking the
system for events (busy polling). Sleeping and waking cost CPU time too, so this costs little more of it.

It must never become a burden: a stay is short, it ends with the first event; after two in vain the next ones of that
kind are left out, twice as many each time, and more where another process turned out to want the core. With many
clients something is always there to do, and while a worker thread runs a model the cores are the model's
(docs/adr/0014). Thread: the event loop's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["BusyPoll"]

_MANY_PER_S = 20_000
"""With this many commands the next event is there before the loop could sleep, mostly."""
_WINDOW_S = 0.005
"""How often their number is looked at, and whether the cores have something better to do."""
_INTERRUPTED_S = 0.0003
"""From one look for events to the next, when nothing came: then another process had the core, and needs it more."""
_INTERRUPTED = 5
"""It counts as so many in vain: seldom is it more than a moment."""
_IN_VAIN = 2
_MOST_IN_VAIN = 8
"""So at most 256 are left out, and then it is tried again."""


class _Awaited:
    """Something that may be worth waiting for, and what experience says."""

    __slots__ = ("in_vain", "left_out")

    def __init__(self) -> None:
        self.in_vain = 0
        self.left_out = 0

    def is_worth_it(self) -> bool:
        if self.left_out:
            self.left_out -= 1
            return False
        return True

    def did_not_come(self) -> None:
        self.in_vain = min(self.in_vain + 1, _MOST_IN_VAIN)
        if self.in_vain >= _IN_VAIN:
            self.left_out = 1 << self.in_vain

    def is_a_burden(self) -> None:
        self.in_vain = max(self.in_vain, _INTERRUPTED)
        self.left_out = 1 << self.in_vain


class BusyPoll:
    """Keeps an event loop from sleeping.

    Args: call_soon: the loop's; what it was given is called before the loop sleeps.
          busy_poll_s: the longest stay in seconds, 0 for none.
          commands: how many commands clients have sent so far.
          cores_wanted: whether the cores have something better to do.
          clock: monotonic seconds.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], object]], object],
        busy_poll_s: float,
        commands: Callable[[], int],
        cores_wanted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call_soon = call_soon
        self._busy_poll_s = busy_poll_s
        self._commands = commands
        self._cores_wanted = cores_wanted
        self._clock = clock
        self._reply = _Awaited()
        self._command = _Awaited()
        self._awaited: _Awaited | None = None
        self._until = 0.0
        self._looked_at = 0.0
        self._staying = False
        self._needless = False
        self._counted = 0
        self._counted_at = self._clock()

    def asked(self) -> None:
        """Redis was asked something: its reply is near."""
        self._await(self._reply)

    def answered(self) -> None:
        """Redis has answered all it was asked, and so clients have their replies: their next commands are near."""
        self._await(self._command)

    def _await(self, what: _Awaited) -> None:
        came, self._awaited = self._awaited, None
        if came is not None:
            came.in_vain = 0
        if not self._busy_poll_s:
            return
        now = self._clock()
        if now >= self._counted_at + _WINDOW_S:
            self._count(now)
        if self._needless or not what.is_worth_it():
            return
        self._awaited = what
        self._looked_at = now
        self._until = now + self._busy_poll_s
        if not self._staying:
            self._staying = True
            self._call_soon(self._stay)

    def _count(self, now: float) -> None:
        commands = self._commands()
        many = commands - self._counted > _MANY_PER_S * (now - self._counted_at)
        self._needless = many or self._cores_wanted()
        self._counted, self._counted_at = commands, now

    def _stay(self) -> None:
        awaited = self._awaited
        if awaited is not None:
            now = self._clock()
            if now > self._looked_at + _INTERRUPTED_S:
                self._reply.is_a_burden()
                self._command.is_a_burden()
            elif now < self._until:
                self._looked_at = now
                self._call_soon(self._stay)
                return
            else:
                awaited.did_not_come()
            self._awaited = None
        self._staying = False
