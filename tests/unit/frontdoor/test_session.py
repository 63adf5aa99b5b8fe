"""A client's state at Redis, where the client leaves while it waits."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from redisai_py.errors import UpstreamError
from redisai_py.frontdoor.session import Session


class _Accesses:
    """One access, which other clients have too; its connection is open once `opened` is set."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.clients = 1

    def acquire(self, identity: Any) -> Any:
        self.clients += 1
        return self

    def release(self, access: Any) -> None:
        self.clients -= 1

    async def ensure(self) -> None:
        await self.opened.wait()


@pytest.mark.parametrize("leaves", [False, True])
def test_a_client_leaves_while_its_access_is_opened(leaves: bool) -> None:
    async def run() -> None:
        accesses = _Accesses()
        turn = SimpleNamespace(services=SimpleNamespace(accesses=accesses), gone=False)
        session = Session(cast(Any, turn), on_accepted=lambda accepted: None, on_flow=lambda waits: None)
        waiting = asyncio.create_task(session.authenticated_in_multi())
        await asyncio.sleep(0)
        if leaves:
            session.close()
        accesses.opened.set()
        if leaves:
            with pytest.raises(UpstreamError, match="client disconnected"):
                await waiting
        else:
            assert cast(Any, await waiting) is accesses
        assert accesses.clients == (1 if leaves else 2)

    asyncio.run(run())
