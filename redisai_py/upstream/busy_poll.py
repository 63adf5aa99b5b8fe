"""Busy polling: the event loop does not sleep if the next event is imminent.

A sleeping process must be woken: by an interrupt and a context switch, with cold caches afterwards. On a small virtual
machine that costs more than a tiny model's run. So with few clients, the event loop polls the system for events instead
of sleeping, while Redis answers, and while a client that has just received a reply sends its next command. Sleeping and
waking cost CPU time too, so polling costs little more.

Polling must not harm others. A poll is short and ends with the first event. After two polls in vain, the next ones of
that kind are skipped, twice as many each time, and more if another process turned out to want the core. With many
clients there is always something to do, while a worker thread runs a model the cores belong to the model
(docs/adr/0014), and front doors that are all busy would only poll on each other's cores (docs/adr/0046).

Thread: the event loop's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BusyPoll"]

_MANY_PER_S = 20_000
"""With this many commands, the next event usually arrives before the loop could sleep."""
_WINDOW_S = 0.005
"""How often the number of commands is checked, and whether the cores are needed elsewhere."""
_INTERRUPTED_S = 0.0003
"""A gap of this length between two polls means that another process had the core, and needs it more."""
_INTERRUPTED = 5
"""Such a gap counts as this many polls in vain, since it is rarely short."""
_IN_VAIN = 2
_MOST_IN_VAIN = 8
"""At most 256 polls are skipped before the next attempt."""


@dataclass(slots=True)
class _Awaited:
    """An event that may be worth polling for, with the experience so far."""

    in_vain: int = 0
    left_out: int = 0

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

    Args: call_soon: the loop's; its callbacks run before the loop sleeps.
          busy_poll_s: the longest poll in seconds, 0 for none.
          commands: returns how many commands clients have sent so far.
          cores_wanted: returns whether the cores are needed elsewhere; called in each window with commands.
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
        """A request was sent to Redis, so its reply is imminent."""
        self._await(self._reply)

    def answered(self) -> None:
        """Redis has answered everything, so clients have their replies, and their next commands are imminent."""
        self._await(self._command)

    def _await(self, what: _Awaited) -> None:
        arrived, self._awaited = self._awaited, None
        if arrived is not None:
            arrived.in_vain = 0
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
        self._needless = self._cores_wanted() or many
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
