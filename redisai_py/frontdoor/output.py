"""Output to one client: our replies and, between them, Redis's messages as they come.

The replies of an iteration of the event loop leave together, and never in the middle of a message from Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.frontdoor.held_replies import HeldReplies
from redisai_py.tensor import Buffer

__all__ = ["Flusher", "Output", "Segments"]

_JOINED = 256 * 1024
"""Replies of an iteration are joined up to this many bytes, because a copy is cheaper than a system call."""

Segments = Sequence[Buffer]


class Flusher:
    """Writes the replies of an iteration of the event loop at its end, one system call per client."""

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self._call_soon = call_soon
        self._outputs: list[Output] = []

    def later(self, output: Output) -> None:
        """Flush an output at the end of this iteration."""
        if not self._outputs:
            self._call_soon(self._flush)
        self._outputs.append(output)

    def _flush(self) -> None:
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            output.flush()


class Output:
    """Args: flusher: the server's."""

    __slots__ = (
        "_flusher", "_out", "_whole", "deferred", "gone", "held", "largest_reply", "muted", "paused", "skip_next",
        "transport",
    )  # fmt: skip

    def __init__(self, flusher: Flusher) -> None:
        self._flusher = flusher
        self.transport: Any = None
        self.gone = False
        """The client has left."""
        self.muted = False
        """CLIENT REPLY OFF is in effect."""
        self.skip_next = False
        """CLIENT REPLY SKIP is in effect."""
        self.paused = False
        """The client does not read its replies."""
        self.held: HeldReplies | None = None
        """Replies after one that takes a second round trip."""
        self.largest_reply = 0
        """Bytes of the largest reply, which the limit on unread data leaves out."""
        self._whole = True  # the last bytes from Redis ended at a message boundary
        self._out: list[Buffer] = []  # replies of this iteration of the loop
        self.deferred: list[Segments] = []
        """Replies that wait for the end of a message."""

    def write(self, segments: Segments) -> None:
        """Send a reply's bytes, in order after held replies."""
        if self.held is not None:
            self.held.add(segments)
        elif len(segments) > 1:
            self.send(segments)
        else:
            self._write(segments)

    def send(self, segments: Segments) -> None:
        """Send the bytes of a reply whose turn it is."""
        self.largest_reply = max(self.largest_reply, sum(map(len, segments)))
        self._write(segments)

    def release_held(self) -> None:
        """No reply is held any more."""
        self.held = None

    @property
    def streams(self) -> bool:
        """Whether a reply is being streamed to the client."""
        return self.held is not None and self.held.stream is not None

    def pause(self, paused: bool = True) -> None:
        """The client does not read its replies, so nothing more starts; or it reads again."""
        self.paused = paused
        if self.held is not None:
            self.held.flow()

    @property
    def silent(self) -> bool:
        """Whether the client does not get the next reply."""
        return self.muted or self.skip_next

    @property
    def in_message(self) -> bool:
        """Whether a message from Redis has begun and is incomplete."""
        return not self._whole

    def _write(self, segments: Segments) -> None:
        if self.muted or self.gone:
            return
        if self.skip_next:
            self.skip_next = False
            return
        if not self._whole:  # `write_between`, inlined on the hot path
            self.deferred.append(segments)
            return
        if not self._out:
            self._flusher.later(self)
        self._out.extend(segments)

    def write_between(self, segments: Segments) -> None:
        """Write after what was written, once no message from Redis is incomplete."""
        if not self._whole:
            self.deferred.append(segments)
            return
        if not self._out:
            self._flusher.later(self)
        self._out.extend(segments)

    def _write_at_once(self, reply: Buffer) -> None:
        """Write a reply that is not followed soon by others, which would share a system call; this one uses its own."""
        if self._out or self.deferred or self.muted or self.skip_next or not self._whole:
            self._write((reply,))
        elif not self.gone:
            self.transport.write(reply)

    def pass_on(self, data: bytes, whole: bool) -> None:
        """Write data from Redis to the client. whole: it ends at a message boundary."""
        if self._out:
            self.flush()
        self.transport.write(data)
        self._whole = whole
        if self.deferred:
            self.passed(whole)

    def passed(self, whole: bool) -> None:
        """Data from Redis was written, or is not for the client."""
        self._whole = whole
        if self.deferred and whole:
            deferred, self.deferred = self.deferred, []
            for segments in deferred:
                self.write_between(segments)

    def mute(self, muted: bool) -> None:
        """CLIENT REPLY OFF, or ON."""
        self.muted = muted
        self.skip_next = False

    def skip(self, skips: bool) -> None:
        """CLIENT REPLY SKIP, or its end."""
        self.skip_next = skips

    def flush(self) -> None:
        """Pass the written data to the transport, at the end of an iteration, and before other data goes there."""
        out, self._out = self._out, []
        if not out or self.gone:
            return
        write = self.transport.write
        if len(out) == 1:
            write(out[0])
        elif sum(map(len, out)) < _JOINED:
            write(b"".join(out))
        else:
            for segment in out:
                write(segment)
