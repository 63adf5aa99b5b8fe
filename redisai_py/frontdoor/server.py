"""The server: what all connections share, and its life from listening to the last drained run.

Shutdown, in this order: stop accepting, close idle connections, let running commands finish within the drain timeout,
close the others, stop the engine and its threads, close the connections to Redis.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import structlog

from redisai_py import __version__
from redisai_py.ai.prediction_cache.predictions import Predictions
from redisai_py.backend import backend_names
from redisai_py.commands.backends import accept_backend
from redisai_py.config import Config
from redisai_py.engine.engine import Engine
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.remote_manager import RemoteManager
from redisai_py.engine.isolation.settings import IsolationSettings, has_processes
from redisai_py.engine.reports import GivenUp
from redisai_py.engine.settings import EngineSettings
from redisai_py.engine.stats import StatsTable
from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.engine.torchscript.jobs import ScriptSettings
from redisai_py.frontdoor.clients import Clients
from redisai_py.frontdoor.connection import Connection
from redisai_py.frontdoor.process_group import AcceptedClients, GroupMemory, ProcessGroup, SharedCores
from redisai_py.frontdoor.services import Counters, Services, Settings
from redisai_py.machine import granted_cores
from redisai_py.ops.background import BackgroundServices
from redisai_py.ops.event_log import EventLog
from redisai_py.ops.info import default_backends_path
from redisai_py.ops.keymap import KeyMap, key_text
from redisai_py.ops.preload import NO_SUPERVISOR, Preload, SupervisorLink
from redisai_py.ops.programs import Programs
from redisai_py.ops.shared_limit import SharedLimit
from redisai_py.ops.sibling_handler import SiblingHandler, report_all_counts
from redisai_py.ops.siblings import ALONE, LinkedSiblings, Siblings
from redisai_py.resp.templates import Frames
from redisai_py.serve.heartbeat import DRAINING, SERVING
from redisai_py.serve.listening import address_text
from redisai_py.serve.preflight import StartError
from redisai_py.setting import device_threads
from redisai_py.upstream.access import AccessTable
from redisai_py.upstream.address import Address
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.containment import contain
from redisai_py.upstream.control import Control, own_identity
from redisai_py.upstream.dialing import Dialer, UpstreamSettings
from redisai_py.upstream.single import SingleServer
from redisai_py.urls import masked_url

__all__ = ["Ended", "Server", "serve"]

RESTART_DRAIN_S = 5
"""Seconds for running commands to finish before the server restarts itself."""

_THREADS_END_S = 1.0
"""Minimum seconds for worker threads to end at a stop; the total stays below the supervisor's timeout."""

logger = structlog.get_logger()


class Server:
    """State shared by the connections of one process."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        stop: asyncio.Event | None = None,
        supervisor: SupervisorLink = NO_SUPERVISOR,
        group: ProcessGroup | None = None,
    ) -> None:
        spare_threads, config = config.spare_threads, config.resolved()
        self.config = config
        self._stop = stop
        siblings = ALONE if group is None else LinkedSiblings(loop, group.siblings)
        self.services = services = _build(config, spare_threads, loop, self._given_up, siblings, group)
        others = None if group is None else GroupMemory(group, siblings.notify)
        self.clients = Clients(config, loop, services.counters, services.event_log, others)
        self.preload = Preload(services, config.preload, supervisor)
        self.draining = False
        self.restarting = False

    def connection(self) -> Connection:
        """The protocol of a new client."""
        return Connection(self.services, self.clients)

    def loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's exception handler. The engine says whom a failure concerns."""
        error = context.get("exception")
        if "asked" in context and isinstance(error, Exception):
            contain(context["asked"], error)
        else:
            loop.default_exception_handler(context)

    def obstacles(self) -> list[str]:
        """Reasons why no client should use this server, as far as this process knows."""
        lines = ["the server is stopping"] if self.draining else []
        if self.restarting:
            going_on = self.services.engine.runaways_going_on
            lines.append(f"{going_on} runs and loads do not end: the server restarts")
        return [*lines, *self.preload.obstacles]

    def _given_up(self, given_up: GivenUp) -> None:
        """Threads that keep computing in vain take the cores of all others: beyond the limit, only a restart helps."""
        self.services.event_log.given_up(given_up)
        if given_up.going_on > self.config.runaway_limit and not self.restarting:
            self.restarting = True
            limit = self.config.runaway_limit
            logger.error("too many runs do not end; the server restarts", going_on=given_up.going_on, limit=limit)
            if self._stop is not None:
                self._stop.set()

    async def drain(self, timeout_s: float) -> None:
        """Let running commands finish, for at most `timeout_s`; then close every client."""
        self.draining = True
        await self.clients.drain(timeout_s)


