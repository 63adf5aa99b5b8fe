"""A script lane's far end, in an engine process that runs scripts: one call after the other, on a thread of its own.

The process has no other lane, and no model: it serves one user (docs/adr/0018). A script cannot be stopped, so whoever
opened the lane has the process killed.
"""

from __future__ import annotations

import importlib
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.vital import VitalThread
from redisai_py.engine.isolation.wire import Part
from redisai_py.engine.torchscript import calls
from redisai_py.engine.torchscript.calls import Results
from redisai_py.engine.torchscript.frames import DONE
from redisai_py.framing import Frame, FrameReader, encode_frame
from redisai_py.tensor import Buffer, DType

__all__ = ["HostScripts", "prepare"]

_MODULE = "redisai_py_torch.script_worker"


def prepare() -> None:
    """Do what all processes of scripts need, before they are forked."""
    importlib.import_module(_MODULE).prepare()


class HostScripts:
    """Has the framework's plugin serve the lane until the front door closes it. What a script breaks ends the process.

    fd: the file of the memory that server and process share (`torchscript.lane`), closed here.
    """

    def __init__(self, sock: socket.socket, fd: int) -> None:
        self._sock = sock
        self._reader = FrameReader()
        both = memoryview(memory.mapped(fd, memory.SCRIPT_LANE_BYTES))
        os.close(fd)
        self.requests = both[: memory.LANE_BYTES]
        """Where the messages of calls lie, to be written to by the scripts whose inputs they are."""
        self.results = Results(both[memory.LANE_BYTES :])
        self.thread = VitalThread(self._work, "redisai scripts")

    @property
    def is_running(self) -> bool:
        """Whether it still serves."""
        return self.thread.is_alive()

    def hang_up(self) -> None:
        """The thread ends, unless it is in a script."""
        with suppress(OSError):  # the front door was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        try:
            status = importlib.import_module(_MODULE).serve(self)
        except BaseException:
            traceback.print_exc()
            status = 1
        if status:
            os._exit(status)

    # -- what the plugin uses ------------------------------------------------------------------------------------------

    def send(self, header: dict[str, Any], parts: Sequence[Buffer] = ()) -> None:
        """Send a frame. parts: its payload."""
        for buffer in encode_frame(header, parts):
            self._sock.sendall(buffer)

    def send_done(self) -> None:
        """Send the frame that says that the calls in the shared memory have run."""
        self._sock.sendall(DONE)

    def receive(self) -> Frame:
        """The next frame; its payload is writable memory that nobody else uses.

        Raises: EOFError: the server is gone.   MemoryError: the payload exceeds the memory limit.
        """
        while count := self._sock.recv_into(self._reader.buffer()):
            for frame in self._reader.received(count):
                return frame  # the only one: the server sends nothing more until it is answered
        raise EOFError

    def calls(self) -> Iterator[tuple[int, list[Part]]]:
        """See `calls.read_calls`."""
        return calls.read_calls(self.requests)

    @staticmethod
    def dtype_of(code: int) -> DType:
        """The element type of a tensor."""
        return wire.dtype_of(code)
