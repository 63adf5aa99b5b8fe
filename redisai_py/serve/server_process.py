"""The server's process: what `redisai serve` starts, and starts again. Not a command of its own.

    python -m redisai_py.serve.server_process LISTENER[,LISTENER ...] CONTROL

LISTENER is the file descriptor of a listening socket; CONTROL that of a socket to the supervisor, on which the orders
come in and signs of life go out (`redisai_py.serve.heartbeat`). The orders hold credentials, so they are neither an
argument nor in the environment. SIGTERM drains and ends the process, and so does the end of CONTROL: the supervisor is
gone then, and a next one will want the port. SIGUSR1 writes the Python stacks of all threads to standard error.
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
from redisai_py.frontdoor.server import Ended, serve
from redisai_py.ops.preload import Lifeline
from redisai_py.serve import log
from redisai_py.serve.heartbeat import ALIVE, INTERVAL_S, READY, RESTART_STATUS, Orders
from redisai_py.serve.preflight import StartError

__all__ = ["main"]

_READ_BYTES = 65536
_FILES_BESIDES = 512

logger = structlog.get_logger()


def main() -> int:
    """Serve until told to stop. Returns the exit status."""
    faulthandler.enable()  # a native crash of a framework leaves the Python stack in the log
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # so does a process that hangs, whoever holds the GIL
    listeners = [socket.socket(fileno=int(number)) for number in sys.argv[1].split(",")]
    control = socket.socket(fileno=int(sys.argv[2]))
    line = _read_line(control)
    if not line:
        return 0
    orders = Orders.from_line(line)
    config = orders.config
    log.configure(config.log_level, config.log_format, process="server")
    _allow_open_files(config)
    _spare_collector()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            end = runner.run(_serve(orders, listeners, control))
    except (UpstreamError, StartError) as error:
        logger.error("cannot start", reason=str(error))
        return 1
    except Exception:
        logger.exception("the server failed")
        return 1
    status = RESTART_STATUS if end.restart else 0
    if end.threads_left:
        # A framework still computes on some thread: the orderly end of the interpreter would pull its memory from
        # under it, and crash.
        logging.shutdown()
        os._exit(status)
    return status


class _ControlLine(Lifeline):
    """What the server tells its supervisor. A supervisor that is gone is noticed by the reader."""

    def __init__(self, control: socket.socket, orders: Orders) -> None:
        super().__init__(orders.suspects, orders.careful)
        self._control = control

    def say(self, word: bytes, key: bytes | None = None) -> None:
        line = word if key is None else b"%b %b" % (word, key.hex().encode())
        with contextlib.suppress(OSError):
            self._control.send(line + b"\n")

    def live(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give a sign of life now and every second from now on."""
        self.say(ALIVE)
        loop.call_later(INTERVAL_S, self.live, loop)


async def _serve(orders: Orders, listeners: list[socket.socket], control: socket.socket) -> Ended:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    control.setblocking(False)
    loop.add_reader(control, functools.partial(_supervisor_gone, loop, control, stop))
    line = _ControlLine(control, orders)
    line.live(loop)
    return await serve(orders.config, *listeners, stop=stop, ready=functools.partial(line.say, READY), lifeline=line)


def _supervisor_gone(loop: asyncio.AbstractEventLoop, control: socket.socket, stop: asyncio.Event) -> None:
    # Nothing is ever sent after the orders: what can be read is the end.
    loop.remove_reader(control)
    logger.warning("the supervisor is gone; stopping")
    stop.set()


def _spare_collector() -> None:
    """Keep the garbage collector from looking at what start-up made, which stays.

    Every full collection looked at all of it, which stopped all clients for 25 ms, once in 25 000 commands on ever new
    keys: the caches grow, and only a collection can tell that nothing in them is garbage.
    """
    gc.collect()
    gc.freeze()


def _allow_open_files(config: Config) -> None:
    """Raise the limit on open files to what the clients allowed may need: some have a connection to Redis of their own.

    A warning if not even all clients alone fit.
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
    """The line sent, or nothing if the other side closes first."""
    received = bytearray()
    while not received.endswith(b"\n"):
        data = control.recv(_READ_BYTES)
        if not data:
            return b""
        received += data
    return bytes(received)


if __name__ == "__main__":
    sys.exit(main())
