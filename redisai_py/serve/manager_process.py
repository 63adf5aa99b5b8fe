"""The manager of engine processes as a process of its own, started by `redisai serve`. Not a command for users.

    python -m redisai_py.serve.manager_process LINE

LINE is the file descriptor of a SOCK_SEQPACKET socket to the supervisor. Its first message has the settings, as JSON;
each further one brings a socket: of a front door, or to a spare manager, or to the one that works. It sends one byte
there each second, so that the supervisor notices if it hangs. When the supervisor and all front doors are gone, so is
this process, and the engine processes with it. Until the first front door it is a spare manager.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

from redisai_py.config import Config
from redisai_py.engine.isolation.channel import Channel
from redisai_py.engine.isolation.door_line import DoorLine
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.quarantine import Strikes
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.serve import log
from redisai_py.serve.heartbeat import ALIVE, INTERVAL_S
from redisai_py.serve.manager_heirs import Heir, inherit
from redisai_py.serve.manager_line import DOOR, HEIR
from redisai_py.serve.process_name import show_name

__all__ = ["main"]

_MOST_BYTES = 1 << 18


def main() -> int:
    """Manage until nobody is left. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = socket.socket(fileno=int(sys.argv[1]))
    orders = line.recv(_MOST_BYTES)
    if not orders:
        return 0
    config = Config.from_json(json.loads(orders)["config"]).resolved()
    log.configure(config.log_level, config.log_format, process="engines")
    show_name("manager-spare")
    house = _House(IsolationSettings.of(config))
    threading.Thread(target=_live, args=(house, line), name="redisai heartbeat", daemon=True).start()
    while (arrival := _next(line)) is not None:
        word, sock = arrival
        if word == DOOR:
            show_name("manager")
            house.enter(sock)
        elif word == HEIR:
            house.heir = Heir(sock)
        else:
            inherit(house.manager, sock)
    house.wait_until_empty()
    house.manager.close()
    return 0


def _next(line: socket.socket) -> tuple[bytes, socket.socket] | None:
    """One more socket, and whose it is; None if the supervisor has ended."""
    try:
        word, fds, _, _ = socket.recv_fds(line, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:  # it has ended, without reading every heartbeat
        return None
    return (word, socket.socket(fileno=fds[0])) if word else None


def _live(house: _House, line: socket.socket) -> None:
    """Say each second that it lives, as long as it does."""
    with contextlib.suppress(OSError):  # the supervisor has ended
        while True:
            house.manager.look()
            line.send(ALIVE)  # waits while it is a spare one for long: nobody listens to those
            if house.heir is not None:
                house.heir.give(house.manager)
            time.sleep(INTERVAL_S)


class _House:
    """The manager and its front doors."""

    def __init__(self, settings: IsolationSettings) -> None:
        self.manager = Manager(settings, self._record_changed)
        self.heir: Heir | None = None
        self._changed = threading.Condition()
        self._doors: list[DoorLine] = []

    def enter(self, sock: socket.socket) -> None:
        """One more front door."""
        door = DoorLine(self.manager, Channel(sock), self._left)
        with self._changed:
            self._doors.append(door)
        door.open()

    def wait_until_empty(self) -> None:
        """Return when no front door is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._doors)

    def _left(self, door: DoorLine) -> None:
        with self._changed:
            self._doors.remove(door)
            self._changed.notify_all()

    def _record_changed(self, identity: str, strikes: Strikes | None) -> None:
        with self._changed:
            doors = list(self._doors)
        for door in doors:
            door.tell_record(identity, strikes)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for a zygote are of no use any more
