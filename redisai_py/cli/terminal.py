"""Commands to type in a second terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from redisai_py.cli.options import DEFAULT_URL

__all__ = ["lines_to_enter"]


def lines_to_enter(url: str) -> list[str]:
    """Lines that make `redisai` talk to the server at the URL; they enter the virtual environment if necessary."""
    lines = []
    binaries = Path(sys.prefix) / "bin"
    activate = binaries / "activate"
    if shutil.which("redisai") != str(binaries / "redisai") and activate.exists():
        here = Path.cwd()
        path = os.path.relpath(activate, here) if activate.is_relative_to(here) else str(activate)
        lines.append(f". {shlex.quote(path)}")
    where = "" if url == DEFAULT_URL else f" --url {shlex.quote(url)}"
    return [*lines, f"redisai ping{where}"]