def _build(
    config: Config,
    spare_threads: int,
    loop: asyncio.AbstractEventLoop,
    given_up: Callable[[GivenUp], None],
    siblings: Siblings,
    group: ProcessGroup | None,
) -> Services:
    """The services of a server with these settings. given_up: see `Engine`."""
    url = config.redis or "redis://127.0.0.1:6379"
    dialer = Dialer(Address.from_url(url), upstream_settings(config))
    keys = KeyMap()
    event_log = EventLog(keys, config.slow_run_ms)
    processes = isolation(config, keys, None if group is None else group.managers)
    engine = Engine(
        engine_settings(config, spare_threads),
        loop,
        notable=event_log.executed,
        evicted=event_log.evicted,
        ended_merging=event_log.ended_merging,
        given_up=given_up,
        isolation=processes,
    )
    if not siblings.alone:
        engine.make_room = SharedLimit(engine, siblings, loop).keep
    counters = Counters()
    cores_wanted = _cores_wanted(engine, group)
    busy_poll = BusyPoll(loop.call_soon, config.busy_poll_us / 1e6, lambda: counters.commands, cores_wanted)
    script_stats = StatsTable()
    polled = busy_poll if config.busy_poll_us else None
    connect = partial(SingleServer, dialer, upstream_pool=config.upstream_pool, busy_poll=polled)
    accesses = AccessTable(connect, config.near_cache_bytes, engine.call_afterwards, polled)
    return Services(
        config=config,
        loop=loop,
        settings=Settings(config.model_chunk_size, default_backends_path()),
        counters=counters,
        event_log=event_log,
        frames=Frames(),
        engine=engine,
        predictions=Predictions(engine, accesses, config.prediction_cache_bytes),
        scripts=ScriptEngine(script_settings(config), loop, processes),
        script_stats=script_stats,
        keys=keys,
        programs=Programs(engine, script_stats, keys, event_log, siblings),
        dialer=dialer,
        accesses=accesses,
        control=Control(dialer.single_attempt, own_identity(url)),
        busy_poll=busy_poll,
        siblings=siblings,
    )


def _cores_wanted(engine: Engine, group: ProcessGroup | None) -> Callable[[], bool]:
    """Whether the cores are needed for other things than polling; see `BusyPoll`."""
    if group is None:
        return engine.threads_busy
    shared = SharedCores(group, granted_cores())

    def wanted() -> bool:
        computes = engine.threads_busy()
        return shared.wanted(computes) or computes

    return wanted


def upstream_settings(config: Config) -> UpstreamSettings:
    """The settings for reaching Redis."""
    return UpstreamSettings(
        upstream_retry_s=config.upstream_retry_ms / 1000,
        upstream_timeout_s=config.upstream_timeout_ms / 1000,
        upstream_keepalive_s=config.upstream_keepalive_s,
    )


def script_settings(config: Config) -> ScriptSettings:
    """The script engine's part of the settings."""
    limit_bytes = config.script_memory_limit_mb * 1_000_000
    return ScriptSettings(**_by_name(ScriptSettings, config), script_memory_limit_bytes=limit_bytes)


def _by_name(kind: type[Any], config: Config) -> dict[str, Any]:
    """The settings that a part of the server has under the names of their flags."""
    return {field.name: getattr(config, field.name) for field in fields(kind) if hasattr(config, field.name)}


def engine_settings(config: Config, spare_threads: int) -> EngineSettings:
    """The engine's part of the settings. config: resolved."""
    settings = _by_name(EngineSettings, config) | {
        "spare_threads": spare_threads,
        "device_threads": device_threads(config.device_threads),
        "backend_memory_limit_bytes": config.backend_memory_limit_mb * 1_000_000,
        "slow_run_s": config.slow_run_ms / 1000 if config.slow_run_ms else math.inf,
    }
    return EngineSettings(**settings)


