"""Progress of long transfers: a bar on stderr, if it is a terminal.

The client's own `progress` reports sent bytes. Received bytes are counted where redis-py's parser takes them from the
socket, because a reply is a single value.
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
    """Counts the bytes that arrive on a client's connections and passes them to `report`, if set."""

    def __init__(self) -> None:
        self.report: Callable[[int], object] | None = None

    def count(self, received: int) -> None:
        """Count received bytes."""
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


class MeteredParser(DefaultParser):  # type: ignore[misc,valid-type]  # redis-py selects it at run time
    """redis-py's parser, reading from a counting socket."""

    def __init__(self, meter: Meter, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._meter = meter

    def on_connect(self, connection: Any, **kwargs: Any) -> None:
        """As redis-py's, with the socket wrapped."""
        super().on_connect(connection, **kwargs)
        self._sock: Any = _MeteredSocket(self._sock, self._meter)


class Bar:
    """The progress of one transfer."""

    def __init__(self, progress: Progress, now: str, afterwards: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(now, total=total)
        self._afterwards = afterwards

    def sent(self, sent: int, total: int) -> None:
        """Report sent bytes. Once all are sent, the server works."""
        self._progress.update(self._task, completed=sent, total=total)
        if sent >= total:
            # The duration of a load or a run is unknown.
            self._progress.update(self._task, description=self._afterwards, total=None)

    def received(self, count: int) -> None:
        """Report received bytes."""
        self._progress.advance(self._task, count)


@contextmanager
def bar(now: str, afterwards: str = "", total: int | None = None) -> Iterator[Bar]:
    """A progress bar for the `with` block; shows nothing unless stderr is a terminal.

    Args: now, afterwards: texts during and after the transfer.   total: bytes, None if unknown.
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
