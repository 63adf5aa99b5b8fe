"""The names of the server's processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["show_name"]


def show_name(name: str) -> None:
    """Give this process the name that `ps -o comm` and `top` show, at most 15 bytes of it."""
    with contextlib.suppress(OSError):  # not on macOS
        Path("/proc/self/comm").write_text(name)
