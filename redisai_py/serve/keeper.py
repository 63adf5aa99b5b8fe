"""The supervisor's view of one server process: started, monitored, killed if silent, restarted.

Rules: a model that was being preloaded when a process ended or hung is not preloaded by the next one, so no model can
prevent the start. After a crash or a hang, models of short runs stay in their engine processes: it may have been one of
those that had moved into the server, and it would get there again (docs/adr/0049). See `redisai_py.serve.process` for a
process, `redisai_py.serve.doors` for all of a server, and docs/adr/0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog

from redisai_py.config import Config
from redisai_py.serve.backoff import Backoff
from redisai_py.serve.heartbeat import (
    DRAINING,
    INTERVAL_S,
    LOADED,
    LOADING,
    READY,
    RESTART_STATUS,
    SERVING,
    Progress,
    Silence,
)
from redisai_py.serve.preflight import StartError
from redisai_py.serve.process import ServerProcess

__all__ = ["ServerKeeper", "Suspects"]

_STOP_GRACE_S = 5.0
"""Seconds the server may take to close everything after the drain."""
_DUMP_S = 0.5
"""Seconds for a hung process to write its stacks."""
_CRASHES = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP"}

log = structlog.get_logger()


@dataclass
class Suspects:
    """Models that are not to be preloaded; what one keeper finds out, all know.

    all: every model is to be preloaded, not those that are named.   careful: see `Orders`.
    crashed: a process crashed or hung, and no model moves into the server any more.
    """

    all: bool = False
    keys: set[bytes] = field(default_factory=set)
    careful: bool = False
    crashed: bool = False

    def add(self, preloading: set[bytes]) -> None:
        """These were being preloaded when a process ended."""
        if len(preloading) > 1 and not self.careful and not self.all:
            self.careful = True  # keys that are named must load: it takes one more start to clear the innocent ones
            return
        keys = [key.decode("utf-8", "backslashreplace") for key in sorted(preloading)]
        log.error("the server's process ended while it preloaded models; they are left to their first run", keys=keys)
        self.keys |= preloading

    def ended(self, how: str, hung: bool) -> None:
        """A process ended by itself: by a signal's name or a status, or was killed because it hung."""
        if (hung or how in _CRASHES) and not self.crashed:
            self.crashed = True
            log.warning("models of short runs stay in engine processes from now on (--isolation all)", how=how)

    def settings(self, config: Config) -> Config:
        """The settings of the next process."""
        return replace(config, isolation="all") if self.crashed and config.isolation == "auto" else config


class ServerKeeper:
    """One process, restarted when it dies.

    Args: take: provides a process without orders.   hurry: set when a stop must not wait any longer.
    """

    def __init__(
        self, take: Callable[[], Awaitable[ServerProcess]], config: Config, hurry: asyncio.Event, suspects: Suspects
    ) -> None:
        self._take = take
        self._drain_timeout_s = config.drain_timeout_s
        self._stall_timeout_s = config.stall_timeout_s
        self._hurry = hurry
        self._process: ServerProcess | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._heard = False
        self._hung = False
        self._preloading: set[bytes] = set()
        self._suspects = suspects

    async def spawn(self) -> None:
        """Start the process; it imports its modules and waits for its orders."""
        self._process = await self._take()
        self._ready.clear()
        self._heard = self._hung = False
        self._preloading.clear()

    async def start(self, config: Config) -> None:
        """Send the settings to the spawned process, and return once the server is ready.

        Raises: StartError if it ends instead, for another reason than a model that it was loading.
        """
        while not await self._become_ready(config):
            how = await self._ended()
            if not self._suspect() and not self._hung:
                raise StartError(f"the server did not start: its process ended with {how}")
            await self.spawn()

    async def keep_running(self, config: Config) -> None:
        """Restart the process whenever it dies."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        since = clock()
        while True:
            how = await self._ended()
            died = clock()
            if self._process is not None and self._process.status == RESTART_STATUS:
                log.warning("the server asks to be started again; its log says why")
            else:
                log.error("the server's process died; starting it again", how=how)
            self._suspect()
            self._suspects.ended(how, self._hung)
            await asyncio.sleep(backoff.after(died - since))
            since = clock()
            await self.spawn()
            if await self._become_ready(config):
                log.info("the server is back", after_s=round(clock() - died, 2))

    async def stop(self, replaced: bool = False) -> None:
        """Drain and end it; kill it if it exceeds the drain timeout plus a margin, or on `hurry`.

        Args: replaced: another process serves already.
        """
        process = self._process
        if process is None:
            return
        process.lines.says(DRAINING)
        if process.status is not None:
            self._sweep(process)
            return
        process.send_signal(signal.SIGUSR2 if replaced else signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(waits, timeout=self._drain_timeout_s + _STOP_GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        waits[1].cancel()
        if not waits[0].done():
            log.warning("the server does not stop in time; killing it")
            process.kill()
        await waits[0]
        self._sweep(process)

    async def _become_ready(self, config: Config) -> bool:
        """Send the orders and wait until the server is ready; False if its process ended instead."""
        process = self._process
        if process is None:
            raise RuntimeError("start() before spawn()")
        config = self._suspects.settings(config)
        await process.order(config, frozenset(self._suspects.keys), self._suspects.careful)
        listening = asyncio.create_task(self._listen(process))
        ready = asyncio.create_task(self._ready.wait())
        self._watching = [listening, asyncio.create_task(self._watch(process))]
        await asyncio.wait([listening, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        return self._ready.is_set()

    async def _listen(self, process: ServerProcess) -> None:
        """Read the server's messages until it closes the connection."""
        with contextlib.suppress(ConnectionError):
            while line := await process.reader.readline():
                self._heard = True
                word, _, argument = line.rstrip(b"\n").partition(b" ")
                if word == READY:
                    self._ready.set()
                elif word == LOADING:
                    self._preloading.add(bytes.fromhex(argument.decode()))
                elif word == LOADED:
                    self._preloading.discard(bytes.fromhex(argument.decode()))
                if word in (READY, SERVING, DRAINING):
                    process.lines.says(word)

    async def _watch(self, process: ServerProcess) -> None:
        """Kill the process if it is silent for too long after its first heartbeat."""
        clock = asyncio.get_running_loop().time
        silence = Silence(self._stall_timeout_s)
        progress = Progress(process.pid)
        began = False
        while process.status is None:
            await asyncio.sleep(INTERVAL_S)
            began = began or self._heard
            share = 1.0 if self._heard else progress.share()
            if silence.look(clock(), self._heard or not began, share):
                break
            process.lines.silent(began and not self._heard)
            self._heard = False
        if process.status is not None:
            return
        self._hung = True
        log.error("the server does not respond; killing it", silent_s=round(silence.lasted_s, 1))
        process.send_signal(signal.SIGUSR1)  # writes its threads' Python stacks to the log
        await asyncio.sleep(_DUMP_S)
        process.kill()

    async def _ended(self) -> str:
        """Wait for the process to end. Returns: how it ended, in words."""
        process = self._process
        if process is None:
            raise RuntimeError("the process was not spawned")
        status = await process.wait()
        await asyncio.wait(self._watching[:1], timeout=1.0)  # its last messages
        self._sweep(process)
        return f"status {status}" if status >= 0 else signal.Signals(-status).name

    def _suspect(self) -> bool:
        """Remember the models that were being preloaded when the process ended; False if there were none."""
        if self._preloading:
            self._suspects.add(set(self._preloading))
        return bool(self._preloading)

    def _sweep(self, process: ServerProcess) -> None:
        for task in self._watching:
            task.cancel()
        process.sweep()
