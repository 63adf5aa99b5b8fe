"""Words of the supervisor to managers of engine processes, and about them; each comes with a socket."""

from __future__ import annotations

__all__ = ["ANCESTOR", "DOOR", "HEIR", "MANAGER"]

DOOR = b"d"
"""To a front door."""
HEIR = b"h"
"""To the spare manager, which inherits from this one."""
ANCESTOR = b"a"
"""To the manager from which this one inherits."""
MANAGER = b"m"
"""Said to a front door: to the manager."""
