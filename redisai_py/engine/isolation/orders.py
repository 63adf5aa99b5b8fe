"""Orders to an engine process: records of a fixed size on its control sockets. Pure.

The manager's control socket carries JOIN alone: a front door's control socket comes with it. A front door's carries the
others: the socket and memory of a lane, a pipe or a script lane come with OPEN, OPEN_PIPE and OPEN_SCRIPTS.
"""

from __future__ import annotations

import struct

__all__ = ["JOIN", "OPEN", "OPEN_PIPE", "OPEN_SCRIPTS", "ORDER", "STOP", "STOP_IN_PIPE", "STUCK", "UNABLE"]

ORDER = struct.Struct("<BIQ")
"""What, the number of the lane or pipe, and of the model or the run."""
OPEN, STOP, OPEN_PIPE, STOP_IN_PIPE, JOIN, OPEN_SCRIPTS = 1, 2, 3, 4, 5, 6

STUCK = 93
"""Exit status of an engine process in which a run of a front door that has ended could not be stopped."""
UNABLE = 94
"""The same of one that has no memory left for its own work."""
