"""The private Redis of the embedded default: found, started or adopted, watched, stopped.

Rules: it runs in a session of its own, so that Ctrl-C on the terminal does not reach it; it keeps an append-only file;
never two on one directory (see `redisai_py.serve.data_directory`). If its starter is killed it lives on, and the next
start adopts it. It is stopped with SIGTERM, on which Redis does what SHUTDOWN does, but which works whatever password
or ACL the user has set. See docs/adr/0012.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
from asyncio.subprocess import Process
from dataclasses import asdict, fields
from urllib.parse import quote

import hiredis
import structlog

from redisai_py.config import Config
from redisai_py.serve.data_directory import DataDirectory
from redisai_py.serve.executables import Executable, find_redis_server
from redisai_py.serve.preflight import StartError, ping

__all__ = ["EmbeddedRedis"]

_ANSWER_TIMEOUT_S = 3.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.005
_STILL_LOADING_S = 5.0

log = structlog.get_logger()


class EmbeddedRedis:
    """One redis-server on a data directory.

    adopted: it was running already, started by a `redisai serve` that is gone.
    """

    def __init__(
        self, directory: DataDirectory, executable: Executable, socket_path: str, process: Process | None
    ) -> None:
        self._directory = directory
        self._process = process
        self._socket_path = socket_path
        self._password = ""
        self.executable = executable

    @property
    def adopted(self) -> bool:
        """Whether somebody else started it."""
        return self._process is None

    @property
    def url(self) -> str:
        """For `Config.redis`."""
        credentials = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"unix://{credentials}{quote(self._socket_path)}"

    @property
    def pid(self) -> int | None:
        """Its process id, None if an adopted one does not tell."""
        if self._process is not None:
            return self._process.pid
        return _listener_pid(self._socket_path) or self._directory.pid_on_file()

    @classmethod
    async def open(cls, directory: DataDirectory, config: Config) -> EmbeddedRedis:
        """The redis-server that lives on the directory, or a new one; it answers when this returns.

        Raises: StartError.   Cancelling it stops what it started.
        """
        password = directory.require_password() if config.require_password else ""
        redis = await cls._adopt(directory, config)
        if redis is None:
            redis = await cls._start(directory, config)
        redis._password = password
        try:
            await redis._answering()
        except BaseException:
            if not redis.adopted:
                await redis.stop()
            raise
        return redis

    @classmethod
    async def _adopt(cls, directory: DataDirectory, config: Config) -> EmbeddedRedis | None:
        """The one that lives here, if it answers and runs with the settings wanted; else it is stopped."""
        if not directory.redis_lives():
            return None
        facts = directory.recorded()
        known = {each.name: facts[each.name] for each in fields(Executable) if each.name in facts}
        executable = Executable(**{"path": "redis-server", "version": "", **known})
        redis = cls(directory, executable, facts.get("socket", str(directory.path / "redis.sock")), None)
        try:
            await ping(redis.url, _ANSWER_TIMEOUT_S)
        except (OSError, hiredis.ProtocolError):
            log.warning("a redis-server left by an earlier run does not answer; stopping it")
        else:
            if facts.get("arguments") == _arguments(directory, config, redis._socket_path):
                return redis
            log.info("a redis-server left by an earlier run has other settings; restarting it")
        await redis.stop()
        return None

    @classmethod
    async def _start(cls, directory: DataDirectory, config: Config) -> EmbeddedRedis:
        executable = find_redis_server(config.redis_server, directory.path)
        socket_path = directory.new_socket_path()
        lock = directory.lock_redis()
        if lock is None:
            raise StartError(f"another redis-server has just started on {directory.path}")
        # Recorded first: whoever finds the lock held then finds where the holder listens.
        arguments = _arguments(directory, config, socket_path)
        directory.record({**asdict(executable), "socket": socket_path, "arguments": arguments})
        try:
            # What Redis says before it has read where to log goes to the same file.
            with directory.opened_log() as output:
                process = await asyncio.create_subprocess_exec(
                    executable.path,
                    *arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(lock,),
                    umask=0o077,  # for its files: the append-only file, snapshots, a rewritten redis.conf
                )
        except OSError as error:
            raise StartError(f"{executable.path} does not run: {error.strerror}") from error
        finally:
            os.close(lock)
        return cls(directory, executable, socket_path, process)

    async def _answering(self) -> None:
        """Wait until it answers and has loaded its data, however long that takes while it lives."""
        clock = asyncio.get_running_loop().time
        reminder = clock() + _STILL_LOADING_S
        while True:
            with contextlib.suppress(OSError, hiredis.ProtocolError):
                if not (await ping(self.url, _ANSWER_TIMEOUT_S)).startswith("LOADING"):
                    return
            if self._process is not None and self._process.returncode is not None:
                raise StartError(
                    f"{self.executable.path} ended at once, with status {self._process.returncode}; "
                    f"{self._directory.redis_log} ends: {self._directory.redis_log_tail()}"
                )
            if self._process is None and not self._directory.redis_lives():
                raise StartError("the redis-server that was to be adopted is gone; start again")
            if clock() > reminder:
                log.info("waiting for the private Redis to load its data", directory=str(self._directory.path))
                reminder = clock() + _STILL_LOADING_S
            await asyncio.sleep(_POLL_S)

    async def lost(self) -> None:
        """Return when it has died."""
        if self._process is not None:
            await self._process.wait()
            return
        while self._directory.redis_lives():
            # Not a child of ours: what tells of its end at once is the end of a connection to it.
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._socket_path)
                try:
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(_POLL_S)

    @property
    def told_to_end(self) -> bool:
        """Whether it, having ended, did so by SHUTDOWN or SIGTERM, rather than by a crash or a kill."""
        if self._process is not None:
            return self._process.returncode == 0
        return not self._directory.redis_pid.exists()  # Redis removes it at an orderly end only

    async def stop(self) -> None:
        """Have it flush its data and end; if it has not after 30 s, kill it. Returns when it is gone.

        Raises: StartError if an adopted one can be neither found nor outwaited.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STOP_TIMEOUT_S
        pid = self.pid
        again = 0.0
        while self._alive():
            if loop.time() > deadline:
                if pid is None:
                    raise StartError(
                        f"a redis-server that cannot be reached holds {self._directory.path}; end it, then start again"
                    )
                log.error("the private Redis does not stop; killing it", pid=pid)
                _signal(pid, signal.SIGKILL)
                deadline = loop.time() + _STOP_TIMEOUT_S
            elif loop.time() >= again and pid is not None:
                # Repeated: while Redis writes its first append-only file it refuses to stop.
                _signal(pid, signal.SIGTERM)
                _signal(pid, signal.SIGCONT)  # or a suspended one would not act on it
                again = loop.time() + 1.0
            await asyncio.sleep(_POLL_S)

    def _alive(self) -> bool:
        return self._process.returncode is None if self._process is not None else self._directory.redis_lives()


def _arguments(directory: DataDirectory, config: Config, socket_path: str) -> list[str]:
    """The command line: the user's file first, so that what this program depends on comes after it and holds."""
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": str(directory.path),
        "daemonize": "no",
        "supervised": "no",
        "pidfile": str(directory.redis_pid),
        "logfile": str(directory.redis_log),
        "appendonly": "yes",
        "appendfsync": config.appendfsync,
        "save": "",
        # Each client may have a connection of its own, and the server has some for all of them.
        "maxclients": str(config.max_clients + 128),
        # A stored tensor is its argument and a header.
        "proto-max-bulk-len": str(config.max_argument_bytes + 1024 * 1024),
    }
    if config.require_password:  # in a file, since anybody may read a command line
        options["include"] = str(directory.password_conf)
    return [str(directory.redis_conf), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _listener_pid(socket_path: str) -> int | None:
    """The process that listens on a unix socket, as the kernel tells whoever connects."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        try:
            connection.connect(socket_path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
