"""Listening: TCP addresses in the form of Redis's `bind`, and a Unix socket.

Rules: all sockets are bound before anything is served, or none is. An address with a `-` prefix may be missing on this
machine; any other must exist. A Unix socket's file left behind by a killed server is replaced; one with a listener is
refused. Failures are `StartError`s of one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from redisai_py.config import Config
from redisai_py.serve.preflight import StartError
from redisai_py.urls import authority

__all__ = ["address_text", "bind", "bind_http", "held", "is_local"]

_RELEASE_S = 2.0
_RETRY_S = 0.05
_PROBE_S = 1.0
_HTTP_BACKLOG = 100
_LONGEST_PATH = 103
"""The kernel's limit on a unix socket's path is 108 bytes on Linux, 104 on macOS, with the final NUL."""
_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
_WILDCARDS = {"*": "0.0.0.0", "::*": "::"}

log = structlog.get_logger()


class _InUseError(Exception):
    """Another process listens there; the text says where, and what to do."""


async def bind(config: Config) -> list[socket.socket]:
    """The listening sockets, non-blocking: those of `--host` in order, then that of `--unix-socket`.

    With port 0 all addresses share one free port. A predecessor that was killed may hold an address for a moment, while
    its server finishes running commands: `bind` waits for that, at most 2 s.
    Raises: StartError naming the address.
    """
    return await _patiently(_bind_all, config)


async def bind_http(config: Config) -> list[socket.socket]:
    """The listening sockets of `--http`, none without it; a predecessor is waited for as in `bind`.

    Raises: StartError: the port cannot be had.
    """
    try:
        return await _patiently(_bind_http, config) if config.http else []
    except StartError as error:
        log.error("cannot start", reason=str(error))
        raise


async def _patiently(make: Callable[[Config], list[socket.socket]], config: Config) -> list[socket.socket]:
    deadline = time.monotonic() + _RELEASE_S
    while True:
        try:
            return make(config)
        except _InUseError as error:
            if time.monotonic() > deadline:
                raise StartError(str(error)) from error
        await asyncio.sleep(_RETRY_S)


def _bind_http(config: Config) -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        try:
            bound = [
                undo.enter_context(_bind_address(family, (address[0], config.http, *address[2:]), True, _HTTP_BACKLOG))
                for family, address in _resolved(config.http_host)
            ]
        except OSError as error:
            why = f"cannot listen on {config.http_host} port {config.http} for HTTP: {error.strerror or error}"
            raise (_InUseError if error.errno == errno.EADDRINUSE else StartError)(why) from error
        undo.pop_all()
    return bound


def address_text(listener: socket.socket) -> str:
    """`127.0.0.1:6390`, `[::1]:6390` or `unix:///PATH`."""
    if listener.family == socket.AF_UNIX:
        return f"unix://{listener.getsockname()}"
    return authority(*listener.getsockname()[:2])


def is_local(listener: socket.socket) -> bool:
    """Whether only processes on this machine can connect."""
    if listener.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


@contextlib.contextmanager
def held(listeners: list[socket.socket]) -> Iterator[None]:
    """Close the sockets, and remove the Unix socket's file, unless a successor has put its own there."""
    files = [Path(listener.getsockname()) for listener in listeners if listener.family == socket.AF_UNIX]
    inodes = [path.lstat().st_ino for path in files]
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()
        for path, inode in zip(files, inodes, strict=True):
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()


def _bind_all(config: Config) -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        bound: list[socket.socket] = []
        for host in config.host:
            port = bound[0].getsockname()[1] if bound else config.port
            bound += map(undo.enter_context, _bind_host(host, port, config))
        if not bound and config.unix_socket is None:
            raise StartError(f"cannot listen: this machine has none of the addresses {' '.join(config.host)}")
        if config.unix_socket is not None:
            path = config.unix_socket.expanduser().absolute()
            bound.append(undo.enter_context(_bind_unix(path, int(config.unix_socket_perm, 8), config.backlog)))
        undo.pop_all()
    return bound


def _bind_host(host: str, port: int, config: Config) -> list[socket.socket]:
    """The sockets of one value of `--host`; several if a name resolves to several addresses."""
    optional, name = host.startswith("-"), host.removeprefix("-")
    apart = len(config.host) > 1
    failure: OSError | None = None
    with contextlib.ExitStack() as undo:
        bound: list[socket.socket] = []
        try:
            for family, address in _resolved(_WILDCARDS.get(name, name)):
                try:
                    listener = _bind_address(family, (address[0], port, *address[2:]), apart, config.backlog)
                except OSError as error:
                    if error.errno not in _MISSING:
                        raise
                    failure = error
                else:
                    bound.append(undo.enter_context(listener))
                    port = listener.getsockname()[1]
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                text = f"port {port} of {name} is in use by another process; choose another with --port"
                raise _InUseError(text) from error
            optional = optional and isinstance(error, socket.gaierror)
            failure = error
        if failure is not None and not optional and (not bound or failure.errno not in _MISSING):
            raise StartError(f"cannot listen on {name} port {port}: {failure.strerror}") from failure
        undo.pop_all()
    return bound


def _resolved(name: str) -> list[tuple[int, Any]]:
    """Families and addresses, without duplicates. Raises OSError."""
    found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind_address(family: int, address: tuple[object, ...], apart: bool, backlog: int) -> socket.socket:
    """One TCP socket. apart: an IPv6 socket accepts no IPv4 clients, because those have their own socket."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, apart)
        listener.bind(address)
        # If another process listens, it is listen() that fails, not bind().
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path, mode: int, backlog: int) -> socket.socket:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise StartError(f"cannot listen on {path}: the path of a unix socket has at most {_LONGEST_PATH} bytes")
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _alone_in(path.parent):
            _remove_stale(path)
            # The umask sets the mode when the file is created; a later chmod would come after the first client.
            mask = os.umask(0o777 & ~mode)
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
            listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {path}: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket's file without a listener. Raises: _InUseError, StartError, OSError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"cannot listen on {path}: it exists and is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink()
        return
    except (BlockingIOError, TimeoutError):  # the listener's queue is full, so there is a listener
        pass
    raise _InUseError(f"{path} is in use by another process; choose another with --unix-socket")


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Lock the directory, so that two servers that find the same stale file do not remove each other's new one.

    Anybody who may read the directory can hold that lock, so wait for it at most 2 s.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + _RELEASE_S
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:  # held, or a file system without locks
                if time.monotonic() > deadline:
                    break
                time.sleep(_RETRY_S)
        yield
    finally:
        os.close(fd)
