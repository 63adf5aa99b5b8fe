"""The server: what all connections share, and its life from listening to the last drained run.

Shutdown, in this order: stop accepting, close idle connections, let what is under way finish within the drain
timeout, close the rest, stop the engine and its threads, close the connections to Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from redisai_py.config import Config
from redisai_py.engine.engine import Engine
from redisai_py.engine.scripts import ScriptEngine, ScriptSettings
from redisai_py.engine.settings import EngineSettings
from redisai_py.engine.stats import StatsTable
from redisai_py.errors import RedisAIError
from redisai_py.resp import Frames
from redisai_py.server.access import AccessTable
from redisai_py.server.connection import Connection
from redisai_py.server.session import Session
from redisai_py.server.upstream import Address

__all__ = ["Server", "serve"]

_log = logging.getLogger(__name__)


class Server:
    """State shared by the connections of one process."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.loop = loop
        self.address = Address.from_url(config.redis or "redis://127.0.0.1:6379")
        self.accesses = AccessTable(self.address, config.upstream_pool, config.near_cache_bytes)
        self.frames = Frames()
        self.engine = Engine(engine_settings(config), loop)
        self.scripts = ScriptEngine(
            ScriptSettings(
                workers=config.worker_threads,
                timeout_ms=config.script_execution_timeout_ms,
                memory_limit_bytes=config.script_memory_limit_mb * 1_000_000,
                intra_op_threads=config.intra_op_threads,
            ),
            loop,
        )
        self.script_stats = StatsTable()
        self.connections: set[Connection] = set()
        self.model_chunk_size = config.model_chunk_size
        self.backends_path = ""
        self.started_at = time.monotonic()
        self.commands_processed = 0
        self.connections_accepted = 0
        self.internal_errors = 0
        self.draining = False
        self._unflushed: list[Session] = []
        self._all_left = asyncio.Event()

    def flush_later(self, session: Session) -> None:
        """Flush a client's replies at the end of this iteration of the event loop."""
        if not self._unflushed:
            self.loop.call_soon(self._flush)
        self._unflushed.append(session)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for session in unflushed:
            session.flush()

    def joined(self, connection: Connection) -> None:
        """A client connected."""
        self.connections_accepted += 1
        if len(self.connections) >= self.config.max_clients:
            connection.transport.write(b"-ERR max number of clients reached\r\n")
            connection.transport.close()
            return
        self.connections.add(connection)

    def left(self, connection: Connection) -> None:
        """A client is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_left.set()

    def internal_error(self, error: BaseException) -> RedisAIError:
        """Log a bug of ours under an id; the reply that names the id."""
        error_id = uuid.uuid4().hex[:8]
        self.internal_errors += 1
        _log.error("internal error %s", error_id, exc_info=error)
        return RedisAIError(f"ERR internal error {error_id}")

    async def drain(self, timeout_s: float) -> None:
        """Let commands under way finish, at most `timeout_s`; then close every client."""
        self.draining = True
        for connection in list(self.connections):
            connection.transport.pause_reading()
            connection.leave_if_idle()
        if self.connections:
            self._all_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), timeout_s)
        for connection in list(self.connections):
            connection.transport.abort()


def engine_settings(config: Config) -> EngineSettings:
    """The engine's part of the settings."""
    return EngineSettings(
        threads_per_queue=config.worker_threads,
        intra_op=config.intra_op_threads,
        inter_op=config.inter_op_parallelism,
        model_execution_timeout_ms=config.model_execution_timeout_ms,
        backend_memory_limit_bytes=config.backend_memory_limit_mb * 1_000_000,
        loaded_models_limit_bytes=config.loaded_models_budget_bytes,
        queue_limit=config.queue_limit,
        auto_batch=config.auto_batch,
    )


async def serve(config: Config, listener: socket.socket, *, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve clients of a bound socket until `stop` is set, then drain.

    Args: config: its `redis` names the upstream server.   ready: called once connections are accepted.
    """
    loop = asyncio.get_running_loop()
    server = Server(config, loop)
    acceptor: Any = await loop.create_server(lambda: Connection(server), sock=listener, backlog=config.backlog)
    ready()
    try:
        await stop.wait()
        acceptor.close()
        await server.drain(config.drain_timeout_s)
    finally:
        acceptor.close()
        await server.engine.close(config.drain_timeout_s)
        await server.scripts.close()
        server.accesses.close()
