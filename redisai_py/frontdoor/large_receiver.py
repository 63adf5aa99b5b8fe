"""Large arguments of commands, received by the kernel straight into their own memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["LargeReceiver", "allocate"]


def allocate(size: int) -> memoryview:
    """Memory whose pages the kernel does not touch until it fills them; bytearray would write zeros first."""
    return np.empty(size, np.uint8).data


class LargeReceiver(asyncio.BufferedProtocol):
    """Stands in for the connection while a large argument arrives, so that the kernel writes into the final buffer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connection.parser.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.large_received(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
