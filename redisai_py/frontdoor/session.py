"""What Redis knows of one client: its own connection to Redis, who it is, its protocol, and the states that change
what its commands do (a transaction, subscriptions, MONITOR).

Pass-through bytes go both ways unchanged. Replies are counted, so that AI commands start only when the pass-through
ones before them are answered; while a message from Redis is cut in two by packets, our own replies wait for its end.
"""

from __future__ import annotations

import asyncio
import enum
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis

from redisai_py.errors import CommandError, UpstreamError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.capture import Capture
from redisai_py.frontdoor.driver import NO_REPLY
from redisai_py.frontdoor.tracking import OwnAccess, Tracking, carried_out
from redisai_py.pending import Pending
from redisai_py.resp.templates import Burst, Command
from redisai_py.upstream.access import Access
from redisai_py.upstream.address import Identity
from redisai_py.upstream.dialing import FIRST_PROBE_S
from redisai_py.upstream.private import PrivateUpstream

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection
    from redisai_py.frontdoor.transaction import Transaction

__all__ = ["Mode", "Session"]

_JOINED = 256 * 1024  # replies of an iteration are joined up to this many bytes: a copy is cheaper than a system call
_MESSAGES = (b"message", b"pmessage", b"smessage")
_ENDS = (b"RESET", b"QUIT")  # of MONITOR: what a client sends behind them is not meant for it
_LINE = re.compile(rb"\d+\.\d{6} \[\d+ ").match  # of MONITOR: no reply to what a client may do there begins so


class Mode(enum.IntEnum):
    """States in which commands do not simply run; falsy is the ordinary one."""

    NORMAL = 0
    TRANSACTION = 1
    SUBSCRIBED = 2  # RESP2 with at least one subscription: Redis takes few commands
    MONITOR = 3
    TUNNEL = 4  # replication: bytes both ways, never ours again
    TRACKED = 5  # CLIENT TRACKING: Redis tells the client what has changed


def _accepts(reply: Any) -> bool:
    """Whether Redis gives this reply to nobody who has yet to authenticate. Errors tell nothing: some come before."""
    return type(reply) is not hiredis.ReplyError


class _Asking:
    """A SYNC or PSYNC that Redis has not answered. came: what has come of an error."""

    def __init__(self) -> None:
        self.pending: Pending[bytes] = Pending()
        self.came = bytearray()


