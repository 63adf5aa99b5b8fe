"""A large AI.TENSORGET on its way: its bytes go to the client while they come from Redis, and are not held here.

One GET gives all of it, so it is of one moment; Redis keeps what the client has not read yet, as for a plain GET. The
connection to Redis is one apart from those that others wait for, since it is needed for as long as the client reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redisai_py.commands.tensors import TensorGet, tensor_reply
from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey, RedisAIError, UpstreamError, WrongType
from redisai_py.resp.replies import tensor_head
from redisai_py.store import codec
from redisai_py.tensor import DType

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection
    from redisai_py.upstream.large import LargeUpstream

__all__ = ["STREAM_SIZE", "TensorStream"]

STREAM_SIZE = 1024 * 1024
"""Tensors of this many bytes and more are streamed."""


class TensorStream:
    """The reply to a request for a tensor's blob. It is begun when nothing else is being sent to the client."""

    def __init__(self, request: TensorGet, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._upstream: LargeUpstream | None = None
        self._size = 0
        self._begun = b""  # what has come, until the header is whole
        self._sending = False
        self._error: RedisAIError | None = None

    async def run(self) -> list[bytes]:
        """Send the reply, or what of it is not sent yet. Raises: MissingKey, WrongType, UpstreamError: nothing was
        sent.
        """
        session = self._connection.session
        if session.silent:
            return []
        access = await session.authenticated()
        await session.message_has_ended()
        async with access.apart() as upstream:
            self._upstream = upstream
            if self._connection.gone:
                raise UpstreamError("ERR client disconnected")
            session.flush()
            session.pause_relay()
            try:
                self.flow(self._connection.writing_paused)
                found = await upstream.stream(self, b"GET", self._request.key)
            except RedisAIError:
                if self._sending:
                    self._connection.transport.abort()  # half a reply: what comes behind it could not be told apart
                raise
            finally:
                self._upstream = None
                if not (self._connection.gone or self._connection.writing_paused):
                    session.resume_relay()
        if found is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        if not self._sending:
            raise self._error or WrongType()
        return []

    def flow(self, pause: bool) -> None:
        """The client does not read, or reads again."""
        if self._upstream is not None and not self._upstream.closed:
            if pause:
                self._upstream.transport.pause_reading()
            else:
                self._upstream.transport.resume_reading()

    def leave(self) -> None:
        """The client has gone."""
        if self._upstream is not None:
            self._upstream.close()

    # -- where the upstream puts what comes ----------------------------------------------------------------------------

    def begin(self, size: int) -> None:
        """A string of that many bytes comes."""
        self._size = size

    def take(self, piece: bytes) -> None:
        """The next bytes of it, CR LF at the end included."""
        if self._connection.gone:
            return
        if self._sending:
            self._connection.transport.write(piece)
        elif self._error is None:
            self._begun += piece
            self._look()

    def _look(self) -> None:
        begun = self._begun
        if len(begun) < min(9, self._size):
            return
        try:
            start = codec.header_size(begun)
            if start > self._size:
                raise WrongType
            if len(begun) < start:
                return
            dtype, shape, size = codec.read_header(begun[:start])
            if start + size != self._size:
                raise WrongType
            if dtype is DType.STRING:  # it was another tensor when it was decided to stream
                raise UpstreamError("ERR the tensor was replaced while it was read, try again")
        except RedisAIError as error:
            self._error = error
            return
        self._sending = True
        self._begun = b""
        head = tensor_head(tensor_reply(self._request, dtype, shape, b""), size)
        self._connection.transport.write(head)
        self._connection.transport.write(begun[start:])
