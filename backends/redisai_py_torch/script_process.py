"""What an engine process needs for running scripts. docs/adr/0052.

`prepare` is called in the process from which it is forked, and may neither start a thread nor touch CUDA.
"""

from __future__ import annotations

from redisai_py_torch.script_language import prepare
from redisai_py_torch.script_worker import OUT_OF_MEMORY_STATUS, Lane
from redisai_py_torch.script_worker import serve as serve_worker

__all__ = ["prepare", "serve"]


def serve(lane: Lane) -> int:
    """Serve the server until it hangs up. Returns: the status to end with; 0: the server ends the process."""
    try:
        serve_worker(lane)
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    return 0