class Session:
    """A client's state at Redis."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.protocol = 2
        self.identity = Identity()
        self.access: Access | None = None  # set once Redis has vouched for the client
        self.accepted = False  # Redis has answered something that it answers to nobody who has yet to authenticate
        self.mode = Mode.NORMAL
        self.tracking: Tracking | None = None
        self.transaction: Transaction | None = None
        self.upstream: PrivateUpstream | None = None
        self.relayed = 0  # replies to pass-through commands still to come
        self.muted = False  # CLIENT REPLY OFF
        self.skip_next = False  # CLIENT REPLY SKIP
        self.blocks = 0  # how many of these until that of the last command that may block
        self.watches = False  # WATCH: an EXEC of ours would end it
        self.sticky = False  # Redis holds state for this client that a new connection would not have
        self.subscribed: dict[bytes, set[bytes]] = {b"": set(), b"p": set(), b"s": set()}  # channels, patterns, shards
        self._streaming = False  # messages may come between replies
        self._expected = 0  # confirmations of a subscribe command still to come
        self._confirmed: Pending[None] | None = None
        self._boundary: Pending[None] | None = None  # resolved where a message from Redis ends
        self._out: list[Any] = []  # replies of this iteration of the loop, written together at its end
        self._whole = True  # the last bytes from Redis ended at a message's boundary
        self._deferred: list[Any] = []
        self._asking: _Asking | None = None  # replication was asked for, and Redis has not decided
        self._capture: Capture | None = None
        self._unheard: Capture | None = None  # what Redis has sent since CLIENT REPLY OFF and is not complete

    # -- the connection to Redis -------------------------------------------------------------------------------------

    async def connect(self) -> PrivateUpstream:
        """The client's own connection, opened if need be with the identity and protocol it had.

        Raises: UpstreamLost, UpstreamRefused; UpstreamError: Redis does not take the identity any more.
        """
        loop = asyncio.get_running_loop()
        dialer = self._connection.server.dialer
        give_up_at = loop.time() + dialer.limits.retry_s
        while self.upstream is None:
            await loop.create_task(dialer.open(self._new_upstream, self._introduce))
            if self.upstream is None:  # lost before we came to know that it was open
                if loop.time() >= give_up_at:
                    raise UpstreamLost("ERR upstream Redis closed the new connection")
                await asyncio.sleep(FIRST_PROBE_S)
        return self.upstream

    def _new_upstream(self) -> PrivateUpstream:
        return PrivateUpstream(self._on_data, self._on_lost, self._connection.must_wait, self._owes)

    def _owes(self) -> bool:
        return self.relayed > 0 or self._capture is not None or self._confirmed is not None

    async def _introduce(self, upstream: PrivateUpstream) -> None:
        """Make a new connection the client's."""
        if self._connection.gone:
            upstream.close()
            raise UpstreamError("ERR client disconnected")
        if upstream.refused is not None:
            raise upstream.refused
        if upstream.closed:  # already, before we came to know that it was open
            raise UpstreamLost("ERR upstream Redis closed the new connection")
        self.upstream = upstream
        for argv in self.identity.handshake(self.protocol):
            (raw,) = await self.capture([argv])
            if raw[:1] == b"-":
                self.upstream = None
                upstream.close()
                raise UpstreamError(raw[1:].decode("utf-8", "replace").strip())

    async def capture(self, commands: list[list[Any]]) -> list[bytes]:
        """Send commands on the client's own connection and take their raw replies, instead of relaying them."""
        upstream = self.upstream or await self.connect()
        await self.message_has_ended()
        capture = self._capture = Capture(len(commands), self._is_message)
        for argv in commands:
            upstream.send(Command(argv).wire())
        return await capture.pending

    async def message_has_ended(self) -> None:
        """The rest of a message is not part of a reply. Replies of ours that wait for its end come first."""
        if not self._whole:
            self._boundary = Pending()
            await self._boundary

    async def authenticated(self) -> Access:
        """The identity's shared access, once Redis has vouched for this client on the client's own connection.

        Raises: UpstreamError with Redis's NOAUTH; the client must AUTH first.
        """
        if self.access is None:
            try:
                (raw,) = await self.capture([[b"PING"]])
            except UpstreamRefused as refused:
                return await self._as_anybody(refused)
            if raw.startswith(b"-NOAUTH"):
                raise UpstreamError(raw[1:].decode().strip())
            self.accept()
            self.access = self._connection.server.accesses.acquire(self.identity)
        return await self._open(self.access)

    async def _as_anybody(self, refused: UpstreamRefused) -> Access:
        """Redis has no room for this client's own connection, which AI commands can do without. Raises `refused`
        unless the shared one is there and Redis would let in anybody.
        """
        if self.identity.user is not None:
            raise refused
        access = self._connection.server.accesses.acquire(self.identity)
        try:
            shared = await access.ensure()
            # Any password is right for a user without one, and no other; the shared connection stays what it is.
            await shared.call(b"AUTH", b"default", b"")
        except UpstreamError:
            self._connection.server.accesses.release(access)
            raise refused from None
        self.accept()
        self.access = access
        return await self._open(access)

    async def is_accepted(self) -> bool:
        """Whether Redis serves this client: it is asked if no reply has shown it yet. Raises: UpstreamError."""
        if not self.accepted:
            (raw,) = await self.capture([[b"PING"]])
            if not raw.startswith(b"-NOAUTH"):
                self.accept()
        return self.accepted

    def accept(self) -> None:
        """Redis has shown that it serves this client."""
        self.accepted = True
        self._connection.parser.accept(True)

    async def authenticated_in_multi(self) -> Access:
        """`authenticated` inside a transaction, where a PING would be queued: MULTI's own OK has shown who the
        client is.
        """
        if self.access is None:
            self.access = self._connection.server.accesses.acquire(self.identity)
        return await self._open(self.access)

    async def _open(self, access: Access) -> Access:
        await access.ensure()
        if self.access is not access:  # given back while it was opened for others too
            raise UpstreamError("ERR client disconnected")
        if self.tracking is not None and self.tracking.noloop and self.mode is Mode.TRACKED:
            return OwnAccess(self, access).as_access()
        return access

    def track(self, tracking: Tracking | None) -> None:
        """Redis does, or does not any more, tell the client what has changed."""
        self.tracking = tracking
        if self.mode in (Mode.NORMAL, Mode.TRACKED):
            self.mode = self._resting_mode

    @property
    def _resting_mode(self) -> Mode:
        return Mode.TRACKED if self.tracking is not None else Mode.NORMAL

    def leave_transaction(self) -> None:
        """EXEC or DISCARD ended it; so did it end every WATCH."""
        self.watches = False
        self.mode = self._resting_mode
        self.transaction = None

    def select(self, database: int) -> None:
        """Redis changed the client's database."""
        self.become(replace(self.identity, database=database))

    def become(self, identity: Identity) -> None:
        """The client is someone else, or in another database, from now on."""
        if identity != self.identity:
            self.identity = identity
            self._release()

    def _release(self) -> None:
        if self.access is not None:
            self._connection.server.accesses.release(self.access)
            self.access = None

    def reset(self) -> None:
        """Redis answered RESET: the client is as new."""
        self.become(Identity())
        self._release()
        self.accepted = False
        self._connection.parser.accept(False)
        self.protocol = 2
        self.tracking = None
        self.mode = Mode.NORMAL
        self.transaction = None
        self.muted = self.skip_next = self.sticky = self.watches = False
        self._streaming = False
        for names in self.subscribed.values():
            names.clear()

    def close(self) -> None:
        """The client has gone."""
        self._release()
        if self.upstream is not None:
            upstream, self.upstream = self.upstream, None
            upstream.close()

    # -- relaying ----------------------------------------------------------------------------------------------------

    def relay(self, command: Command) -> bool:
        """Pass a command on and its reply back. False if it cannot start yet: AI work is under way, or its reply
        waits for the end of a message, together with which the next one's could come.
        """
        connection = self._connection
        if connection.in_flight or connection.busy or self._deferred:
            return False
        if self.skip_next:
            return not self.relayed and connection.run_alone(self._swallow(command))
        if self.upstream is None:
            return connection.run_alone(self._connect_then_relay(command))
        self._pass_on(self.upstream, command.wire(), 1)
        return True

    def relay_row(self, row: Burst) -> bool:
        """The same for several commands, where there is a connection to Redis and nothing is to be skipped."""
        connection = self._connection
        assert self.upstream is not None
        if connection.in_flight or connection.busy or self._deferred:
            return False
        self._pass_on(self.upstream, [row.frame], len(row.words))
        return True

    def _pass_on(self, upstream: PrivateUpstream, segments: list[bytes | memoryview], replies: int) -> None:
        upstream.send(segments)
        self.relayed += replies
        if not self.blocks:
            self._connection.server.busy_poll.asked()

    async def _connect_then_relay(self, command: Command) -> object:
        upstream = await self.connect()
        upstream.send(command.wire())
        self.relayed += 1
        if self._connection.eof and not self._connection.backlog:  # the client left while this connection was opened
            self.end_sending()
        return NO_REPLY

    async def _swallow(self, command: Command) -> object:
        """CLIENT REPLY SKIP came before this command."""
        await self.capture([command.argv])
        self.skip_next = False
        return NO_REPLY

    async def tunnel(self, upstream: PrivateUpstream, command: Command) -> bytes:
        """Ask for replication. Returns: what Redis said first: a whole error, which is not passed on; or anything else,
        which has been, and from then on bytes go both ways as they are.
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
        asking.came += data
        said = asking.came.lstrip(b"\n")  # with which Redis keeps the line open
        if said[:1] == b"-":
            if said.endswith(b"\r\n"):
                self.upstream.tunnel = None
                asking.pending.resolve(bytes(said))
            return
        asking.came.clear()
        if said:
            self.mode = Mode.TUNNEL
            self.upstream.tunnel = self._on_tunnelled
        self._on_tunnelled(data)
        if said:
            asking.pending.resolve(bytes(said[:1]))

    def _on_tunnelled(self, data: bytes) -> None:
        self._on_data(data, [], True)

    async def stream(self, command: Command, confirmations: int) -> object:
        """Pass a (un)subscribe command on and wait for its confirmations; everything that comes is relayed
        meanwhile.
        """
        upstream = await self.connect()
        await self.message_has_ended()
        self.skip_next = False  # used up: Redis sends the confirmations of one that is to be skipped, too
        self._streaming = True
        self._expected = confirmations
        pending = self._confirmed = Pending()
        if self.protocol == 2:
            self.mode = Mode.SUBSCRIBED
        upstream.send(command.wire())
        await pending
        return NO_REPLY

    @property
    def silent(self) -> bool:
        """Whether the client does not hear the next reply."""
        return self.muted or self.skip_next

    @property
    def in_message(self) -> bool:
        """Whether a message from Redis has begun and is not complete."""
        return not self._whole

    def end_sending(self) -> None:
        """The client sends no more: Redis is told if its command may be a blocking one, which Redis then drops."""
        # Not for others: Redis would not wait until a long reply has been taken.
        if self.relayed and self.blocks and self.upstream is not None and self.upstream.transport.can_write_eof():
            self.upstream.transport.write_eof()

    def start_in_mode(self, meaning: Any, command: Command) -> bool:
        """Start a command in a state other than the ordinary one."""
        connection = self._connection
        if self.mode is Mode.TRANSACTION:
            assert self.transaction is not None
            return self.transaction.start(meaning, command)
        if self.mode is Mode.TUNNEL or (self.mode is Mode.MONITOR and not meaning.is_ai and meaning.name not in _ENDS):
            assert self.upstream is not None
            if self._deferred:
                return False
            self.upstream.send(command.wire())
            self.relayed += self.mode is Mode.MONITOR and not meaning.name.endswith(b"SUBSCRIBE")
            return True
        if not meaning.is_ai:
            return bool(meaning.start(connection, command))
        if not connection.idle:
            return False
        if self.mode is Mode.TRACKED:
            work = meaning.carry_out(connection)
            return connection.run_alone(carried_out(work, command.argv, meaning.reads, self))
        name = command.argv[0].decode("utf-8", "replace").lower()
        state = "MONITOR" if self.mode is Mode.MONITOR else "subscribed"
        connection.reply(
            CommandError(
                f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                f"allowed in this context ({state})"
            )
        )
        return True

    def _on_data(self, data: bytes, replies: list[Any], whole: bool) -> None:
        if replies and not whole and (self._capture is not None or self._boundary is not None or self._deferred):
            self._on_end_within(data, replies)
            return
        if self._capture is not None:
            self._on_captured(data, replies, whole)
            return
        connection = self._connection
        self._whole = whole
        if self.muted:
            self._drop(data, replies)
        else:
            if self._out:
                self.flush()
            connection.transport.write(data)
        if self._deferred and whole:
            deferred, self._deferred = self._deferred, []
            for segments in deferred:
                self._send(segments)
        relayed = self.relayed
        self._count(replies)
        if self.blocks:
            self.blocks = max(0, self.blocks + self.relayed - relayed)
        if self._boundary is not None and whole:
            boundary, self._boundary = self._boundary, None
            boundary.resolve(None)
        if not self.relayed and whole:
            connection.server.busy_poll.answered()
            connection.after_work()

    def _on_end_within(self, data: bytes, replies: list[Any]) -> None:
        """Something waits for a message's end. Where messages follow without a pause, no chunk ends there."""
        assert self.upstream is not None
        begun = self.upstream.begun()
        self._on_data(data[: len(data) - len(begun)], replies, True)
        self._on_data(begun, [], False)

    def _drop(self, data: bytes, replies: list[Any]) -> None:
        """CLIENT REPLY is OFF, which silences replies but not messages."""
        if not self._streaming and (self.protocol == 2 or not self.sticky):
            return  # there are none; nothing need be kept
        unheard = self._unheard = self._unheard or Capture(0, self._is_message)
        unheard.add(data, replies)
        if self._whole:
            self._unheard = None
            self._send_messages(unheard)

    def _send_messages(self, capture: Capture) -> None:
        messages = capture.sort()
        if messages:
            self._send(messages)

    def _is_message(self, reply: Any) -> bool:
        """Whether Redis sent this of its own accord: a push; what MONITOR shows; in RESP2, what a subscriber gets
        beside replies.
        """
        if type(reply) is hiredis.PushNotification:
            return True
        if self.mode is Mode.MONITOR and type(reply) is bytes:
            return _LINE(reply) is not None
        if not self._streaming or self.protocol == 3 or type(reply) is not list or not reply:
            return False
        return reply[0] in _MESSAGES or (type(reply[0]) is bytes and reply[0].endswith(b"subscribe"))

    def _count(self, replies: list[Any]) -> None:
        if not self.accepted and any(map(_accepts, replies)):
            self.accept()
        if self._streaming or self.mode is Mode.MONITOR:
            self._count_streaming(replies)
            return
        for reply in replies:
            if type(reply) is not hiredis.PushNotification:
                self.relayed -= 1

    def _count_streaming(self, replies: list[Any]) -> None:
        """Count replies where messages come between them (subscriptions, MONITOR)."""
        # In RESP3 messages are pushes: an array that begins with the word `message` is some command's reply.
        kind = hiredis.PushNotification if self.protocol == 3 else list
        for reply in replies:
            family = reply[0] if isinstance(reply, kind) and reply and type(reply[0]) is bytes else b""
            if family.endswith(b"subscribe") and len(reply) == 3:
                self._confirm(family, reply[1])
            elif type(reply) is hiredis.ReplyError and self._expected:
                self._expected = 0
            elif family not in _MESSAGES and not self._is_message(reply):
                self.relayed -= 1
        if self._expected <= 0 and self._confirmed is not None:
            confirmed, self._confirmed = self._confirmed, None
            if not any(self.subscribed.values()):
                self._streaming = False
                if self.mode is Mode.SUBSCRIBED:
                    self.mode = self._resting_mode
            confirmed.resolve(None)

    def _confirm(self, family: bytes, name: bytes | None) -> None:
        self._expected -= 1
        kind = family[: 1 if family[:1] in (b"p", b"s") and family != b"subscribe" else 0]
        if family.endswith(b"unsubscribe"):
            self.subscribed[kind].discard(name or b"")
        else:
            self.subscribed[kind].add(name or b"")

    def _on_captured(self, data: bytes, replies: list[Any], whole: bool) -> None:
        capture = self._capture
        assert capture is not None
        capture.add(data, replies)
        if not capture.complete or not whole:
            return
        self._capture = None
        self._send_messages(capture)
        capture.pending.resolve(capture.raw)

    def _on_lost(self, refused: UpstreamRefused | None) -> None:
        """The client's own connection has ended. Where that takes a reply or a state with it, the client is closed as
        Redis closed it; else the next command opens another one.
        """
        connection = self._connection
        if self.upstream is None or connection.gone:
            return
        self.upstream = None
        capture, self._capture = self._capture, None
        boundary, self._boundary = self._boundary, None
        confirmed, self._confirmed = self._confirmed, None
        asking = self._asking
        self._unheard = None
        lost = refused or UpstreamLost("ERR upstream Redis connection lost; the command may have been applied")
        stateful = self.mode or self.sticky or confirmed is not None or any(self.subscribed.values())
        if stateful or self.relayed or not self._whole or connection.closing or connection.eof:
            connection.end_with(lost)
        if confirmed is not None:
            confirmed.resolve(None)
        if asking is not None:
            asking.pending.fail(lost)
        if boundary is not None:
            boundary.fail(lost)
        if capture is not None:
            capture.pending.fail(lost)
        if not connection.closing:
            connection.must_wait(False)

    # -- writing to the client ---------------------------------------------------------------------------------------

    def write(self, segments: Any) -> None:
        """Write one of our own replies, never into the middle of a message from Redis."""
        if self.muted or self._connection.gone:
            return
        if self.skip_next:
            self.skip_next = False
            return
        self._send(segments)

    def _send(self, segments: Any) -> None:
        if not self._whole:
            self._deferred.append(segments)
            return
        if not self._out:
            self._connection.server.flush_later(self)
        self._out.extend(segments)

    def write_at_once(self, reply: bytes) -> None:
        """Write one of our own replies that no other will follow soon: a pipeline's share a system call, this has its
        own.
        """
        if self._out or self._deferred or self.muted or self.skip_next or not self._whole:
            self.write((reply,))
        elif not self._connection.gone:
            self._connection.transport.write(reply)

    def flush(self) -> None:
        """Hand what was written to the transport: once per iteration of the loop, and before anything else goes
        there.
        """
        out, self._out = self._out, []
        if not out or self._connection.gone:
            return
        write = self._connection.transport.write
        if len(out) == 1:
            write(out[0])
        elif sum(map(len, out)) < _JOINED:
            write(b"".join(out))
        else:
            for segment in out:
                write(segment)

    def pause_relay(self) -> None:
        """The client does not read: stop reading from Redis for it."""
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume_relay(self) -> None:
        """The client reads again."""
        if self.upstream is not None:
            self.upstream.transport.resume_reading()
