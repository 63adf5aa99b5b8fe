"""The HTTP endpoint for operators: `/metrics`, `/healthz`, `/readyz`. Read-only, and too small for a web framework.

Rules: GET and HEAD only; one request per connection. A client that is slow or sends too much is cut off; with too many
connections the oldest is closed, so that slow clients never block a health check. While it listens on a loopback
address, the `Host` header must be one too: a web page whose name resolves to 127.0.0.1 must not read this. The event
loop's thread only gathers numbers; another thread writes the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import structlog

__all__ = ["Handler", "HttpEndpoint", "Response"]

REQUEST_TIMEOUT_S = 10.0
_LONGEST_REQUEST = 16 * 1024
_MAX_CONNECTIONS = 64

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Response:
    """body: sent only for a GET."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Mapping[str, str]], Awaitable[Response]]
"""Headers of the request, with lower-case names, to the response."""


def _text(status: HTTPStatus, text: str) -> Response:
    return Response(status, f"{text}\n".encode())


class HttpEndpoint:
    """Args: handlers: by exact path."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._servers: list[asyncio.Server] = []
        self._any_host = False
        self._open: dict[asyncio.Task[None], None] = {}  # oldest first

    async def listen(self, host: str, port: int, bound: Sequence[socket.socket] = ()) -> None:
        """Start listening, on sockets that are already bound if there are any. Raises OSError."""
        if bound:
            starts = [asyncio.start_server(self._connected, sock=each, limit=_LONGEST_REQUEST) for each in bound]
        else:
            starts = [asyncio.start_server(self._connected, host, port, limit=_LONGEST_REQUEST)]
        self._servers = [await start for start in starts]
        self._any_host = not all(_is_loopback(each.getsockname()) for each in self._sockets)

    @property
    def port(self) -> int:
        """The port bound."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def _sockets(self) -> list[socket.socket]:
        return [each for server in self._servers for each in server.sockets]

    async def close(self) -> None:
        """Stop listening and close open connections."""
        for server in self._servers:
            server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        if len(self._open) > _MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client left, or was too slow
        except asyncio.CancelledError:
            pass  # closed for a newer client, or the server stops; asyncio's streams would log it as an error
        except Exception:
            logger.exception("an HTTP request failed")
        finally:
            self._open.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        try:
            method, path, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
            response = await self._respond(method, path, headers)
        except (ValueError, asyncio.LimitOverrunError):
            response = _text(HTTPStatus.BAD_REQUEST, "bad request")
        status = response.status
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            "Connection: close",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
        ]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else response.body))
        await writer.drain()

    async def _respond(self, method: str, path: str, headers: Mapping[str, str]) -> Response:
        if not self._any_host and not _names_loopback(headers.get("host")):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "this host is not served here")
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "read-only")
        if path == "/":
            return _text(HTTPStatus.OK, "\n".join(self._handlers))
        handler = self._handlers.get(path)
        if handler is None:
            return _text(HTTPStatus.NOT_FOUND, "not found; there are " + ", ".join(self._handlers))
        return await handler(headers)


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path without query, and headers. Raises ValueError."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name != name.strip() or (name == "host" and name in headers):
            raise ValueError(line)
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return method, urlsplit(target).path, headers


def _is_loopback(address: tuple[str, ...]) -> bool:
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def _names_loopback(host: str | None) -> bool:
    """Whether a Host header names this machine's loopback. Browsers always send one, so a missing one is fine."""
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
