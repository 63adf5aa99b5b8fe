"""The HTTP endpoint under clients that mean it no good."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pytest

from redisai_py.ops.http import HttpEndpoint, Response


async def _ok(headers: Mapping[str, str]) -> Response:
    return Response(HTTPStatus.OK, b"ok\n")


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def test_slow_clients_do_not_keep_a_health_check_out() -> None:
    """Whether they say nothing, or a little at a time."""

    async def scenario() -> None:
        endpoint = HttpEndpoint({"/healthz": _ok})
        await endpoint.listen("127.0.0.1", 0)
        slow = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(200)]
        for _, writer in slow[::2]:
            writer.write(b"GET /healthz HT")
        answers = [await _ask(endpoint.port) for _ in range(3)]
        assert all(answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"ok\n") for answer in answers)
        # The oldest have made room: of those, at least, nothing is kept.
        assert await asyncio.wait_for(slow[0][0].read(), 20) == b""
        for _, writer in slow:
            writer.close()
        await endpoint.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /x HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        (b"GET /x?a=b HTTP/1.0\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nHost: 127.9.9.9\r\nAccept: a\r\nAccept: b\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
        (b"HEAD /x HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /X HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /x HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n", 421),
        (b"GET /x HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        (b"GET /x HTTP/2\r\n\r\n", 400),
        (b"GET /x\r\n\r\n", 400),
        (b"GET http://[x HTTP/1.1\r\n\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 400),
    ],
)
def test_requests(request_: bytes, status: int) -> None:
    async def scenario() -> bytes:
        async def handler(headers: Any) -> Any:
            return Response(HTTPStatus.OK, repr(headers.get("accept")).encode())

        endpoint = HttpEndpoint({"/x": handler})
        await endpoint.listen("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        writer.write(request_)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await endpoint.close()
        return answer

    answer = asyncio.run(scenario())
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (body == b"") == request_.startswith(b"HEAD")
    if b"Accept" in request_:
        assert body == b"'a, b'"
    if not request_.startswith(b"HEAD"):
        assert b"Content-Length: %d" % len(body) in head
