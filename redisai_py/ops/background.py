"""Background services for the operator: the HTTP endpoint, preloading, and cleanup."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from prometheus_client.exposition import choose_encoder

from redisai_py.errors import RedisAIError
from redisai_py.frontdoor.services import Services
from redisai_py.ops import cache_rules, sweep
from redisai_py.ops.aggregate import aggregate
from redisai_py.ops.http import HttpEndpoint, Response
from redisai_py.ops.metrics import Metrics, gather
from redisai_py.ops.preload import Preload
from redisai_py.ops.sibling_handler import keep_reporting_counts
from redisai_py.ops.tallies import ClientFigures, server_state
from redisai_py.serve.preflight import StartError
from redisai_py.upstream.health_check import HealthCheck

__all__ = ["BackgroundServices"]

logger = structlog.get_logger()


def _report_failure(task: asyncio.Task[None]) -> None:
    """Log an error of a background task: it is a bug that nobody else would report."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background work ended", exc_info=error)


async def _repeat(interval_s: float, work: Callable[[Services], Awaitable[None]], services: Services) -> None:
    """Do the work at intervals, until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        await work(services)


class BackgroundServices:
    """Started before the first client is accepted, ended after the last one has left."""

    def __init__(
        self,
        services: Services,
        clients: Callable[[], ClientFigures],
        preload: Preload,
        obstacles: Callable[[], list[str]],
        http: Sequence[socket.socket] = (),
    ) -> None:
        self._services = services
        self._clients = clients
        self._preload = preload
        self._obstacles = obstacles
        self._http_sockets = http
        self._http: HttpEndpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen for HTTP, if configured, and start cleanup. Raises StartError: the port is unavailable."""
        config = self._services.config
        if config.http:
            self._http = HttpEndpoint({"/metrics": self._metrics, "/healthz": self._healthy, "/readyz": self._ready})
            try:
                await self._http.listen(config.http_host, config.http, self._http_sockets)
            except OSError as error:
                why = error.strerror or error
                raise StartError(f"cannot listen on {config.http_host} port {config.http} for HTTP: {why}") from error
            logger.info("serving HTTP", host=config.http_host, port=config.http)
        self._begin(_repeat(sweep.INTERVAL_S, sweep.sweep, self._services))
        self._begin(_repeat(cache_rules.INTERVAL_S, cache_rules.refresh, self._services))
        self._begin(keep_reporting_counts(self._services))
        self._begin(HealthCheck(self._services.dialer).run())

    async def preload(self) -> None:
        """Try once to preload the models, for at most 10 s; the rest is loaded in the background."""
        preload = self._preload
        if preload.obstacles:
            await preload.attempt()
            self._begin(preload.retry())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

    async def end_http(self) -> None:
        """Answer no more: another process does."""
        if self._http is not None:
            await self._http.close()

    async def close(self) -> None:
        """End all services."""
        await self._preload.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _metrics(self, headers: Mapping[str, str]) -> Response:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        try:
            figures = await gather(self._services, self._clients(), self._obstacles)
        except RedisAIError as error:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
        body = await asyncio.get_running_loop().run_in_executor(None, partial(encode, Metrics(figures)))
        return Response(HTTPStatus.OK, body, content_type)

    async def _healthy(self, headers: Mapping[str, str]) -> Response:
        """The process is alive and its event loop runs; nothing else is checked."""
        return Response(HTTPStatus.OK, b"ok\n")

    async def _ready(self, headers: Mapping[str, str]) -> Response:
        """Whether clients should use this server; if not, one line per reason."""
        services = self._services
        obstacles = self._obstacles()
        try:
            obstacles = (await aggregate(services, server_state(services, self._clients(), obstacles))).obstacles
            await services.control.ping()
        except RedisAIError as error:
            obstacles.append(str(error).removeprefix("ERR "))
        if not obstacles:
            return Response(HTTPStatus.OK, b"ok\n")
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join([*obstacles, ""]).encode())
