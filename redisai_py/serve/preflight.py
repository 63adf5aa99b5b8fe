"""Checks before the server starts: Redis answers, and is not open to the network.

A failed check raises a `StartError` whose text is one line for the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from redisai_py.config import Config
from redisai_py.errors import NoRoom, NotAuthenticated
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.templates import encode_command
from redisai_py.urls import masked_url

__all__ = ["RedisFacts", "StartError", "check_redis", "ping"]

CONNECT_TIMEOUT_S = 5.0


class StartError(Exception):
    """The server cannot start, or cannot continue; the text is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a Redis says about itself.

    version: of Redis, "" if it requires a password to tell.   open: usable by anybody without a password.
    """

    version: str
    open: bool


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A connection, as a function of a command's words that returns the reply as hiredis parses it.

    An error of Redis is returned as `hiredis.ReplyError`. Raises OSError, hiredis.ProtocolError.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(unquote(parts.path))
    else:
        context = ssl.create_default_context() if parts.scheme == "rediss" else None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379, ssl=context)
    replies = hiredis.Reader(errors="replace", encoding="utf-8")

    async def call(*argv: str) -> Any:
        writer.write(b"".join(encode_command([word.encode() for word in argv])))
        while (reply := replies.gets()) is False:
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
            replies.feed(data)
        return reply

    try:
        yield call
    finally:
        writer.close()


async def ping(url: str, timeout_s: float) -> str:
    """What the Redis at the URL answers to PING without credentials: `PONG`, or the text of its error.

    Raises: OSError (TimeoutError too) if there is no answer.
    """
    async with asyncio.timeout(timeout_s), _connected(url) as call:
        return str(await call("PING"))


async def check_redis(config: Config, reachable: Sequence[str] = ()) -> RedisFacts:
    """Look at the Redis that the server would use.

    Args:    config: with `redis` set.   reachable: addresses of ours to which other machines could connect.
    Raises:  StartError: out of reach, not Redis, credentials refused, a cluster, or open to the network.
    """
    url = config.redis
    if url is None:
        raise ValueError("config.redis is not set")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S), _connected(url) as call:
            facts = await _facts(call, url, config.require_password)
    except TimeoutError as error:
        raise StartError(f"Redis at {masked_url(url)} does not answer within {CONNECT_TIMEOUT_S:g} s") from error
    except hiredis.ProtocolError as error:
        raise StartError(f"what answers at {masked_url(url)} does not speak the Redis protocol") from error
    except OSError as error:
        raise StartError(f"cannot reach Redis at {masked_url(url)}: {error.strerror or error}") from error
    if facts.open and config.protected_mode and reachable:
        raise StartError(
            f"refusing to listen on {', '.join(reachable)}, where others could connect, while Redis at "
            f"{masked_url(url)} has no password: set one there (requirepass, or ACLs that give the default "
            "user a password or turn it off), or give --no-protected-mode"
        )
    return facts


async def _facts(call: Callable[..., Awaitable[Any]], url: str, must_be_closed: bool) -> RedisFacts:
    without_credentials = await call("PING")
    refusal = redis_error(without_credentials) if isinstance(without_credentials, hiredis.ReplyError) else None
    if isinstance(refusal, NoRoom):
        raise StartError(f"Redis at {masked_url(url)} refuses connections from this machine: {without_credentials}")
    # NOPERM does not mean protected: the default user gets it, whatever that user may do. Redis's own protected mode
    # makes the same check.
    is_open = not isinstance(refusal, NotAuthenticated)
    if is_open and must_be_closed:
        raise StartError("--require-password has no effect: redis.conf lets the default user in without one (nopass)")
    await _authenticate(call, url)
    info = await call("INFO")
    if isinstance(info, hiredis.ReplyError):
        return RedisFacts("", is_open)
    fields = dict(line.split(":", 1) for line in str(info).splitlines() if ":" in line)
    if fields.get("cluster_enabled") == "1":
        raise StartError(f"Redis at {masked_url(url)} is a cluster node; clusters are not supported yet")
    return RedisFacts(fields.get("valkey_version") or fields.get("redis_version", ""), is_open)


async def _authenticate(call: Callable[..., Awaitable[Any]], url: str) -> None:
    parts = urlsplit(url)
    if parts.password is None:
        return
    user = [unquote(parts.username)] if parts.username else []
    reply = await call("AUTH", *user, unquote(parts.password))
    # Sending a password where none is set is an error, too; it means that Redis is open, which was checked above.
    if isinstance(reply, hiredis.ReplyError):
        raise StartError(f"Redis at {masked_url(url)} refuses the URL's credentials: {reply}")
