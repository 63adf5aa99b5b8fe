"""Names of the installed backends: one list for the server, the client and the command line."""

from __future__ import annotations

from importlib import metadata

__all__ = ["ENTRY_POINT_GROUP", "backend_names"]

ENTRY_POINT_GROUP = "redisai_py.backends"
"""Entry-point group of backends; an entry's name is the backend's wire name, in any case."""


def backend_names() -> list[str]:
    """Wire names of the installed plugins, upper case, sorted; none is imported."""
    return sorted({point.name.upper() for point in metadata.entry_points(group=ENTRY_POINT_GROUP)})
