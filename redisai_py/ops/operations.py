"""Background services for the operator: the HTTP endpoint, preloading, and cleanup."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client.exposition import choose_encoder

from redisai_py.errors import UpstreamError
from redisai_py.ops.http import HttpEndpoint, Response
from redisai_py.ops.metrics import Metrics, gather
from redisai_py.ops.sweep import keep_house
from redisai_py.serve.preflight import StartError
from redisai_py.upstream.pulse import Pulse

if TYPE_CHECKING:
    from redisai_py.frontdoor.server import Server

__all__ = ["Operations"]

logger = structlog.get_logger()


def _report_failure(task: asyncio.Task[None]) -> None:
    """Work in the background that ends in an error is a bug; nobody else would tell of it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background work ended", exc_info=error)


class Operations:
    """Started before the first client is accepted, ended after the last one has left."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._http: HttpEndpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen for HTTP, if that is wanted, and begin to keep house. Raises StartError: the port cannot be had."""
        config = self._server.config
        if config.http:
            self._http = HttpEndpoint({"/metrics": self._metrics, "/healthz": self._healthy, "/readyz": self._ready})
            try:
                await self._http.listen(config.http_host, config.http)
            except OSError as error:
                why = error.strerror or error
                raise StartError(f"cannot listen on {config.http_host} port {config.http} for HTTP: {why}") from error
            logger.info("serving HTTP", host=config.http_host, port=config.http)
        self._begin(keep_house(self._server))
        self._begin(Pulse(self._server.dialer).beat())

    async def preload(self) -> None:
        """Try once to load what is to be preloaded, for at most 10 s; the rest is loaded beside everything else."""
        preload = self._server.preload
        if preload.obstacles:
            await preload.attempt()
            self._begin(preload.insist())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_report_failure)
        self._tasks.append(task)

    async def close(self) -> None:
        """End all of it."""
        await self._server.preload.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _metrics(self, headers: Mapping[str, str]) -> Response:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        figures = await gather(self._server)
        body = await asyncio.get_running_loop().run_in_executor(None, partial(encode, Metrics(figures)))
        return Response(HTTPStatus.OK, body, content_type)

    async def _healthy(self, headers: Mapping[str, str]) -> Response:
        """The process lives and its event loop turns; nothing else is said."""
        return Response(HTTPStatus.OK, b"ok\n")

    async def _ready(self, headers: Mapping[str, str]) -> Response:
        """Whether clients should be sent here; if not, one line per reason."""
        obstacles = list(self._server.obstacles)
        try:
            await self._server.control.ping()
        except UpstreamError as error:
            obstacles.append(str(error).removeprefix("ERR "))
        if not obstacles:
            return Response(HTTPStatus.OK, b"ok\n")
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join([*obstacles, ""]).encode())
