"""Messages between the manager of engine processes and a front door: JSON, some with a file, on a seqpacket socket.

A thread of its own sends them, so that nobody waits for a reader that is slow or stopped. They are few: one or two for
each load and each end of a process, none for a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
from typing import Any

__all__ = ["Channel", "Message"]

Message = dict[str, Any]

_MOST_BYTES = 64 * 1024


class Channel:
    """Args: sock: connected; closed by `close`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent: queue.SimpleQueue[tuple[Message, int] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="redisai channel", daemon=True)
        self._sender.start()

    def send(self, message: Message, fd: int = -1) -> None:
        """Send a message. fd: a file to send along, closed then. Thread: any; never waits."""
        self._unsent.put((message, fd))

    def receive(self) -> tuple[Message, int] | None:
        """The next message, and its file or -1; None at the end. Thread: one only."""
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        return (json.loads(data), fds[0] if fds else -1) if data else None

    def close(self) -> None:
        """End it, once all was sent. Thread: any."""
        self._unsent.put(None)

    def _send_all(self) -> None:
        while (unsent := self._unsent.get()) is not None:
            message, fd = unsent
            with contextlib.suppress(OSError):  # the other side has ended, as the one who receives will notice
                data = json.dumps(message, separators=(",", ":")).encode()
                if fd < 0:
                    self._sock.send(data)
                else:
                    socket.send_fds(self._sock, [data], [fd])
            if fd >= 0:
                os.close(fd)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
