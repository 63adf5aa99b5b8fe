"""One client's own connection to Redis: everything except AI commands goes both ways unchanged.

Replies are counted, so that AI commands start only when the relayed commands before them are answered. Messages that
Redis sends by itself (subscriptions, MONITOR, invalidations) come between replies and are told apart from them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hiredis

from redisai_py.errors import UpstreamError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.eager_task import NO_REPLY
from redisai_py.frontdoor.reply_collector import ReplyCollector
from redisai_py.frontdoor.state import Mode, State
from redisai_py.frontdoor.turn import Turn
from redisai_py.pending import Pending
from redisai_py.resp.redis_errors import error_in
from redisai_py.resp.templates import Burst, Command
from redisai_py.upstream.dialing import FIRST_PROBE_S
from redisai_py.upstream.private import PrivateUpstream

__all__ = ["Relay"]

_MESSAGES = (b"message", b"pmessage", b"smessage")
_MONITOR = Mode.MONITOR  # an enum look-up takes as long as several others
_LINE = re.compile(rb"\d+\.\d{6} \[\d+ ").match  # of MONITOR: no reply that the client can get then begins like this


def _accepts(reply: Any) -> bool:
    """Whether Redis gives this reply only to authenticated clients. Errors prove nothing: some come before it."""
    return type(reply) is not hiredis.ReplyError


@dataclass(slots=True)
class _Asking:
    """A SYNC or PSYNC that Redis has not answered. received: the start of an error reply."""

    pending: Pending[bytes] = field(default_factory=Pending)
    received: bytearray = field(default_factory=bytearray)


class Relay:
    """Args: state: what Redis knows of the client.   on_flow: called when Redis falls behind, or has caught up."""

    def __init__(self, state: State, turn: Turn, on_flow: Callable[[bool], object]) -> None:
        self._state = state
        self._turn = turn
        self._on_flow = on_flow
        self.upstream: PrivateUpstream | None = None
        self.blocks = 0
        """Number of replies up to that of the last command that may block."""
        self._streaming = False  # messages may come between replies
        self._expected = 0  # outstanding confirmations of a subscribe command
        self._confirmed: Pending[None] | None = None
        self._boundary: Pending[None] | None = None  # resolved when a message from Redis ends
        self._asking: _Asking | None = None  # replication was requested, and Redis has not decided
        self._collector: ReplyCollector | None = None
        self._unheard: ReplyCollector | None = None  # incomplete data from Redis since CLIENT REPLY OFF

    # -- the connection ------------------------------------------------------------------------------------------------

    async def connect(self) -> PrivateUpstream:
        """The client's own connection, opened if necessary with the client's identity and protocol.

        Raises: UpstreamLost, UpstreamRefused; UpstreamError: Redis no longer accepts the identity.
        """
        loop = asyncio.get_running_loop()
        dialer = self._turn.services.dialer
        give_up_at = loop.time() + dialer.settings.upstream_retry_s
        while self.upstream is None:
            await loop.create_task(dialer.open(self._new_upstream, self._introduce))
            if self.upstream is None:  # lost before we learnt that it was open
                if loop.time() >= give_up_at:
                    raise UpstreamLost("ERR upstream Redis closed the new connection")
                await asyncio.sleep(FIRST_PROBE_S)
        return self.upstream

    def _new_upstream(self) -> PrivateUpstream:
        return PrivateUpstream(self._on_data, self._on_lost, self._on_flow, self._awaits_reply)

    def _awaits_reply(self) -> bool:
        return self._turn.relayed > 0 or self._collector is not None or self._confirmed is not None

    async def _introduce(self, upstream: PrivateUpstream) -> None:
        """Give a new connection the client's identity and state."""
        if self._turn.gone:
            upstream.close()
            raise UpstreamError("ERR client disconnected")
        if upstream.refused is not None:
            raise upstream.refused
        if upstream.closed:  # closed before we learnt that it was open
            raise UpstreamLost("ERR upstream Redis closed the new connection")
        self.upstream = upstream
        for argv in self._state.identity.handshake(self._state.protocol):
            (raw,) = await self.capture([argv])
            if (error := error_in(raw)) is not None:
                self.upstream = None
                upstream.close()
                raise error

    async def capture(self, commands: list[list[Any]]) -> list[bytes]:
        """Send commands on the client's own connection. Returns: their raw replies, which are not relayed."""
        upstream = self.upstream or await self.connect()
        await self.message_has_ended()
        collector = self._collector = ReplyCollector(len(commands), self._is_message)
        for argv in commands:
            upstream.send(Command(argv).wire())
        return await collector.pending

    async def message_has_ended(self) -> None:
        """Wait for the end of a message, whose rest is not part of a reply. Held replies of ours come first."""
        if self._turn.in_message:
            self._boundary = Pending()
            await self._boundary

    def pause(self) -> None:
        """The client does not read: stop reading from Redis for it."""
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume(self) -> None:
        """The client reads again."""
        if self.upstream is not None:
            self.upstream.transport.resume_reading()

    def end_sending(self) -> None:
        """The client has finished sending: tell Redis if its command may be a blocking one, which Redis then drops."""
        # Not for other commands: Redis would not wait until a long reply has been taken.
        if self._turn.relayed and self.blocks and self.upstream is not None and self.upstream.transport.can_write_eof():
            self.upstream.transport.write_eof()

    def reset(self) -> None:
        """Redis answered RESET: there will be no more messages."""
        self._streaming = False

    def close(self) -> None:
        """The client has left."""
        if self.upstream is not None:
            upstream, self.upstream = self.upstream, None
            upstream.close()

    # -- to Redis ------------------------------------------------------------------------------------------------------

    def pass_on(self, command: Command) -> bool:
        """Relay a command and its reply. False if it cannot start yet: AI work is in progress, or its reply waits for
        the end of a message that the next reply could share.
        """
        turn = self._turn
        if turn.in_flight or turn.busy or turn.deferred:
            return False
        if turn.skip_next:
            return not turn.relayed and turn.run_alone(self._swallow(command))
        if self.upstream is None:
            return turn.run_alone(self._connect_then_pass_on(command))
        self.upstream.send(command.wire())
        self._sent(1)
        return True

    def pass_on_burst(self, burst: Burst) -> bool:
        """Relay several commands, if there is a connection to Redis and no reply is to be skipped."""
        turn = self._turn
        assert self.upstream is not None
        if turn.in_flight or turn.busy or turn.deferred:
            return False
        self.upstream.send([burst.frame])
        self._sent(len(burst.words))
        return True

    def _sent(self, replies: int) -> None:
        self._turn.relaying(replies)
        if not self.blocks:
            self._turn.services.busy_poll.asked()

    async def _connect_then_pass_on(self, command: Command) -> object:
        turn = self._turn
        upstream = await self.connect()
        upstream.send(command.wire())
        turn.relaying(1)
        if turn.eof and not turn.backlog:  # the client left while this connection was being opened
            self.end_sending()
        return NO_REPLY

    async def _swallow(self, command: Command) -> object:
        """A command after CLIENT REPLY SKIP."""
        await self.capture([command.argv])
        self._turn.skip(False)
        return NO_REPLY

    def send_in_mode(self, command: Command) -> bool:
        """Pass on a command while Redis streams to the client: replication, MONITOR."""
        assert self.upstream is not None
        if self._turn.deferred:
            return False
        self.upstream.send(command.wire())
        return True

    async def tunnel(self, upstream: PrivateUpstream, command: Command) -> bytes:
        """Request replication. Returns: Redis's first answer: either a complete error, which is not passed on; or
        anything else, which has been passed on, and from then on bytes go both ways unchanged.
        """
        await self.message_has_ended()
        asking = self._asking = _Asking()
        upstream.tunnel = partial(self._on_asked, asking)
        upstream.send(command.wire())
        try:
            return await asking.pending
        finally:
            self._asking = None

    def _on_asked(self, asking: _Asking, data: bytes) -> None:
        assert self.upstream is not None
        asking.received += data
        said = asking.received.lstrip(b"\n")  # Redis sends newlines to keep the connection alive
        if said[:1] == b"-":
            if said.endswith(b"\r\n"):
                self.upstream.tunnel = None
                asking.pending.resolve(bytes(said))
            return
        asking.received.clear()
        if said:
            self._state.mode = Mode.TUNNEL
            self.upstream.tunnel = self._on_tunnelled
        self._on_tunnelled(data)
        if said:
            asking.pending.resolve(bytes(said[:1]))

    def _on_tunnelled(self, data: bytes) -> None:
        self._on_data(data, [], True)

    async def stream(self, command: Command, confirmations: int) -> object:
        """Pass on a (un)subscribe command and wait for its confirmations; everything meanwhile is relayed."""
        upstream = await self.connect()
        await self.message_has_ended()
        self._turn.skip(False)  # used up: Redis sends confirmations even if they should be skipped
        self._streaming = True
        self._expected = confirmations
        pending = self._confirmed = Pending()
        if self._state.protocol == 2:
            self._state.mode = Mode.SUBSCRIBED
        upstream.send(command.wire())
        await pending
        return NO_REPLY

    # -- from Redis ----------------------------------------------------------------------------------------------------

    def _on_data(self, data: bytes, replies: list[Any], whole: bool) -> None:
        turn = self._turn
        if replies and not whole and (self._collector is not None or self._boundary is not None or turn.deferred):
            self._on_end_within(data, replies)
            return
        if self._collector is not None:
            self._on_captured(data, replies, whole)
            return
        if turn.muted:
            self._drop(data, replies, whole)
            turn.passed(whole)
        else:
            turn.pass_on(data, whole)
        relayed = turn.relayed
        self._count(replies)
        if self.blocks:
            self.blocks = max(0, self.blocks + turn.relayed - relayed)
        if self._boundary is not None and whole:
            boundary, self._boundary = self._boundary, None
            boundary.resolve(None)
        if not turn.relayed and whole:
            turn.services.busy_poll.answered()
            turn.after_work()

    def _on_end_within(self, data: bytes, replies: list[Any]) -> None:
        """Something waits for the end of a message. With messages in close succession, no chunk may end there."""
        assert self.upstream is not None
        begun = self.upstream.begun()
        self._on_data(data[: len(data) - len(begun)], replies, True)
        self._on_data(begun, [], False)

    def _drop(self, data: bytes, replies: list[Any], whole: bool) -> None:
        """CLIENT REPLY OFF silences replies but not messages."""
        if not self._streaming and (self._state.protocol == 2 or not self._state.sticky):
            return  # there are no messages, so nothing need be kept
        unheard = self._unheard = self._unheard or ReplyCollector(0, self._is_message)
        unheard.add(data, replies)
        if whole:
            self._unheard = None
            self._send_messages(unheard)

    def _send_messages(self, collector: ReplyCollector) -> None:
        messages = collector.split()
        if messages:
            self._turn.write_between(messages)

    def _is_message(self, reply: Any) -> bool:
        """Whether this is a message instead of a reply: a push; MONITOR's output; in RESP2, what a subscriber gets
        besides replies.
        """
        if type(reply) is hiredis.PushNotification:
            return True
        if self._state.mode is Mode.MONITOR and type(reply) is bytes:
            return _LINE(reply) is not None
        if not self._streaming or self._state.protocol == 3 or type(reply) is not list or not reply:
            return False
        return reply[0] in _MESSAGES or (type(reply[0]) is bytes and reply[0].endswith(b"subscribe"))

    def _count(self, replies: list[Any]) -> None:
        state = self._state
        if not state.accepted and any(map(_accepts, replies)):
            state.accept()
        if self._streaming or state.mode is _MONITOR:
            self._count_streaming(replies)
            return
        count = len(replies)
        for reply in replies:
            if type(reply) is hiredis.PushNotification:
                count -= 1
        self._turn.relayed_answered(count)

    def _count_streaming(self, replies: list[Any]) -> None:
        """Count replies among messages (subscriptions, MONITOR)."""
        # In RESP3 messages are pushes; an array that begins with the word `message` is a command's reply.
        kind = hiredis.PushNotification if self._state.protocol == 3 else list
        for reply in replies:
            family = reply[0] if isinstance(reply, kind) and reply and type(reply[0]) is bytes else b""
            if family.endswith(b"subscribe") and len(reply) == 3:
                self._confirm(family, reply[1])
            elif type(reply) is hiredis.ReplyError and self._expected:
                self._expected = 0
            elif family not in _MESSAGES and not self._is_message(reply):
                self._turn.relayed_answered(1)
        if self._expected <= 0 and self._confirmed is not None:
            confirmed, self._confirmed = self._confirmed, None
            if not any(self._state.subscribed.values()):
                self._streaming = False
                if self._state.mode is Mode.SUBSCRIBED:
                    self._state.mode = self._state.resting_mode
            confirmed.resolve(None)

    def _confirm(self, family: bytes, name: bytes | None) -> None:
        self._expected -= 1
        kind = family[: 1 if family[:1] in (b"p", b"s") and family != b"subscribe" else 0]
        if family.endswith(b"unsubscribe"):
            self._state.subscribed[kind].discard(name or b"")
        else:
            self._state.subscribed[kind].add(name or b"")

    def _on_captured(self, data: bytes, replies: list[Any], whole: bool) -> None:
        collector = self._collector
        assert collector is not None
        collector.add(data, replies)
        if not collector.complete or not whole:
            return
        self._collector = None
        self._send_messages(collector)
        collector.pending.resolve(collector.raw)

    def _on_lost(self, refused: UpstreamRefused | None) -> None:
        """The client's own connection has ended. If that loses a reply or state, the client is disconnected, as Redis
        would have done; otherwise its next command opens another connection.
        """
        turn, state = self._turn, self._state
        if self.upstream is None or turn.gone:
            return
        self.upstream = None
        collector, self._collector = self._collector, None
        boundary, self._boundary = self._boundary, None
        confirmed, self._confirmed = self._confirmed, None
        asking = self._asking
        self._unheard = None
        lost = refused or UpstreamLost("ERR upstream Redis connection lost; the command may have been applied")
        stateful = state.mode or state.sticky or confirmed is not None or any(state.subscribed.values())
        if stateful or turn.relayed or turn.in_message or turn.closing or turn.eof:
            turn.end_with(lost)
        if confirmed is not None:
            confirmed.resolve(None)
        if asking is not None:
            asking.pending.fail(lost)
        if boundary is not None:
            boundary.fail(lost)
        if collector is not None:
            collector.pending.fail(lost)
        if not turn.closing:
            self._on_flow(False)
