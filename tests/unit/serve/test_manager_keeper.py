"""The supervisor's end of the process that manages engine processes. The processes are real."""

from __future__ import annotations

import asyncio
import socket
import sys

from redisai_py.config import Config
from redisai_py.engine.isolation.channel import Channel
from redisai_py.serve.heartbeat import ALIVE
from redisai_py.serve.manager_keeper import ManagerKeeper, _Manager


def test_a_manager_that_was_heard_and_then_is_silent_is_killed() -> None:
    async def watch(beats: bool) -> int | None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        with near, far:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
            keeper = ManagerKeeper(Config(stall_timeout_s=2))
            watching = asyncio.ensure_future(keeper._kill_if_silent(_Manager(process, near)))
            far.send(ALIVE)
            for _ in range(40):
                await asyncio.sleep(0.1)
                if beats:
                    far.send(ALIVE)
            status = process.returncode
            watching.cancel()
            if status is None:
                process.kill()
            await process.wait()
            return status

    async def both() -> list[int | None]:
        return await asyncio.gather(watch(False), watch(True))

    assert asyncio.run(both()) == [-9, None]


def test_front_doors_get_a_socket_to_each_manager() -> None:
    async def work() -> None:
        keeper = ManagerKeeper(Config(isolation="all", processes=2))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper.join(ours)
        await keeper.start()
        try:
            first = await asyncio.to_thread(_bring, theirs)
            assert keeper._manager is not None
            keeper._manager.kill()
            assert await asyncio.to_thread(first.recv, 100) == b""
            second = Channel(await asyncio.to_thread(_bring, theirs))
            second.send({"op": "import", "id": 1, "backend": "NOBODY_HAS_IT"})
            received = await asyncio.to_thread(second.receive)
            assert received is not None
            assert received[0]["missing"], "it is there, and answers"
            first.close()
            second.close()
        finally:
            theirs.close()
            keeper.left(ours)
            ours.close()
            await keeper.stop()
        assert keeper._manager.status == 0

    asyncio.run(work())


def _bring(sock: socket.socket) -> socket.socket:
    sock.settimeout(20)
    _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    return socket.socket(fileno=fds[0])
