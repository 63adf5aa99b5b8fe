"""Connections to Redis that are given up while they are being opened."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Address, Identity
from redisai_py.upstream.single import SingleServer


@pytest.mark.parametrize(
    ("near_bytes", "answered"),
    [(0, 0), (0, 1), (0, 2), (0, 3), (1 << 20, 0), (1 << 20, 3)],
)
def test_closing_while_a_connection_is_opened_leaves_none_open(near_bytes: int, answered: int) -> None:
    async def scenario() -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(answered):
                await reader.read(65536)  # one command: each waits for the answer to the one before
                writer.write(b"+OK\r\n")
            await reader.read(65536)
            asked.set()
            while await reader.read(65536):
                pass
            writer.close()
            ended.set()

        server = await asyncio.start_server(redis, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        access = Access(
            SingleServer(Address("127.0.0.1", port), Identity(b"user", b"password"), upstream_pool=1),
            near_bytes,
            asyncio.get_running_loop().call_soon,
        )
        waiting = asyncio.create_task(access.ensure())
        await asked.wait()
        access.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(ended.wait(), 20)
        server.close()

    uvloop.run(scenario())