def isolation(config: Config, keys: KeyMap, managers: socket.socket | None = None) -> Isolation:
    """The engine's processes. managers: brings sockets to the manager, if it is not in this process.

    Raises: StartError: this system cannot run them, and models may run nowhere else.
    """
    if config.isolation == "all" and not has_processes():
        raise StartError(f"--isolation {config.isolation} needs Linux")

    def name_of(identity: str) -> str:
        program_key = keys.key_of(identity)
        return key_text(program_key.key) if program_key is not None else "unknown"

    settings = IsolationSettings.of(config)
    manager = Manager(settings) if managers is None else RemoteManager(settings, managers)
    return Isolation(manager, name_of)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a server ended. restart: it asks to be restarted.   threads_left: a framework still computes."""

    restart: bool
    threads_left: bool


async def serve(
    config: Config,
    *listeners: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[], None],
    supervisor: SupervisorLink = NO_SUPERVISOR,
    http: Sequence[socket.socket] = (),
    group: ProcessGroup | None = None,
) -> Ended:
    """Serve clients of bound sockets, TCP or Unix, until `stop` is set or too many runs do not end, then drain.

    Args:   config: its `redis` names the upstream server.
            ready: called once connections are accepted and all preloads have been tried.
            supervisor: the connection to the supervisor.   http: bound sockets, if the setting's port is already bound.
            group: if this is one of several front doors; clients then come from the supervisor.
    Raises: StartError: the HTTP port is unavailable, or engine processes are impossible.
    """
    for name in backend_names():
        accept_backend(name)
    loop = asyncio.get_running_loop()
    server = Server(config, loop, stop, supervisor, group)
    loop.set_exception_handler(server.loop_failed)
    services = server.services
    background = BackgroundServices(services, server.clients.figures, server.preload, server.obstacles, http)
    acceptors: list[Any] = []
    until = loop.time()
    try:
        await background.open()
        if group is not None:
            acceptors.append(await _join(server, group))
        acceptors += [await _accept(server, listener) for listener in listeners]
        supervisor.notify(SERVING)
        addresses = [address_text(listener) for listener in listeners]
        where = {"addresses": addresses} if group is None else {"front_door": group.door}
        logger.info("serving", **where, redis=masked_url(config.redis or ""), version=__version__)
        if await _before(stop, background.preload()):
            ready()
            await stop.wait()
        # Before a restart, clients wait for the next server, and the cause is runs that do not end.
        drain_s = min(config.drain_timeout_s, RESTART_DRAIN_S) if server.restarting else config.drain_timeout_s
        until = loop.time() + drain_s
        logger.info("stopping", clients=len(server.clients), drain_timeout_s=drain_s)
        supervisor.notify(DRAINING)
        for acceptor in acceptors:
            acceptor.close()
        if supervisor.replaced:
            await background.end_http()
        await server.drain(drain_s)
    finally:
        for acceptor in acceptors:
            acceptor.close()
        services.scripts.close()
        # Runs that clients still waited for have already had that time.
        ended = await services.engine.close(max(_THREADS_END_S, until - loop.time()), _THREADS_END_S)
        await background.close()
        services.accesses.close()
        services.control.close()
        await services.dialer.close()
        report_all_counts(services)
        await services.siblings.close()
        logger.info("stopped", commands=services.counters.commands, framework_threads_left=not ended)
    return Ended(server.restarting, not ended)


async def _join(server: Server, group: ProcessGroup) -> AcceptedClients:
    """Meet the other front doors, and take the clients that the supervisor passes on."""
    services, clients = server.services, server.clients

    def obstacles() -> list[str]:
        # One that is about to end gets no clients: the others serve.
        return [] if server.draining or server.restarting else server.obstacles()

    await services.siblings.open(SiblingHandler(services, clients.figures, obstacles, clients.memory.evict_largest))

    arrivals = AcceptedClients(services.loop, group.arrivals, server.connection, clients.refuse)
    clients.on_left = arrivals.left
    arrivals.open()
    return arrivals


async def _accept(server: Server, listener: socket.socket) -> Any:
    backlog = server.config.backlog
    loop = server.services.loop
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(server.connection, sock=listener, backlog=backlog)
    return await loop.create_server(server.connection, sock=listener, backlog=backlog)


async def _before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless `stop` is set before it is done. Returns: whether it was done."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(done, Exception):
        raise done
    return not stop.is_set()
