"""The table's parsers, by the name that a command begins with."""

from __future__ import annotations

from typing import Any

from redisai_py.commands import COMMANDS


def parse(argv: list[Any]) -> Any:
    """The request of a command's words. Raises: CommandError."""
    return COMMANDS[bytes(argv[0]).upper()].parse(argv)
