"""Single tensors of many clients, written by one call of the script.

Much of what a call of the script costs Redis is the call, not the tensor. So the AI.TENSORSETs that come alone, each
from another client, in one iteration of the loop go together (docs/adr/0015).

- The script looks at all keys before it writes any: if it refuses, nothing was written, and each command is sent again
  by itself and gets its own reply.
- A client has nothing else under way meanwhile, so its order is kept.

Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.errors import UpstreamError
from redisai_py.resp.templates import Burst
from redisai_py.store.lua import format_set_many
from redisai_py.upstream.containment import contain

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection
    from redisai_py.upstream.access import Access

__all__ = ["JoinedSets"]

_OK = b"+OK\r\n"
_MOST_BYTES = 64 * 1024
"""Commands per call, in bytes: Redis serves nobody else while the script runs."""
_SPARED = 64
"""After a refusal, which is likely to be repeated, so many times each goes by itself."""


class JoinedSets:
    """Those of one identity. The commands are bursts of one."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._members: list[tuple[Connection, Burst]] = []
        self._size = 0
        self._spared = 0

    def add(self, connection: Connection, burst: Burst) -> None:
        """Write it with those that come in this iteration of the loop. It ends as all work that runs alone."""
        if not self._members:
            asyncio.get_running_loop().call_soon(self._flush)
        self._members.append((connection, burst))
        self._size += len(burst.frame)
        if self._size >= _MOST_BYTES:
            self._flush()

    def _flush(self) -> None:
        members, self._members, self._size = self._members, [], 0
        shared = self._access.shared
        try:
            if len(members) < 2 or self._spared or shared is None or shared.closed:
                self._spared = max(0, self._spared - 1)
                self._send_singly(members)
                return
            words = [burst.words[0] for _, burst in members]
            values = [burst.meaning.value_word(burst) for _, burst in members]
            shared.send_now(format_set_many(words, values), partial(self._answered, members))
        except Exception as error:
            contain(members, error)

    def _answered(self, members: list[tuple[Connection, Burst]], reply: Any) -> None:
        if reply == b"OK":
            self._written(members)
        elif isinstance(reply, UpstreamError):
            for connection, _ in members:  # nobody knows whether it was written
                connection.finish_alone(reply)
        else:
            self._spared = _SPARED
            self._send_singly(members)

    def _written(self, members: list[tuple[Connection, Burst]]) -> None:
        near = self._access.near
        for connection, burst in members:
            if near is not None:
                near.put(burst.meaning.keys(burst)[0], burst.meaning.value(burst, 0))
            connection.busy = False
            if connection.gone:
                continue
            connection.session.write_at_once(_OK)
            if connection.backlog or connection.eof or connection.server.draining:
                connection.after_work()

    def _send_singly(self, members: list[tuple[Connection, Burst]]) -> None:
        for connection, burst in members:
            connection.busy = False
            if not burst.meaning.send(connection, self._access, burst):
                connection.unroll(burst)
            connection.after_work()
