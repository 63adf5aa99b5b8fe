"""The server's processes: one that accepts its own connections, or several front doors that act as one server.

Each process has a `ServerKeeper`. Several front doors get their connections from the `Acceptor` and exchange messages
through the `Hub`. A `Spare` process takes the place of one that dies. A restart replaces the processes one by one: a
new one is ready before the old one drains. See docs/adr/0046.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from redisai_py.config import Config
from redisai_py.engine.isolation.settings import has_processes
from redisai_py.serve.acceptor import Acceptor, Arrivals
from redisai_py.serve.door_page import DoorPage
from redisai_py.serve.heartbeat import DRAINING, READY, SERVING
from redisai_py.serve.hub import Hub
from redisai_py.serve.keeper import ServerKeeper, Suspects
from redisai_py.serve.manager_keeper import ManagerKeeper
from redisai_py.serve.preflight import StartError
from redisai_py.serve.process import Lines, ServerProcess
from redisai_py.serve.spare import Spare

__all__ = ["Doors"]

log = structlog.get_logger()


class Doors:
    """All server processes of one `redisai serve`.

    Args: listeners: for clients.   http: for the HTTP endpoints (/metrics and others), if any.   hurry: see
          `ServerKeeper`.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], http: Sequence[socket.socket], config: Config, hurry: asyncio.Event
    ) -> None:
        self._listeners = listeners
        self._http = http
        self._config = config
        self._hurry = hurry
        self._suspects = Suspects("all" in config.preload)
        self._shared = _Shared(listeners, http, config) if config.processes > 1 else None
        self._spare = Spare(self._spawn)
        self._keepers = [self._keeper() for _ in range(config.processes)]
        self._watches: dict[ServerKeeper, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._restarting: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[None] | None = None

    def _spawn(self) -> Coroutine[Any, Any, ServerProcess]:
        return ServerProcess.spawn(self._lines())

    def _lines(self) -> Lines:
        if self._shared is not None:
            return _DoorLines(self._shared)
        return Lines({"listeners": _numbers(self._listeners), "http": _numbers(self._http)})

    def _keeper(self) -> ServerKeeper:
        return ServerKeeper(self._spare.take, self._config, self._hurry, self._suspects)

    def _prepare(self) -> None:
        """Have a spare process. A server with one process has none: it would double the memory of an idle one."""
        if self._shared is not None:
            self._spare.prepare()

    async def spawn(self) -> None:
        """Start the processes; they import their modules and wait for their settings."""
        if self._shared is not None and self._shared.manager is not None:
            await self._shared.manager.start()
        for keeper in self._keepers:
            await keeper.spawn()

    async def start(self, config: Config) -> None:
        """Send the settings and return once all are ready. Raises: StartError: see `ServerKeeper.start`."""
        self._config = config
        starts = [asyncio.ensure_future(keeper.start(config)) for keeper in self._keepers]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def keep_running(self) -> None:
        """Restart each process that dies, until cancelled."""
        self._failed = asyncio.get_running_loop().create_future()
        for keeper in self._keepers:
            self._watch(keeper)
        self._prepare()
        await self._failed

    def _watch(self, keeper: ServerKeeper) -> None:
        watch = self._watches[keeper] = asyncio.ensure_future(keeper.keep_running(self._config))
        watch.add_done_callback(self._watch_ended)

    def _watch_ended(self, watch: asyncio.Task[None]) -> None:
        failed = self._failed
        if not watch.cancelled() and (error := watch.exception()) is not None and failed and not failed.done():
            failed.set_exception(error)

    def restart(self) -> None:
        """Replace all processes one by one, without interrupting the service."""
        if self._failed is None:
            log.warning("not ready yet; no restart")
        elif self._restarting is not None and not self._restarting.done():
            log.warning("a restart is under way already")
        else:
            self._restarting = asyncio.ensure_future(self._restart())

    async def _restart(self) -> None:
        await self._spare.drop()  # the new processes are to run what is installed now
        try:
            await self._replace_all()
        finally:
            self._prepare()

    async def _replace_all(self) -> None:
        log.info("restarting", processes=len(self._keepers))
        for i, before in enumerate(self._keepers):
            keeper = self._keeper()
            try:
                await keeper.spawn()
                await keeper.start(self._config)
            except StartError as error:
                log.error("the restart failed; the processes that were running stay", reason=str(error))
                return
            except asyncio.CancelledError:
                self._keepers.append(keeper)  # so that stop() stops it too
                raise
            self._keepers[i] = keeper
            await self._end_watch(before)
            retiring = asyncio.ensure_future(before.stop(replaced=True))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._watch(keeper)
        log.info("restarted; the previous processes finish what they have begun", processes=len(self._keepers))

    async def _end_watch(self, keeper: ServerKeeper) -> None:
        watch = self._watches.pop(keeper, None)
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def stop(self) -> None:
        """Drain and end all processes; see `ServerKeeper.stop`."""
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        for keeper in list(self._watches):
            await self._end_watch(keeper)
        await self._spare.drop()
        if self._shared is not None:
            self._shared.acceptor.close()
        # Now only the processes hold these sockets, and stop accepting when they close their copies.
        for listener in self._listeners:
            listener.close()
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers), *self._retiring)
        if self._shared is not None and self._shared.manager is not None:
            await self._shared.manager.stop()


