"""Exit codes, and the one way in which a command fails: one line on stderr that says what and why."""

from __future__ import annotations

from enum import IntEnum

import typer

__all__ = ["CannotUse", "Exit", "fail"]


class Exit(IntEnum):
    """What the exit code of a command says."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class CannotUse(Exception):
    """An option, or a file of this machine, cannot be used; the text is one line."""


def fail(code: Exit, text: str) -> typer.Exit:
    """Print the reason. Returns: what to raise."""
    typer.echo(f"redisai: {' '.join(text.split())}", err=True)
    return typer.Exit(code)
