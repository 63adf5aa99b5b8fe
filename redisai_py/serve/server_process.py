"""The server's process, started and restarted by `redisai serve`. Not a command for users.

    python -m redisai_py.serve.server_process NAME=NUMBER[,NUMBER ...] ...

The numbers are file descriptors. `control` is a socket to the supervisor, which carries the orders and the heartbeats
(`redisai_py.serve.heartbeat`). `listeners` and `http` are listening sockets. Each of several front doors has three
more: `arrivals` (`redisai_py.serve.acceptor`), `siblings` (`redisai_py.serve.hub`) and `door_page`
(`redisai_py.serve.door_page`), and on Linux `managers` (`redisai_py.serve.manager_keeper`).
Until the orders come, the process is a spare one, and its name is `server-spare`. They contain credentials, so they are
neither an argument nor in the environment. SIGTERM drains and ends the process. So does the end of `control`: the
supervisor is gone, and its successor will need the port. SIGUSR2 does the same if a new process has taken over. SIGUSR1
writes the Python stacks of all threads to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys

import structlog
import uvloop

from redisai_py.config import Config
from redisai_py.errors import UpstreamError
from redisai_py.frontdoor.process_group import ProcessGroup
from redisai_py.frontdoor.server import Ended, serve
from redisai_py.ops.preload import SupervisorLink
from redisai_py.serve import log
from redisai_py.serve.door_page import DoorPage
from redisai_py.serve.heartbeat import ALIVE, INTERVAL_S, READY, RESTART_STATUS, Orders
from redisai_py.serve.preflight import StartError
from redisai_py.serve.process_name import show_name

__all__ = ["SPARE_NAME", "main"]

SPARE_NAME = "server-spare"
_READ_BYTES = 65536
_FILES_BESIDES = 512

logger = structlog.get_logger()


def main() -> int:
    """Serve until told to stop. Returns the exit status."""
    faulthandler.enable()  # logs the Python stack if a framework crashes
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # also in a hung process, whoever holds the GIL
    inherited = _inherited(sys.argv[1:])
    control = socket.socket(fileno=inherited["control"][0])
    show_name(SPARE_NAME)
    line = _read_line(control)
    if not line:
        return 0
    orders = Orders.from_line(line)
    config = orders.config
    show_name(orders.name)
    log.configure(config.log_level, config.log_format, process=orders.name)
    _allow_open_files(config)
    _spare_collector()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            end = runner.run(_serve(orders, inherited, control))
    except (UpstreamError, StartError) as error:
        logger.error("cannot start", reason=str(error))
        return 1
    except Exception:
        logger.exception("the server failed")
        return 1
    status = RESTART_STATUS if end.restart else 0
    if end.threads_left:
        # A framework still computes on some thread. An orderly end of the interpreter would free memory that it uses,
        # and crash.
        logging.shutdown()
        os._exit(status)
    return status


def _inherited(words: list[str]) -> dict[str, list[int]]:
    """File descriptors by name."""
    pairs = (word.partition("=") for word in words)
    return {name: [int(number) for number in numbers.split(",") if number] for name, _, numbers in pairs}


class _ControlLine(SupervisorLink):
    """The messages to the supervisor. A lost supervisor is noticed by the reader."""

    def __init__(self, control: socket.socket, orders: Orders) -> None:
        super().__init__(orders.suspects, orders.careful)
        self._control = control

    def notify(self, word: bytes, key: bytes | None = None) -> None:
        line = word if key is None else b"%b %b" % (word, key.hex().encode())
        with contextlib.suppress(OSError):
            self._control.send(line + b"\n")

    def live(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send a heartbeat now, and every second from now on."""
        self.notify(ALIVE)
        loop.call_later(INTERVAL_S, self.live, loop)


async def _serve(orders: Orders, inherited: dict[str, list[int]], control: socket.socket) -> Ended:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    line = _ControlLine(control, orders)

    def replaced() -> None:
        line.replaced = True
        stop.set()

    def supervisor_gone() -> None:
        # Nothing follows the orders, so the socket becomes readable only at its end.
        loop.remove_reader(control)
        logger.warning("the supervisor is gone; stopping")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGUSR2, replaced)
    control.setblocking(False)
    loop.add_reader(control, supervisor_gone)
    line.live(loop)
    http = [socket.socket(fileno=number) for number in inherited.get("http", ())]
    listeners = [socket.socket(fileno=number) for number in inherited.get("listeners", ())]
    group = None
    if "siblings" in inherited:
        siblings, arrivals = (socket.socket(fileno=inherited[name][0]) for name in ("siblings", "arrivals"))
        managers = [socket.socket(fileno=number) for number in inherited["managers"]]
        page = DoorPage(inherited["door_page"][0])
        group = ProcessGroup(orders.door, orders.seat, siblings, arrivals, page, managers[0] if managers else None)
    ready = functools.partial(line.notify, READY)
    return await serve(orders.config, *listeners, stop=stop, ready=ready, supervisor=line, http=http, group=group)


def _spare_collector() -> None:
    """Exclude the permanent objects of start-up from garbage collection.

    Every full collection scanned all of them and stopped all clients for 25 ms, once in 25 000 commands with ever new
    keys: the caches grow, and only a collection can tell that they hold no garbage.
    """
    gc.collect()
    gc.freeze()


def _allow_open_files(config: Config) -> None:
    """Raise the limit on open files for the allowed number of clients, some of which have their own connection to
    Redis.

    Logs a warning if not even the clients themselves fit.
    """
    wanted = 2 * config.max_clients + _FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < config.max_clients + _FILES_BESIDES:
        logger.warning("too few open files allowed for max_clients", allowed=possible, max_clients=config.max_clients)


def _read_line(control: socket.socket) -> bytes:
    """The received line, or nothing if the other side closes first."""
    received = bytearray()
    while not received.endswith(b"\n"):
        data = control.recv(_READ_BYTES)
        if not data:
            return b""
        received += data
    return bytes(received)


if __name__ == "__main__":
    sys.exit(main())
