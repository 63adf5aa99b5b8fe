"""Connections to Redis. Three kinds, because three things are wanted of them:

- `SharedUpstream`: one pipelined connection for the AI commands of all clients with one identity (user, password,
  database). Replies come back in order, each to the callback given with its command. Redis sees one stream instead
  of many small writes.
- `PrivateUpstream`: one per client, for what is stateful: pass-through, MULTI, blocking commands, subscriptions.
  Bytes go both ways unchanged; replies are counted, not built.
- `LargeUpstream`: for values of 64 KiB and more, so that one 64 MB SET does not hold up everybody on the shared
  stream. A large reply is received straight into its own buffer.

Nothing is sent here before it is complete and validated. None of these retries: what may have been applied is never
repeated. They are opened by `dialing`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import hiredis
import numpy as np

from redisai_py.errors import NoRoom, RedisAIError, UpstreamError, UpstreamLost, UpstreamRefused
from redisai_py.pending import Pending
from redisai_py.resp.reader import MORE, STEP, new_reader, read
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.requests import split_replies
from redisai_py.resp.templates import encode_command
from redisai_py.upstream.busy_poll import BusyPoll
from redisai_py.upstream.containment import contain

__all__ = ["Address", "Callback", "Identity", "LargeUpstream", "PrivateUpstream", "SharedUpstream"]

CONNECT_TIMEOUT_S = 5.0
_LARGE_REPLY = 64 * 1024
_STREAMED = 256 * 1024
"""Bytes that are passed on at a time where a reply is streamed."""
_MUCH = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is: a unix socket path, or host and port with or without TLS. No credentials: clients bring their
    own.
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
        """Whose it is, whatever the database."""
        return self.user, self.password

    def handshake(self, protocol: int = 2) -> list[list[bytes]]:
        """The commands that give a fresh connection this identity."""
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


def _lost(error: BaseException | None) -> UpstreamLost:
    return UpstreamLost(
        f"ERR upstream Redis connection lost{f': {error}' if error else ''}; the command may have been applied"
    )


Callback = Callable[[Any], object]


class SharedUpstream(asyncio.Protocol):
    """The pipelined connection of one identity; `send` never blocks, each reply reaches the callback given with its
    command.

    A callback gets what hiredis makes of the reply: bytes, int, None, list, or a `hiredis.ReplyError`; on loss an
    UpstreamLost.
    """

    client_name = b"redisai-shared"
    """Its name in CLIENT LIST."""

    def __init__(self, busy_poll: BusyPoll | None = None) -> None:
        self._busy_poll = busy_poll
        self._reader = new_reader()
        self.waiting: deque[Callback] = deque()
        """What gets the replies still to come, in order."""
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []  # commands of this iteration of the loop, written together at its end
        self.transport: Any = None
        self.closed = False

    @property
    def owes(self) -> bool:
        """Whether a reply is outstanding."""
        return bool(self.waiting)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)

    def eof_received(self) -> None:
        self.closed = True  # what is sent from now on goes by another connection

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        error = _lost(exc)
        waiting, self.waiting = self.waiting, deque()
        for callback in waiting:
            try:
                callback(error)
            except Exception as failure:
                contain(callback, failure)

    def data_received(self, data: bytes) -> None:
        reader, take = self._reader, self.waiting.popleft
        gets = reader.gets
        try:
            for at in range(0, len(data), STEP):
                reader.feed(data[at : at + STEP])
                while (reply := gets()) is not MORE:
                    callback = take()
                    try:
                        callback(reply)
                    except Exception as error:  # a bug of ours: many clients share this stream
                        contain(callback, error)
        except hiredis.ProtocolError:
            self.transport.abort()
        if self._busy_poll is not None and not self.waiting:
            self._busy_poll.answered()

    def send(self, data: bytes, callback: Callback) -> None:
        """Send one encoded command. Raises UpstreamLost if the connection is gone: then nothing was sent."""
        if self.closed:
            raise UpstreamLost("ERR upstream Redis connection lost")
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self.waiting.append(callback)

    def send_now(self, data: bytes, callback: Callback) -> None:
        """As `send`, without waiting for other commands of this iteration of the loop."""
        if self._out or self.closed:
            self.send(data, callback)
            self.flush()
        else:
            self.waiting.append(callback)
            self.transport.write(data)
            if self._busy_poll is not None:
                self._busy_poll.asked()

    def flush(self) -> None:
        """Write now what was sent in this iteration of the loop, for all clients in one system call."""
        out, self._out = self._out, []
        if out and not self.closed:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._busy_poll is not None:
                self._busy_poll.asked()

    def call(self, *argv: Any) -> Pending[Any]:
        """One command; its value is the reply, its error what Redis answered as an error."""
        return self.pipeline((argv,))[0]

    def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Pending[Any]]:
        """Several commands in one write, each with its own Pending."""
        pendings: list[Pending[Any]] = []
        for argv in commands:
            pending: Pending[Any] = Pending()
            try:
                self.send(hiredis.pack_command(tuple(argv)), partial(_settle, pending))
            except UpstreamError as error:
                pending.fail(error)
            pendings.append(pending)
        return pendings

    def close(self) -> None:
        """Close; callbacks still waiting get an error."""
        if self.transport is not None:
            self.transport.close()


def _settle(pending: Pending[Any], reply: Any) -> None:
    if isinstance(reply, Exception):
        pending.fail(redis_error(reply))
    else:
        pending.resolve(reply)


class PrivateUpstream(asyncio.Protocol):
    """One client's own connection. `on_data(data, replies, whole)` gets every chunk as it came, the replies and pushes
    completed by it, and whether it ended at a message's boundary; `on_lost(why)` the end, None where it just was lost;
    `on_flow(waits)` whether much of what was sent still waits; `owes()` tells whether a reply is outstanding.
    """

    def __init__(
        self,
        on_data: Callable[[bytes, list[Any], bool], object],
        on_lost: Callable[[UpstreamRefused | None], object],
        on_flow: Callable[[bool], object] = lambda waits: None,
        owes: Callable[[], bool] = lambda: False,
    ) -> None:
        self._owes = owes
        self._reader = new_reader()
        self._whole = True  # what has come ended at a message's boundary
        self._since: list[bytes] = []  # what has come since the last boundary, and how many replies that completed
        self._completed = 0
        self._skip = 0  # bytes of a large bulk reply still to come; they need not pass through hiredis
        self._on_data: Callable[[bytes, list[Any], bool], object] = self._on_first_data
        self._on_later_data = on_data
        self._on_lost = on_lost
        self._on_flow = on_flow
        self.refused: UpstreamRefused | None = None
        self.tunnel: Callable[[bytes], object] | None = None  # replication: what comes is no longer made of replies
        self.closed = False
        self.transport: Any = None
        self._held: list[bytes | memoryview] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_MUCH)

    @property
    def owes(self) -> bool:
        """Whether a reply is outstanding."""
        return self._owes()

    def eof_received(self) -> None:
        self._ended()  # at once: what the client sends from now on goes by another connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        if not self.closed:
            self.closed = True
            self._on_lost(self.refused)

    def pause_writing(self) -> None:
        self._on_flow(True)

    def resume_writing(self) -> None:
        self._on_flow(False)

    def _on_first_data(self, data: bytes, replies: list[Any], whole: bool) -> None:
        if replies and isinstance(replies[0], hiredis.ReplyError) and isinstance(redis_error(replies[0]), NoRoom):
            self.refused = UpstreamRefused(str(replies[0]))
            self.transport.abort()
        else:
            self._on_data = self._on_later_data
            self._on_data(data, replies, whole)

    def data_received(self, data: bytes) -> None:
        replies: list[Any] = []
        if self.tunnel is not None:
            self.tunnel(data)
            return
        view: bytes = data
        if self._skip:
            if len(view) < self._skip:
                self._skip -= len(view)
                self._on_data(data, replies, False)
                return
            view = view[self._skip :]
            self._skip = 0
            replies.append(b"")
        elif view[:1] == b"$" and self._whole and (rest := _large_bulk_rest(view)):
            self._skip = rest
            self._on_data(data, replies, False)
            return
        if view:
            values, self._whole = read(self._reader, view)
            replies += values
            if not self._whole:
                self._since.append(view)
                self._completed += len(values)
            elif self._since:
                self._since.clear()
                self._completed = 0
        self._on_data(data, replies, self._whole)

    def begun(self) -> bytes:
        """What has come of the message that is not complete; what came before it is settled."""
        came = b"".join(self._since)
        settled = split_replies(came, 0, self._completed)
        assert settled is not None
        self._since, self._completed = [came[sum(map(len, settled)) :]], 0
        return self._since[0]

    def send(self, segments: list[bytes | memoryview]) -> None:
        """Write one or more encoded commands."""
        if self._held is not None:
            self._held += segments
            return
        for segment in segments:
            self.transport.write(segment)

    def hold(self) -> None:
        """Keep back what is sent, until `release`: a pipeline's commands then cost one system call, not one each."""
        self._held = []

    def release(self) -> None:
        """Write what was kept back."""
        held, self._held = self._held, None
        if held and not self.transport.is_closing():
            self.transport.writelines(held)

    def close(self) -> None:
        """Close without waiting."""
        if self.transport is not None:
            self.transport.close()