class _Shared:
    """What several front doors share."""

    def __init__(self, listeners: Sequence[socket.socket], http: Sequence[socket.socket], config: Config) -> None:
        self.http = _numbers(http)
        self.hub = Hub()
        self.acceptor = Acceptor(listeners, config.max_clients)
        self.door_page = DoorPage.make()
        self.manager = ManagerKeeper(config) if has_processes() else None
        self.numbers = itertools.count(1)


def _numbers(sockets: Sequence[socket.socket]) -> list[int]:
    return [each.fileno() for each in sockets]


class _DoorLines(Lines):
    """The socket pairs of one front door: to the hub, the acceptor, and the keeper of the engine processes' manager."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._siblings, self._their_siblings = socket.socketpair()
        self._managers, self._their_managers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours, self._their_arrivals = socket.socketpair()
        self._arrivals = Arrivals(ours)
        self._joined = False
        self.door = next(shared.numbers)
        self.seat = shared.door_page.take_seat(self.door)
        self.name = f"server-{self.door}"
        super().__init__(
            {
                "http": shared.http,
                "siblings": [self._their_siblings.fileno()],
                "arrivals": [self._their_arrivals.fileno()],
                "door_page": [shared.door_page.fd],
                "managers": [] if shared.manager is None else [self._their_managers.fileno()],
            }
        )

    def opened(self) -> None:
        self._their_siblings.close()
        self._their_arrivals.close()
        self._their_managers.close()

    async def join(self, broken: Callable[[], object]) -> None:
        self._joined = True
        await self._shared.hub.join(self.door, self._siblings, broken)
        self._shared.acceptor.join(self._arrivals)
        if self._shared.manager is not None:
            self._shared.manager.join(self._managers)

    def says(self, word: bytes) -> None:
        arrivals = self._arrivals
        arrivals.ready = arrivals.ready or word == READY
        arrivals.serving = arrivals.serving or word in (SERVING, READY)
        arrivals.retired = arrivals.retired or word == DRAINING
        self._shared.acceptor.look()

    def silent(self, silent: bool) -> None:
        self._arrivals.silent = silent

    def ended(self) -> None:
        self._shared.door_page.clear(self.seat)
        self._shared.acceptor.leave(self._arrivals)
        if not self._joined:
            self._siblings.close()
            self._arrivals.line.close()
        if self._shared.manager is not None:
            self._shared.manager.left(self._managers)
        self._managers.close()
