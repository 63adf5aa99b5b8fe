"""`redisai serve`: the process that keeps the others running.

It holds the listening sockets and the data directory, runs the private Redis if there is one, and runs the server in
separate processes. So a native crash of a framework costs the open connections of one process, but not the service: the
process restarts while the listening sockets keep accepting and the private Redis keeps running. It imports no
framework, numpy or server code. `redisai_py.serve.doors` handles the server's processes. See docs/adr/0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
from collections.abc import Callable

import structlog

from redisai_py.config import Config
from redisai_py.serve.backoff import Backoff
from redisai_py.serve.data_directory import DataDirectory
from redisai_py.serve.doors import Doors
from redisai_py.serve.embedded import EmbeddedRedis
from redisai_py.serve.listening import address_text, bind, bind_http, held, is_local
from redisai_py.serve.orphans import adopt_orphans, reap_orphans
from redisai_py.serve.preflight import RedisFacts, StartError, check_redis

__all__ = ["Started", "supervise"]

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """What `redisai serve` reports once the server is ready.

    host, port: the first address, as bound; for a Unix socket `unix:///PATH` and 0.   others: the other addresses.
    reachable: other machines can connect to one of them.
    config: `redis` is the one in use.   redis: facts about that Redis.
    embedded: None if the Redis is not ours.   data_directory: of the embedded one.
    """

    host: str
    port: int
    config: Config
    redis: RedisFacts
    embedded: EmbeddedRedis | None
    data_directory: DataDirectory | None
    others: tuple[str, ...] = ()
    reachable: bool = False


async def supervise(config: Config, announce: Callable[[Started], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until the private Redis is told to shut down, then drain and stop
    everything; a second signal skips the draining. SIGUSR2 replaces the server's processes while clients are served.

    Args:    announce: called once, when the server is ready.
    Raises:  StartError: it cannot start, or the private Redis cannot be started again.
    """
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not work.cancelling():
            work.cancel()
        else:
            hurry.set()

    work = asyncio.ensure_future(_serve(config, announce, stop, hurry))
    loop.add_signal_handler(signal.SIGUSR2, lambda: log.warning("not ready yet; no restart"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped")
    except BaseExceptionGroup as group:
        # The first of the two watchers to give up has the reason; the other was cancelled.
        raise group.exceptions[0] from None


async def _serve(
    config: Config, announce: Callable[[Started], None], stop: Callable[[], None], hurry: asyncio.Event
) -> None:
    adopt_orphans()
    async with contextlib.AsyncExitStack() as stack:
        reaping = asyncio.ensure_future(reap_orphans())
        stack.callback(reaping.cancel)
        directory = keeper = say = None
        if config.redis is None:
            directory = DataDirectory(config.data_dir)
            say = stack.enter_context(directory.held())
            keeper = _RedisKeeper(directory, config)
            stack.push_async_callback(keeper.stop)
        listeners = await bind(config)
        stack.enter_context(held(listeners))
        http = await bind_http(config)
        stack.enter_context(held(http))
        addresses = [address_text(listener) for listener in listeners]
        reachable = [address_text(listener) for listener in listeners if not is_local(listener)]
        if say is not None:
            say(addresses)
        # Pushed last, so stopped first, because running commands may still write.
        server = Doors(listeners, http, config, hurry)
        stack.push_async_callback(server.stop)
        # Its imports take longer than everything up to `ready`, so they run meanwhile.
        await server.spawn()
        if keeper is not None:
            config = dataclasses.replace(config, redis=(await keeper.open()).url)
        facts = await check_redis(config, reachable)
        _warn_of_root()
        await server.start(config)
        redis = keeper.redis if keeper is not None else None
        announce(Started(*_first(listeners), config, facts, redis, directory, tuple(addresses[1:]), bool(reachable)))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.keep_running())
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, server.restart)
            if keeper is not None:
                await keeper.keep_running()
                # Somebody shut it down; to them, Redis is this whole program.
                log.info("the private Redis was told to shut down; stopping")
                stop()


def _first(listeners: list[socket.socket]) -> tuple[str, int]:
    name = listeners[0].getsockname()
    return (f"unix://{name}", 0) if isinstance(name, str) else (name[0], name[1])


def _warn_of_root() -> None:
    if os.geteuid() == 0:
        log.warning(
            "running as root: a stored model is a program, and may do here whatever root may; "
            "run redisai as a user that owns nothing else (useradd --system redisai)"
        )


class _RedisKeeper:
    """The private Redis, restarted when it dies."""

    ATTEMPTS = 5

    def __init__(self, directory: DataDirectory, config: Config) -> None:
        self._directory = directory
        self._config = config
        self.redis: EmbeddedRedis | None = None

    async def open(self) -> EmbeddedRedis:
        """Start or adopt it; it answers when this returns. Raises StartError."""
        self.redis = await EmbeddedRedis.open(self._directory, self._config)
        return self.redis

    async def keep_running(self) -> None:
        """Restart it whenever it dies; return once it was told to end.

        Raises: StartError if starting it fails several times in a row.
        """
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        redis = self.redis or await self.open()
        failures = 0
        while True:
            since = clock()
            if not failures:
                await redis.lost()
                if redis.told_to_end:
                    return
                log.error("the private Redis died; starting it again", log=str(self._directory.redis_log))
            await asyncio.sleep(backoff.after(clock() - since))
            try:
                redis = await self.open()
            except StartError as error:
                failures += 1
                if failures == self.ATTEMPTS:
                    raise
                log.error("the private Redis did not start", reason=str(error))
            else:
                failures = 0
                log.info("the private Redis is back", pid=redis.pid)

    async def stop(self) -> None:
        """Stop it, after it has flushed its data."""
        if self.redis is not None:
            await self.redis.stop()
