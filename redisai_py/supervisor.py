"""`redisai serve`: the process that keeps the others running.

It holds the listening socket and the data directory, runs the private Redis if there is one, and runs the server in a
process of its own, so that a native crash of a framework costs open connections and not the service: the server is
started again while the listening socket keeps accepting and the private Redis keeps running. It imports no framework,
numpy or server code. What passes between it and the server's process, `redisai_py.server_process` describes. See
docs/adr/0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Callable

import structlog

from redisai_py.config import Config
from redisai_py.data_directory import DataDirectory
from redisai_py.embedded import EmbeddedRedis
from redisai_py.startup import RedisFacts, StartError, bind, check_redis

__all__ = ["Backoff", "Started", "supervise"]

# After the drain has had its time, what the server may still take to close everything.
_STOP_GRACE_S = 5.0

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """What `redisai serve` tells once the server is ready.

    host, port: as bound.   config: `redis` is what is used.   redis: of that Redis.
    embedded: None if the Redis is not ours.   data_directory: of the embedded one.
    """

    host: str
    port: int
    config: Config
    redis: RedisFacts
    embedded: EmbeddedRedis | None
    data_directory: DataDirectory | None


class Backoff:
    """How long to wait before starting a process again: not at all at first, up to 10 s for one that keeps dying."""

    FIRST_S = 0.1
    LONGEST_S = 10.0
    STABLE_S = 30.0

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, uptime_s: float) -> float:
        """Seconds to wait now that the process has died after `uptime_s`."""
        if uptime_s >= self.STABLE_S:
            self._next_s = 0.0
        wait_s = self._next_s
        self._next_s = min(max(2 * wait_s, self.FIRST_S), self.LONGEST_S)
        return wait_s


async def supervise(config: Config, announce: Callable[[Started], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until the private Redis is told to shut down, then drain and stop
    everything; a second signal skips the draining.

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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
            loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped")
    except BaseExceptionGroup as group:
        # Of the two watchers the first to give up says why; the other was cancelled.
        raise group.exceptions[0] from None


async def _serve(
    config: Config, announce: Callable[[Started], None], stop: Callable[[], None], hurry: asyncio.Event
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        directory = keeper = say = None
        if config.redis is None:
            directory = DataDirectory(config.data_dir)
            say = stack.enter_context(directory.held())
            keeper = _RedisKeeper(directory, config)
            stack.push_async_callback(keeper.stop)
        listener = stack.enter_context(await bind(config))
        host, port = listener.getsockname()[:2]
        if say is not None:
            say(f"{host}:{port}")
        # Pushed last, so stopped first: commands that are running may still write.
        server = _Server(listener, config.drain_timeout_s, hurry)
        stack.push_async_callback(server.stop)
        # Its imports take longer than all that follows up to `ready`: they go on beside it.
        await server.spawn()
        if keeper is not None:
            config = dataclasses.replace(config, redis=(await keeper.open()).url)
        facts = await check_redis(config, listener)
        if not await server.ready(config):
            raise StartError(f"the server did not start: its process ended with {await server.ended()}")
        announce(Started(host, port, config, facts, keeper.redis if keeper else None, directory))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.keep_running(config))
            if keeper is not None:
                await keeper.keep_running()
                # Somebody shut it down, and what they see as Redis is all of this.
                log.info("the private Redis was told to shut down; stopping")
                stop()


class _RedisKeeper:
    """The private Redis, started again when it dies."""

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
        """Start it again whenever it dies; return once it was told to end.

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
        """Stop it, its data flushed."""
        if self.redis is not None:
            await self.redis.stop()


class _Server:
    """The server's process, started again when it dies."""

    def __init__(self, listener: socket.socket, drain_timeout_s: float, hurry: asyncio.Event) -> None:
        self._listener = listener
        self._drain_timeout_s = drain_timeout_s
        self._hurry = hurry
        self._process: Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def spawn(self) -> None:
        """Start the process; it imports what it needs and waits for its settings."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory is no place to import from
                "-m",
                "redisai_py.server_process",
                str(self._listener.fileno()),
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(self._listener.fileno(), theirs.fileno()),
            )

    async def ready(self, config: Config) -> bool:
        """Hand over the settings and wait until the server is ready; False if its process ended instead."""
        if self._reader is None or self._writer is None:
            raise RuntimeError("ready() before spawn()")
        self._writer.write(config.to_json().encode() + b"\n")
        try:
            return await self._reader.readline() == b"ready\n"
        except ConnectionError:
            return False

    async def ended(self) -> str:
        """Wait for the process's end; how it ended, in words."""
        if self._process is None:
            raise RuntimeError("ended() before spawn()")
        status = await self._process.wait()
        self._sweep()
        return f"status {status}" if status >= 0 else signal.Signals(-status).name

    async def keep_running(self, config: Config) -> None:
        """Start the process again whenever it dies."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        since = clock()
        while True:
            how = await self.ended()
            died = clock()
            log.error("the server's process died; starting it again", how=how)
            await asyncio.sleep(backoff.after(died - since))
            since = clock()
            await self.spawn()
            if await self.ready(config):
                log.info("the server is back", after_s=round(clock() - died, 2))

    async def stop(self) -> None:
        """Drain and end; killed if it takes longer than the drain timeout and a little, or if there is hurry."""
        # Only the server's own copy is left then: it stops accepting when it closes that.
        self._listener.close()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._hurry.wait())]
        await asyncio.wait(waits, timeout=self._drain_timeout_s + _STOP_GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        waits[1].cancel()
        if not waits[0].done():
            log.warning("the server does not stop in time; killing it")
            process.kill()
        await waits[0]
        self._sweep()

    def _sweep(self) -> None:
        """Kill what the ended process has left behind: a script's process that loops would never notice."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
