"""The zygote process and its worker processes, as the server's event loop sees them.

`Zygote` starts the process (from a thread: that takes milliseconds, and importing torch in it seconds), requests
workers and learns of their ends. `Channel` exchanges frames with one worker. Both are used on the event loop's thread;
neither knows a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from redisai_py.engine.torchscript.frames import Frame, FrameReader
from redisai_py.errors import ProtocolError
from redisai_py.pending import Pending
from redisai_py.tensor import Buffer

__all__ = ["Channel", "Zygote", "ZygoteEvents"]

_BOOT = str(Path(__file__).with_name("boot.py"))
_MAX_ANSWER = 1 << 16
_MAX_PARTS = 512
_READS_PER_WAKE = 64


class ZygoteEvents(Protocol):
    """Gets the events of the processes."""

    def zygote_ready(self, version: str) -> None:
        """The framework is imported; workers can be forked."""

    def zygote_lost(self, text: str) -> None:
        """It ended, and all workers with it. `text`: why the framework cannot be imported, or empty."""

    def worker_exited(self, worker: int, status: int) -> None:
        """A worker ended: its exit status, or minus the signal's number."""


class Zygote:
    """One zygote process, from its start to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: ZygoteEvents) -> None:
        self._loop = loop
        self._events = events
        self._ended: Pending[None] = Pending()
        self.worker_pids: dict[int, int] = {}
        """Process ids of the live workers, by number."""
        self._control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        loop.add_reader(self._control, self._readable)
        threading.Thread(target=self._run, args=(far_end,), name="script-zygote", daemon=True).start()

    def fork(self, worker: int, sock: socket.socket, shared: int, options: dict[str, Any]) -> None:
        """Have a worker process forked that serves `sock`. shared: the file that it maps; both are closed here."""
        order = json.dumps({"op": "fork", "number": worker, **options}).encode()
        try:
            socket.send_fds(self._control, [order], [sock.fileno(), shared])
        except OSError:
            pass  # the zygote has ended, which will be reported
        finally:
            sock.close()
            os.close(shared)

    def kill(self, worker: int) -> None:
        """Kill a worker immediately; `worker_exited` reports its end."""
        with contextlib.suppress(OSError):  # the zygote has ended, and its workers with it
            self._control.send(json.dumps({"op": "kill", "number": worker}).encode())

    def close(self) -> Pending[None]:
        """End the zygote and its workers; returns when no process is left. No event is reported after this call."""
        self._hang_up()
        return self._ended

    def _hang_up(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()

    def _run(self, far_end: socket.socket) -> None:
        # This thread handles the whole life of the process, so that nobody else waits for its start or its end.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONSAFEPATH": "1",  # otherwise the file's own directory would come first
            # A thread of a library would not survive the fork.
            "OPENBLAS_NUM_THREADS": "1",
        }
        fd = far_end.fileno()
        try:
            with far_end:
                process = subprocess.Popen(
                    [sys.executable, _BOOT, str(fd)],
                    pass_fds=[fd],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    # Ctrl-C in the terminal is meant for the server, which ends the zygote itself.
                    start_new_session=True,
                )
            process.wait()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for this thread
                self._loop.call_soon_threadsafe(self._ended.resolve, None)

    def _readable(self) -> None:
        while True:
            try:
                answer = self._control.recv(_MAX_ANSWER)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self._hang_up()
                self._events.zygote_lost("")
                return
            self._answered(json.loads(answer))
            if self._control.fileno() < 0:
                return

    def _answered(self, answer: dict[str, Any]) -> None:
        match answer["op"]:
            case "ready":
                self._events.zygote_ready(answer["version"])
            case "forked":
                self.worker_pids[answer["number"]] = answer["pid"]
            case "exited":
                self.worker_pids.pop(answer["number"], None)
                self._events.worker_exited(answer["number"], answer["status"])
            case _:
                self._hang_up()
                self._events.zygote_lost(answer["text"])


class Channel:
    """Frames to and from one worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_frame: Callable[[Frame], object],
        on_broken: Callable[[ProtocolError], object],
        on_end: Callable[[], object],
        max_payload_bytes: int,
    ) -> None:
        """`on_broken`: the worker sent an invalid frame.   `on_end`: it sends no more; the zygote reports why."""
        self._loop = loop
        self._sock = sock
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._on_end = on_end
        self._reader = FrameReader(max_payload_bytes)
        self._unsent: deque[memoryview] = deque()
        sock.setblocking(False)
        loop.add_reader(sock, self.read)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until something arrives, and handle it; False if nothing does within the time, or it has ended."""
        if self._sock.fileno() < 0 or not self._poll.poll(timeout_ms):
            return False
        self.read()
        return True

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Write now what the socket accepts, and the rest later. False: the worker has ended, and nothing was sent."""
        if self._sock.fileno() < 0:
            return False
        waiting = bool(self._unsent)
        self._unsent.extend(memoryview(buffer) for buffer in buffers)
        if waiting:
            return True
        if not self._write():
            return False
        if self._unsent:
            self._loop.add_writer(self._sock, self._write_more)
        return True

    def read(self) -> None:
        """Handle what has arrived."""
        for _ in range(_READS_PER_WAKE):
            if self._sock.fileno() < 0:
                return
            buffer = self._reader.buffer()
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if count == 0:
                self._loop.remove_reader(self._sock)
                self._on_end()
                return
            full = count == len(buffer)
            buffer.release()
            try:
                frames = self._reader.received(count)
            except ProtocolError as error:
                self._on_broken(error)
                return
            for frame in frames:
                self._on_frame(frame)
            if frames and not full:
                return  # nothing follows; in the middle of a large frame, more has probably arrived meanwhile

    def close(self) -> None:
        """Forget the worker; nothing more is reported."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._unsent.clear()

    def _write_more(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._sock)

    def _write(self) -> bool:
        unsent, sent = self._unsent, False
        while unsent:
            try:
                if len(unsent) == 1:
                    count = self._sock.send(unsent[0])
                else:
                    count = self._sock.sendmsg([unsent[i] for i in range(min(len(unsent), _MAX_PARTS))])
            except BlockingIOError:
                return True
            except OSError:
                unsent.clear()
                return sent
            sent = True
            while unsent and count >= len(unsent[0]):
                count -= len(unsent.popleft())
            if count:
                unsent[0] = unsent[0][count:]
        return True
