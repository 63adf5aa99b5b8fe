"""Progress on stderr: of long transfers, if it is a terminal, and of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["bar", "spinner", "steps"]


@contextmanager
def bar(now: str, afterwards: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for the `with` block; shows nothing unless stderr is a terminal.

    Args:   now, afterwards: texts during the transfer, and once all is sent and the server works; by default the same.
    Yields: a function of the bytes done and the total.
    """
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(now, total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if done >= total:  # the duration of a load or a run is unknown
                progress.update(task, description=now if afterwards is None else afterwards, total=None)

        yield report


@contextmanager
def spinner(now: str) -> Iterator[None]:
    """A text and the time that has passed, on a terminal; redis-py does not say how much of a reply has come."""
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    with _progress(SpinnerColumn(), TimeElapsedColumn()) as progress:
        progress.add_task(now, total=None)
        yield


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """Progress in steps on stderr: a bar on a terminal, otherwise a line for each.

    Yields: a function of a step's name, its number from 0, and the number of steps.
    """
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with _progress(BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn()) as progress:
        if progress.disable:
            yield lambda step, number, steps: typer.echo(f"{number + 1}/{steps} {step}", err=True)
            return
        task = progress.add_task("", total=None)
        yield lambda step, number, steps: progress.update(task, description=step, completed=number, total=steps)


def _progress(*columns: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal)
