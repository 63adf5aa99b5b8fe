"""Exit codes, and how a command fails: one line on stderr that says what and why."""

from __future__ import annotations

from enum import IntEnum

import typer

__all__ = ["CannotUse", "Exit", "fail"]


class Exit(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class CannotUse(Exception):
    """An option or a local file cannot be used; the text is one line."""


def fail(code: Exit, text: str) -> typer.Exit:
    """Print the reason. Returns: the exception to raise."""
    typer.echo(f"redisai: {' '.join(text.split())}", err=True)
    return typer.Exit(code)
