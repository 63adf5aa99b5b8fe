"""A model is read from Redis by one front door, and the others get its file from the manager. See docs/adr/0053.

Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress

from redisai_py.blobs import ModelFile
from redisai_py.engine.isolation.remote_manager import ManagerLost, RemoteManager

__all__ = ["SharedReads"]


class SharedReads:
    """One front door's side."""

    def __init__(self, manager: RemoteManager) -> None:
        self._manager = manager

    @asynccontextmanager
    async def claimed(self, what: str) -> AsyncIterator[None]:
        """Have the others that want the same wait until this is done. Goes ahead without that if there is no manager
        now, or another front door takes long.
        """
        number, claim = self._manager.claim(hashlib.sha256(what.encode()).hexdigest())
        try:
            with suppress(ManagerLost):
                await asyncio.wrap_future(claim)
            yield
        finally:
            self._manager.release(number)

    async def file_of(self, identity: str) -> ModelFile | None:
        """A model's bytes, if another front door has loaded it into an engine process."""
        answer = self._manager.file_of(identity)
        try:
            fd = await asyncio.wrap_future(answer)
            return ModelFile.over_fd(fd) if fd >= 0 else None
        except (ManagerLost, OSError):
            return None
        except BaseException:  # nobody waits any more
            answer.add_done_callback(_close)
            raise


def _close(answer: Future[int]) -> None:
    if not answer.cancelled() and answer.exception() is None and answer.result() >= 0:
        os.close(answer.result())
