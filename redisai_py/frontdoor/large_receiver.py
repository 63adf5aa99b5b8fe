"""Large arguments of commands, received by the kernel straight into their final memory."""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np

from redisai_py.resp.requests import CommandParser

__all__ = ["LargeReceiver", "Receiver", "allocate"]


def allocate(size: int) -> memoryview:
    """Memory whose pages the kernel touches only when it fills them; bytearray would write zeros first."""
    return np.empty(size, np.uint8).data


class Receiver(Protocol):
    """The connection on whose behalf data is received."""

    def large_received(self, count: int) -> None:
        """`count` bytes went straight into a large argument."""

    def stalled(self) -> None:
        """The client has stopped sending."""

    # As in `asyncio.Protocol`.
    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class LargeReceiver(asyncio.BufferedProtocol):
    """Replaces the connection while a large argument arrives, so that the kernel writes into the final buffer."""

    def __init__(self, parser: CommandParser, connection: Receiver) -> None:
        self._parser = parser
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._parser.get_buffer()

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
