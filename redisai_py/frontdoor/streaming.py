"""Streaming a large AI.TENSORSET: its bytes go to Redis as they arrive from the client, and are never held here.

Store and forward would make a 64 MB tensor twice as slow as a plain SET, and cost its size in memory. So once the words
before the blob are validated, the blob is passed on as the value of a staging key, on a separate connection; Redis runs
that SET only when it is complete. Then one transaction gives the tensor its final name, or refuses. A client that
leaves halfway leaves nothing behind, one that stops sending is disconnected after a while, and no other client waits
for this connection to Redis.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, cast

from redisai_py.commands import COMMANDS
from redisai_py.commands.tensors import TensorSet
from redisai_py.errors import CommandError, RedisAIError, UpstreamError, UpstreamLost
from redisai_py.frontdoor.large_receiver import Receiver
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.stall_watch import StallWatch
from redisai_py.pending import Pending
from redisai_py.resp.replies import OK
from redisai_py.store import codec
from redisai_py.store.staging import STAGED_TAIL, staged_head, staging_key
from redisai_py.tensor import DType

__all__ = ["begin_upload"]

STREAM_SIZE = 1024 * 1024
"""Blobs of at least this many bytes are passed on as they arrive."""


class _Sized:
    """Stands for a blob that has not arrived: validation of a numeric one needs only its length."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def begin_upload(session: Session, connection: Receiver, argv: list[Any], size: int) -> Upload | None:
    """The receiver of the command, if it can be streamed; None if its last argument must be received completely first.

    Args: argv: the words before the large argument.   size: bytes of the large argument.
    """
    if size < STREAM_SIZE or bytes(argv[0][:16]).upper() != b"AI.TENSORSET" or len(argv) > 80:
        return None
    turn = session.turn
    if not turn.idle or turn.backlog or session.mode:
        return None
    try:
        request = COMMANDS[b"AI.TENSORSET"].parse([*argv, cast(bytes, _Sized(size))])
    except (CommandError, TypeError):
        return None
    if request.tensor.dtype in (DType.STRING, DType.BOOL):
        return None  # their bytes must be validated
    return Upload(session, connection, request, size)


class Upload(asyncio.Protocol):
    """Replaces the connection while the blob arrives."""

    def __init__(self, session: Session, connection: Receiver, request: TensorSet, size: int) -> None:
        self._session = session
        self._turn = session.turn
        self._connection = connection
        self._request = request
        self._left = size + 2  # including the client's final CR LF
        self._size = size
        self._head = b""
        self._rest = b""  # data after the command
        self._sink: Any = None
        self._complete: Pending[None] = Pending()
        self._reading = True
        self._watch: StallWatch | None = None

    def begin(self, head: bytes) -> None:
        """Receive the command from now on. head: the part of the blob that has arrived."""
        self._head = head
        self._turn.run_alone(self._run(self._request))

    async def _run(self, request: TensorSet) -> Any:
        """Execute the whole command. Returns: its reply value."""
        connection, turn = self._connection, self._turn
        self._pause()
        turn.transport.set_protocol(self)
        failure: RedisAIError | None = None
        try:
            access = await self._session.authenticated()
            store = access.store
            async with access.apart() as upstream:
                staging = staging_key(request.key, uuid.uuid4().hex.encode())
                await store.check_large_write(upstream, staging, request.key)
                if turn.gone:  # nobody can send the blob
                    raise UpstreamError("ERR client disconnected")
                header = codec.encode_header(request.tensor)
                try:
                    await self._send(upstream, staging, header)
                except UpstreamError as error:
                    raise await store.too_large(error, self._size, len(header) + self._size) from error
                await store.publish_tensor(upstream, staging, request.key)
        except UpstreamLost:
            raise  # the client is closed, whatever it still sends
        except RedisAIError as error:
            failure = error
        await self._swallow_rest()
        if self._watch is not None:
            self._watch.cancel()
        if not turn.gone:
            turn.transport.set_protocol(connection)
            turn.transport.resume_reading()
            if self._rest:
                connection.data_received(self._rest)
        if failure is not None:
            raise failure
        return OK

    async def _send(self, upstream: Any, staging: bytes, header: bytes) -> None:
        upstream.transport.write(staged_head(staging, len(header) + self._size) + header)
        stored = upstream.expect()
        self._sink = upstream
        upstream.on_flow = self._flow
        try:
            self._start()
            await self._complete
        finally:
            self._sink = upstream.on_flow = None
            self._flow(False)
        if not upstream.closed:
            upstream.transport.write(STAGED_TAIL)
        await stored

    async def _swallow_rest(self) -> None:
        """After a refusal the client still sends the blob; it is read and dropped, so that the stream stays in sync."""
        if self._left:
            self._complete = Pending()
            self._start()
            await self._complete

    def _start(self) -> None:
        self._resume()
        if self._watch is None:
            services = self._turn.services
            timeout_s = services.config.upload_timeout_s
            self._watch = StallWatch(services.loop, timeout_s, lambda: self._reading, self._connection.stalled)
        head, self._head = self._head, b""
        if head:
            self.data_received(head)

    def _flow(self, pause: bool) -> None:
        if self._turn.gone:
            return
        if pause:
            self._pause()
        elif self._left:
            self._resume()
        if self._sink is not None and self._sink.closed and not self._complete.done:
            self._complete.resolve(None)  # the next awaited reply has the error

    def _pause(self) -> None:
        self._reading = False
        self._turn.transport.pause_reading()

    def _resume(self) -> None:
        self._reading = True
        self._turn.transport.resume_reading()

    # -- as the client's protocol --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._rest += data
            return
        if self._watch is not None:
            self._watch.moved()
        taken = min(len(data), self._left)
        blob = min(taken, self._left - 2)
        self._left -= taken
        if self._sink is not None and not self._sink.closed and blob > 0:
            self._sink.transport.write(data if blob == len(data) else data[:blob])
        if self._left == 0:
            self._rest = data[taken:]
            # Data after the blob, and the end of the client's data, is for the connection when this has ended.
            self._pause()
            self._complete.resolve(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        if self._sink is not None:
            self._sink.transport.abort()  # Redis drops an incomplete SET
        self._left = 0
        self._complete.resolve(None)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
