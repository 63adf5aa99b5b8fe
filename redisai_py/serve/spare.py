"""A process more than a server has front doors, which has imported its modules and waits for orders.

Starting an interpreter and importing takes ten times as long as everything else until a process serves. So the
place of a front door that dies is taken by the spare process. See docs/adr/0046.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import structlog

from redisai_py.serve.backoff import Backoff

__all__ = ["Spare"]

_DELAY_S = 1.0
"""What has just been started is busy, and comes first."""

log = structlog.get_logger()


class _Process(Protocol):
    """See `process.ServerProcess`."""

    @property
    def status(self) -> int | None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...

    def sweep(self) -> None: ...


_P = TypeVar("_P", bound=_Process)


class Spare(Generic[_P]):
    """Args: spawn: starts a process.   spawn_spare: the same, if it is to be the spare one."""

    def __init__(
        self,
        spawn: Callable[[], Coroutine[Any, Any, _P]],
        spawn_spare: Callable[[], Coroutine[Any, Any, _P]] | None = None,
    ) -> None:
        self._spawn = spawn
        self._spawn_spare = spawn_spare or spawn
        self._waiting: _P | None = None
        self._keeping: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Have a spare process from soon on, until the next `take`."""
        if self._keeping is None:
            self._keeping = asyncio.ensure_future(self._keep())

    async def take(self) -> _P:
        """The spare process, which another will replace; or a new one if there is none."""
        kept = self._keeping is not None
        process = await self._release()
        if kept:
            self.prepare()
        return process or await self._spawn()

    async def drop(self) -> None:
        """End the spare process, and have none."""
        process = await self._release()
        if process is not None:
            process.kill()
            await process.wait()
            process.sweep()

    async def _release(self) -> _P | None:
        """The spare process, unless it has ended. It is no longer kept."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        process, self._waiting = self._waiting, None
        if process is not None and process.status is not None:
            process.sweep()
            return None
        return process

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        await asyncio.sleep(_DELAY_S)
        while True:
            since = clock()
            # Not cancelled half-way: a process that has been started must be known.
            spawning = asyncio.ensure_future(self._spawn_spare())
            try:
                self._waiting = await asyncio.shield(spawning)
            except asyncio.CancelledError:
                self._waiting = await spawning
                raise
            status = await self._waiting.wait()
            log.warning("the spare process ended; starting another", status=status)
            self._waiting.sweep()
            self._waiting = None
            await asyncio.sleep(backoff.after(clock() - since))
