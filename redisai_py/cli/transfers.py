"""Progress of long transfers, on stderr if it is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["Bar", "bar", "spinner"]


class Bar:
    """The progress of one transfer."""

    def __init__(self, progress: Progress, now: str, afterwards: str) -> None:
        self._progress = progress
        self._task = progress.add_task(now, total=None)
        self._afterwards = afterwards

    def sent(self, sent: int, total: int) -> None:
        """Report sent bytes. Once all are sent, the server works."""
        self._progress.update(self._task, completed=sent, total=total)
        if sent >= total:
            # The duration of a load or a run is unknown.
            self._progress.update(self._task, description=self._afterwards, total=None)


@contextmanager
def bar(now: str, afterwards: str = "") -> Iterator[Bar]:
    """A progress bar for the `with` block; shows nothing unless stderr is a terminal.

    Args: now, afterwards: texts during and after the transfer.
    """
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with _progress(*columns) as progress:
        yield Bar(progress, now, afterwards)


@contextmanager
def spinner(now: str) -> Iterator[None]:
    """A text and the time that has passed, on a terminal; redis-py does not say how much of a reply has come."""
    with _progress(SpinnerColumn(), TimeElapsedColumn()) as progress:
        progress.add_task(now, total=None)
        yield


def _progress(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True, markup=False, highlight=False)
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal)
