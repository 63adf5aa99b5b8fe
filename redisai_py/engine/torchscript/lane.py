"""The memory that the server and one script worker map both, at either end; `calls` says what lies in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.memory import LANE_BYTES
from redisai_py.engine.isolation.wire import Part
from redisai_py.engine.torchscript import calls
from redisai_py.engine.torchscript.calls import END, Result, Results
from redisai_py.tensor import Buffer, DType

__all__ = ["FREE_BYTES", "FarEnd", "Lane"]

FREE_BYTES = LANE_BYTES - len(END)
"""What the calls of one batch may take."""


class Lane:
    """The server's end. Raises: OSError: no more files, or no memory."""

    __slots__ = ("_answers", "_at", "_requests", "_taken", "fd")

    def __init__(self) -> None:
        self.fd = memory.create(2 * LANE_BYTES)
        """The file, to be handed to the worker and closed."""
        both = memoryview(memory.mapped(self.fd, 2 * LANE_BYTES))
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


class FarEnd:
    """The worker's end. fd: the file, which is closed here."""

    __slots__ = ("requests", "results")

    def __init__(self, fd: int) -> None:
        both = memoryview(memory.mapped(fd, 2 * LANE_BYTES))
        os.close(fd)
        self.requests = both[:LANE_BYTES]
        """Where the messages of calls lie, to be written to by the scripts whose inputs they are."""
        self.results = Results(both[LANE_BYTES:])

    def calls(self) -> Iterator[tuple[int, list[Part]]]:
        """See `calls.read_calls`."""
        return calls.read_calls(self.requests)

    @staticmethod
    def dtype_of(code: int) -> DType:
        """The element type of a tensor."""
        return wire.dtype_of(code)
