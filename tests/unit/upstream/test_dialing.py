"""What a connection to Redis is opened with."""

from __future__ import annotations

import asyncio
import socket

import pytest

from redisai_py.upstream.address import Address
from redisai_py.upstream.dialing import Dialer, UpstreamSettings
from redisai_py.upstream.shared import SharedUpstream


@pytest.mark.parametrize("keepalive_s", [0, 60])
def test_keepalive_of_a_connection_to_redis(keepalive_s: int) -> None:
    """Idle for that long, then three probes in as long again; and what is sent is acknowledged in twice that time."""

    async def scenario(port: int) -> dict[str, int]:
        dialer = Dialer(Address(port=port), UpstreamSettings(upstream_keepalive_s=keepalive_s))
        upstream = await dialer.open(SharedUpstream)
        connection = upstream.transport.get_extra_info("socket")
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        options = {n: connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names}
        options["SO_KEEPALIVE"] = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        upstream.transport.abort()
        return options

    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = asyncio.run(scenario(listener.getsockname()[1]))
    if not keepalive_s:
        assert options["SO_KEEPALIVE"] == 0
        return
    assert options == {
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": 60,
        "TCP_KEEPINTVL": 20,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 120_000,
    }
