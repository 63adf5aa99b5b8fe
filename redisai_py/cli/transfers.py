"""Progress of long transfers: a bar on stderr while bytes go out or come in, if somebody is looking.

Bytes out are told by the client's own `progress`. Bytes in are counted where redis-py's parser takes them from the
socket, since a reply is one value, complete or not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.connection import DefaultParser
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

__all__ = ["Bar", "Meter", "MeteredParser", "bar"]


class Meter:
    """Counts the bytes that arrive on a client's connections and tells them to `report`, if anybody listens."""

    def __init__(self) -> None:
        self.report: Callable[[int], object] | None = None

    def count(self, received: int) -> None:
        """More bytes came."""
        if self.report is not None:
            self.report(received)


class _MeteredSocket:
    def __init__(self, socket: Any, meter: Meter) -> None:
        self._socket = socket
        self._meter = meter

    def recv_into(self, *args: Any) -> int:
        received: int = self._socket.recv_into(*args)
        self._meter.count(received)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class MeteredParser(DefaultParser):  # type: ignore[misc,valid-type]  # redis-py chooses it at run time
    """redis-py's parser, reading from a socket that counts."""

    def __init__(self, meter: Meter, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._meter = meter

    def on_connect(self, connection: Any, **kwargs: Any) -> None:
        """As redis-py's; the socket is wrapped."""
        super().on_connect(connection, **kwargs)
        self._sock: Any = _MeteredSocket(self._sock, self._meter)


class Bar:
    """One transfer's progress."""

    def __init__(self, progress: Progress, now: str, afterwards: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(now, total=total)
        self._afterwards = afterwards

    def sent(self, sent: int, total: int) -> None:
        """So many bytes are out; when all are, the server has its turn."""
        self._progress.update(self._task, completed=sent, total=total)
        if sent >= total:
            # Nobody knows how long a framework takes to load a model or to run it.
            self._progress.update(self._task, description=self._afterwards, total=None)

    def received(self, count: int) -> None:
        """More bytes are in."""
        self._progress.advance(self._task, count)


@contextmanager
def bar(now: str, afterwards: str = "", total: int | None = None) -> Iterator[Bar]:
    """A bar that is there inside the `with`; nothing is shown unless stderr is a terminal.

    Args: now, afterwards: what is said while bytes move, and when they have.   total: bytes, None if unknown.
    """
    console = Console(stderr=True, markup=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, now, afterwards, total)
