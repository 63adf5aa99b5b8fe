"""The HTTP endpoint under clients that mean it no good."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

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
