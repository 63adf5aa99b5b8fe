"""The server's process: what `redisai serve` starts, and starts again. Not a command of its own.

    python -m redisai_py.server_process LISTENER CONTROL

LISTENER is the file descriptor of the listening socket; CONTROL that of a socket to the supervisor, on which the
settings come in as one line of JSON and the line `ready` goes out. The settings hold credentials, so they are neither
an argument nor in the environment. SIGTERM drains and ends the process, and so does the end of CONTROL: the supervisor
is gone then, and a next one will want the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import gc
import resource
import signal
import socket
import sys

import structlog
import uvloop

from redisai_py import log
from redisai_py.config import Config
from redisai_py.errors import UpstreamError
from redisai_py.server.app import serve
from redisai_py.startup import StartError

__all__ = ["main"]

_READ_BYTES = 65536
_FILES_BESIDES = 512

logger = structlog.get_logger()


def main() -> int:
    """Serve until told to stop. Returns the exit status."""
    faulthandler.enable()  # a native crash of a framework leaves the Python stack in the log
    listener = socket.socket(fileno=int(sys.argv[1]))
    control = socket.socket(fileno=int(sys.argv[2]))
    text = _read_line(control)
    if not text:
        return 0
    config = Config.from_json(text)
    log.configure(config.log_level, config.log_format, process="server")
    _allow_open_files(config)
    _spare_collector()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, listener, control))
    except (UpstreamError, StartError) as error:
        logger.error("cannot start", reason=str(error))
        return 1
    except Exception:
        logger.exception("the server failed")
        return 1
    return 0


async def _serve(config: Config, listener: socket.socket, control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    control.setblocking(False)
    loop.add_reader(control, functools.partial(_supervisor_gone, loop, control, stop))

    def ready() -> None:
        with contextlib.suppress(OSError):  # a supervisor that is gone is noticed by the reader
            control.send(b"ready\n")

    await serve(config, listener, stop=stop, ready=ready)


def _supervisor_gone(loop: asyncio.AbstractEventLoop, control: socket.socket, stop: asyncio.Event) -> None:
    # Nothing is ever sent after the settings: what can be read is the end.
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


def _read_line(control: socket.socket) -> str:
    """The line sent, or nothing if the other side closes first."""
    received = bytearray()
    while not received.endswith(b"\n"):
        data = control.recv(_READ_BYTES)
        if not data:
            return ""
        received += data
    return received.decode()


if __name__ == "__main__":
    sys.exit(main())
