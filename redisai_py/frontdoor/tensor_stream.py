"""Streaming a large AI.TENSORGET: its bytes go to the client as they arrive from Redis, and are not held here.

One GET returns all of it, so it is consistent; Redis buffers what the client has not read yet, as for a plain GET. The
connection to Redis is not one that others wait for, because it is needed as long as the client reads.
"""

from __future__ import annotations

from redisai_py.commands.tensors import TensorGet, tensor_reply
from redisai_py.errors import TENSOR_KEY_EMPTY, MissingKey, RedisAIError, UpstreamError, WrongType
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.replies import tensor_head
from redisai_py.store import codec
from redisai_py.tensor import DType
from redisai_py.upstream.large import LargeUpstream

__all__ = ["TensorStream"]


class TensorStream:
    """The reply to a request for a tensor's blob. It starts when nothing else is being sent to the client."""

    def __init__(self, request: TensorGet, turn: Turn, session: Session) -> None:
        self._request = request
        self._turn = turn
        self._session = session
        self._upstream: LargeUpstream | None = None
        self._size = 0
        self._begun = b""  # received data, until the header is complete
        self._sending = False
        self._error: RedisAIError | None = None

    async def run(self) -> list[bytes]:
        """Send the reply, or the rest of it. Raises: MissingKey, WrongType, UpstreamError: nothing was sent."""
        turn, relay = self._turn, self._session.relay
        if turn.silent:
            return []
        access = await self._session.authenticated()
        await relay.message_has_ended()
        async with access.apart() as upstream:
            self._upstream = upstream
            if turn.gone:
                raise UpstreamError("ERR client disconnected")
            turn.flush()
            relay.pause()
            try:
                self.flow(turn.paused)
                found = await upstream.stream(self, b"GET", self._request.key)
            except RedisAIError:
                if self._sending:
                    turn.transport.abort()  # half a reply: what follows could not be told apart
                raise
            finally:
                self.flow(False)  # the client may have paused it with the last piece; others use it next
                self._upstream = None
                if not (turn.gone or turn.paused):
                    relay.resume()
        if found is None:
            raise MissingKey(TENSOR_KEY_EMPTY)
        if not self._sending:
            raise self._error or WrongType()
        return []

    def flow(self, pause: bool) -> None:
        """The client has stopped reading, or reads again."""
        if self._upstream is not None and not self._upstream.closed:
            if pause:
                self._upstream.transport.pause_reading()
            else:
                self._upstream.transport.resume_reading()

    def leave(self) -> None:
        """The client has left."""
        if self._upstream is not None:
            self._upstream.close()

    # -- where the upstream puts what comes ----------------------------------------------------------------------------

    def begin(self, size: int) -> None:
        """A string of this many bytes follows."""
        self._size = size

    def take(self, piece: bytes) -> None:
        """The next bytes of it, including the final CR LF."""
        if self._turn.gone:
            return
        if self._sending:
            self._turn.transport.write(piece)
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
            if dtype is DType.STRING:  # it was another tensor when streaming was decided
                raise UpstreamError("ERR the tensor was replaced while it was read, try again")
        except RedisAIError as error:
            self._error = error
            return
        self._sending = True
        self._begun = b""
        head = tensor_head(tensor_reply(self._request, dtype, shape, b""), size)
        self._turn.transport.write(head)
        self._turn.transport.write(begun[start:])
