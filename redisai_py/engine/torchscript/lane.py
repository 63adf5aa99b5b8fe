"""The server's end of the memory that it shares with one script worker; `calls` says what lies in it. The other end is
`isolation.host_scripts`.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisai_py.engine.isolation import memory
from redisai_py.engine.isolation.memory import LANE_BYTES, SCRIPT_LANE_BYTES
from redisai_py.engine.torchscript import calls
from redisai_py.engine.torchscript.calls import END, Result
from redisai_py.tensor import Buffer

__all__ = ["FREE_BYTES", "Lane"]

FREE_BYTES = LANE_BYTES - len(END)
"""What the calls of one batch may take."""


class Lane:
    """fd: a file of SCRIPT_LANE_BYTES, which the caller closes."""

    __slots__ = ("_answers", "_at", "_requests", "_taken")

    def __init__(self, fd: int) -> None:
        both = memoryview(memory.mapped(fd, SCRIPT_LANE_BYTES))
        self._requests = both[:LANE_BYTES]
        self._answers = both[LANE_BYTES:]
        self._taken = 0
        self._at = calls.RESULTS_AT

    def write(self, messages: Sequence[Buffer]) -> None:
        """Put a batch there, in place of the last one: of all calls the pieces, which take FREE_BYTES at most."""
        data = b"".join((*messages, END))
        self._requests[: len(data)] = data
        calls.reset(self._answers)
        self._taken = 0
        self._at = calls.RESULTS_AT

    def begun(self) -> int:
        """How many calls of the batch the worker has begun."""
        return calls.progress(self._answers)[0]

    def take(self, count: int) -> list[Result]:
        """The results that are there and have not been taken. count: of the batch's calls. Raises: ProtocolError."""
        finished = min(calls.progress(self._answers)[1], count)
        results = []
        while self._taken < finished:
            result = calls.read_result(self._answers, self._at)
            self._at = result.end
            self._taken += 1
            results.append(result)
        return results
