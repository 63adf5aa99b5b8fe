"""The address of Redis, and the identity to use there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redisai_py.errors import UpstreamLost

__all__ = ["Address", "Identity"]

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """The address of Redis: a Unix socket path, or host and port, with or without TLS. Without credentials, which
    belong to clients.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    tls: bool = False

    @classmethod
    def from_url(cls, url: str) -> Address:
        """From `redis://`, `rediss://` or `unix://`."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls(path=unquote(parts.path))
        return cls(parts.hostname or "127.0.0.1", parts.port or 6379, tls=parts.scheme == "rediss")

    async def open(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        prepare: Callable[[Any], Awaitable[None]] | None = None,
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> Any:
        """See `dialing.Opener`; tried once."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(timeout_s or CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S)):
                if self.path is not None:
                    _, protocol = await loop.create_unix_connection(factory, self.path)
                else:
                    context = ssl.create_default_context() if self.tls else None
                    _, protocol = await loop.create_connection(factory, self.host, self.port, ssl=context)
        except (OSError, TimeoutError) as error:
            raise UpstreamLost(f"ERR upstream Redis at {self} is unreachable: {error or 'timed out'}") from error
        if prepare is not None:
            await prepare(protocol)
        return protocol

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose rights a command has: credentials as the client proved them to Redis, and the selected database."""

    user: bytes | None = None
    password: bytes = b""
    database: int = 0

    @property
    def owner(self) -> tuple[bytes | None, bytes]:
        """The identity without the database."""
        return self.user, self.password

    def handshake(self, protocol: int = 2) -> list[list[bytes]]:
        """The commands that give a new connection this identity."""
        commands: list[list[bytes]] = []
        if protocol == 3:
            commands.append(
                [b"HELLO", b"3"] if self.user is None else [b"HELLO", b"3", b"AUTH", self.user, self.password]
            )
        elif self.user is not None:
            commands.append([b"AUTH", self.user, self.password])
        if self.database:
            commands.append([b"SELECT", b"%d" % self.database])
        return commands