def _large_bulk_rest(data: bytes) -> int:
    """If `data` starts with the header of a large bulk string that it does not complete: how many bytes are missing."""
    line = data.find(b"\r\n", 1, 24)
    if line < 0 or not data[1:line].isdigit():
        return 0
    size = int(data[1:line])
    return max(line + 4 + size - len(data), 0) if size >= _LARGE_REPLY else 0


class Sink(Protocol):
    """What takes a large reply as it comes."""

    def begin(self, size: int) -> None:
        """A string of that many bytes comes."""

    def take(self, piece: bytes) -> None:
        """The next bytes of it, CR LF at the end included."""


class LargeUpstream(asyncio.BufferedProtocol):
    """A connection that moves large values one command group at a time; replies may be bulk strings, lines, or
    arrays of them.

    Sources of speed: segments are written unjoined, a bulk reply is received into its final buffer.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = False
        self._chunk = bytearray(_LARGE_REPLY)
        self._text = bytearray()  # small bytes not consumed yet
        self._bulk: memoryview | None = None
        self._filled = 0
        self._frames: list[list[Any]] = []  # open arrays: [items to come, items]
        self._waiting: deque[Pending[Any]] = deque()
        self._refused: RedisAIError | None = None
        self._sink: Sink | None = None  # what takes the reply that comes
        self._to_stream = 0  # bytes of it still to come
        self._streamed_size = 0
        self.rehearsed = False  # see `store.link`
        self.on_flow: Callable[[bool], object] | None = None  # told to pause (True) and to go on, while streaming

    @property
    def owes(self) -> bool:
        """Whether a reply is outstanding."""
        return bool(self._waiting)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        if self.on_flow is not None:
            self.on_flow(True)

    def resume_writing(self) -> None:
        if self.on_flow is not None:
            self.on_flow(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.on_flow is not None:
            self.on_flow(False)
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            pending.fail(self._refused or _lost(exc))

    def call(self, *argv: Any) -> Pending[Any]:
        """One command; large arguments are written without being joined or copied."""
        pending: Pending[Any] = Pending()
        if self.closed:
            pending.fail(self._refused or _lost(None))
            return pending
        self._waiting.append(pending)
        for segment in encode_command(list(argv)):
            self.transport.write(segment)
        return pending

    def stream(self, sink: Sink, *argv: Any) -> Pending[int | None]:
        """One command whose reply, if it is a string, goes to `sink` as it comes; gives its size then, or None for nil.

        Nothing else may be under way on this connection.
        """
        self._sink = sink
        self._chunk = bytearray(_STREAMED)
        return self.call(*argv)

    def expect(self) -> Pending[Any]:
        """The reply to a command that the caller writes to `transport` itself."""
        pending: Pending[Any] = Pending()
        if self.closed:
            pending.fail(self._refused or _lost(None))
        else:
            self._waiting.append(pending)
        return pending

    def close(self) -> None:
        """Close without waiting."""
        if self.transport is not None:
            self.transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._bulk is not None:
            return self._bulk[self._filled :]
        return memoryview(self._chunk)

    def buffer_updated(self, nbytes: int) -> None:
        if self._to_stream:
            self._pass_on(bytes(memoryview(self._chunk)[:nbytes]))
            return
        if self._bulk is not None:
            self._filled += nbytes
            if self._filled < len(self._bulk):
                return
            bulk, self._bulk = self._bulk, None
            self._deliver(bulk[:-2].toreadonly())
            return
        self._text += self._chunk[:nbytes]
        while self._bulk is None and self._take_one():
            pass

    def _take_one(self) -> bool:
        text = self._text
        line = text.find(b"\r\n")
        if line < 0:
            return False
        kind, word = text[0], bytes(text[1:line])
        if kind == 36 and word != b"-1":  # '$'
            return self._take_bulk(line + 2, int(word))
        del text[: line + 2]
        if kind == 42 and word not in (b"-1", b"0"):  # '*'
            self._frames.append([int(word), []])
        elif kind == 58:  # ':'
            self._deliver(int(word))
        elif kind == 45:  # '-'
            self._deliver(redis_error(word.decode("utf-8", "replace")))
        elif kind == 43:  # '+'
            self._deliver(word)
        else:
            self._deliver([] if word == b"0" else None)
        return True

    def _pass_on(self, piece: bytes) -> None:
        sink = self._sink
        assert sink is not None
        self._to_stream -= len(piece)
        sink.take(piece)
        if not self._to_stream:
            self._deliver(self._streamed_size)

    def _begin_to_stream(self, sink: Sink, start: int, size: int) -> bool:
        self._to_stream, self._streamed_size = size + 2, size
        piece = bytes(self._text[start:])
        self._text.clear()
        sink.begin(size)
        if piece:
            self._pass_on(piece)
        return False

    def _take_bulk(self, start: int, size: int) -> bool:
        if self._sink is not None:
            return self._begin_to_stream(self._sink, start, size)
        text = self._text
        stop = start + size + 2
        if len(text) >= stop:
            value = bytes(text[start : stop - 2])
            del text[:stop]
            self._deliver(value)
            return True
        if size < _LARGE_REPLY:
            return False
        # np.empty leaves the pages untouched until the kernel fills them; bytearray would write zeros first.
        self._bulk = np.empty(size + 2, np.uint8).data
        self._filled = len(text) - start
        self._bulk[: self._filled] = text[start:]
        text.clear()
        return False

    def _deliver(self, value: Any) -> None:
        if self._sink is not None:
            self._sink = None
            self._chunk = bytearray(_LARGE_REPLY)
        while self._frames:
            frame = self._frames[-1]
            frame[1].append(value)
            if len(frame[1]) < frame[0]:
                return
            value = frame[1]
            self._frames.pop()
        if not self._waiting:  # nothing was asked: Redis refuses the connection, and closes it
            self._refused = value if isinstance(value, RedisAIError) else None
            return
        pending = self._waiting.popleft()
        if isinstance(value, RedisAIError):
            pending.fail(value)
        else:
            pending.resolve(value)
