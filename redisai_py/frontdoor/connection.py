"""One client: bytes in, commands in order, replies out in order.

    data_received -> parser -> backlog -> start -> reply

Order is kept by what may overlap. Three kinds of work exist, and only one kind is under way at a time:
- pass-through commands (`relayed` counts replies outstanding on the client's own Redis connection),
- AI commands of one round trip, TENSORSET and TENSORGET (`in_flight`): they follow each other on the identity's
  shared stream, which answers in order, so a pipeline of them overlaps,
- everything else AI (`busy`): alone, as a client that waits for a blocking command in Redis.
A command that cannot start yet stays in the backlog; finishing work drains it. A full backlog stops reading from the
client, and so does a Redis that is behind with what the client sent. A client that does not read its replies stops
being served, but is read from, within a limit: it may be sending a long pipeline first.

`ai.dispatch` knows what a command means; this module only knows when a command may start.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from redisai_py.ai.dispatch import joint_meaning, understand
from redisai_py.errors import CommandError, RedisAIError, UpstreamError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.client_memory import NOTED
from redisai_py.frontdoor.driver import NO_REPLY, drive
from redisai_py.frontdoor.held_replies import ENDS, HeldReplies
from redisai_py.frontdoor.large_receiver import LargeReceiver, allocate
from redisai_py.frontdoor.session import Mode, Session
from redisai_py.frontdoor.stall_watch import StallWatch
from redisai_py.frontdoor.streaming import begin_stream
from redisai_py.resp.replies import encode_reply, takes_long
from redisai_py.resp.requests import CommandParser, unroll
from redisai_py.resp.templates import MAX_FRAME, Burst, Command
from redisai_py.tensor import Buffer

if TYPE_CHECKING:
    from redisai_py.frontdoor.server import Server

__all__ = ["Connection"]

_BACKLOG_HIGH = 1024
_BACKLOG_LOW = 128
_BURSTS_HIGH = 16
"""The same where what waits are bursts, each of them up to 64 commands."""
_BYTES_HIGH = 64 * 1024 * 1024
"""The same where what waits is large."""
_COMMAND_BYTES = 256
"""What a command costs beside its own bytes."""
_BYTES_UNKNOWN = 256 * 1024
"""The same of a client that has yet to authenticate."""
_MOST_IN_FLIGHT = 1024
"""AI commands of one client under way at a time, whichever way they were recognised."""
_LINGER_S = 2.0
"""How long a client may take to read its last replies and to close, once Redis has closed."""
_EOF_GRACE_S = 1.0
"""How long the commands of a client that sends no more may still take."""

Segments = Sequence[Buffer]


class Connection(asyncio.Protocol):
    """A client's connection; created by the server for each accepted socket."""

    def __init__(self, server: Server) -> None:
        config = server.config
        self.server = server
        self._known = server.frames.by_bytes
        self.parser = CommandParser(
            server.frames,
            config.max_argument_bytes,
            config.max_arguments,
            allocate,
            bursts=True,
            joint=joint_meaning,
            authenticated=False,
        )
        self.session = Session(self)
        self.backlog: deque[Command | Burst] = deque()
        self.busy = False
        self.in_flight = 0
        self.reading: set[bytes] = set()  # keys of TENSORGETs in flight, which a later write of ours must not overtake
        self.gone = False
        self.closing = False  # reply sent that ends the connection; nothing more is started
        self.transport: Any = None
        self.cancel_run: Any = None  # called when the client leaves while its run is queued
        self.held: HeldReplies | None = None  # replies behind one that takes a second trip
        self._largest_reply = 0
        self._draining = False
        self._reading_paused = False
        self.writing_paused = False
        self._must_wait = False  # Redis does not take what this client sends as fast as it comes
        self._waiting_bytes = 0  # received and not processed, at least what the backlog and a command to come hold
        self.accounted = 0  # see ClientMemory
        self._large = LargeReceiver(self)
        self._watch: StallWatch | None = None  # while something large comes
        self.eof = False  # the client sends no more

    # -- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.gone:
            return
        self.gone = True
        self.backlog.clear()
        self._watch_upload(False)
        if self.held is not None:
            self.held.close()
        self.parser.close()  # connection and session refer to each other: what they hold waits for the collector
        self.session.close()
        if self.cancel_run is not None:
            self.cancel_run()
        self.server.left(self)

    def data_received(self, data: bytes) -> None:
        parser = self.parser
        if parser.at_boundary and not (
            self.backlog or self.busy or self.session.mode or self.writing_paused or self.closing
        ):
            # A whole command as was seen before, and nothing in its way: most of what a busy server receives.
            known = self._known.get(data) if len(data) <= MAX_FRAME else None
            if known is not None and self.in_flight < _MOST_IN_FLIGHT:
                self.server.commands_processed += 1
                if not known.meaning.start(self, known):
                    self.backlog.append(known)
                return
            form = parser.form
            if form is not None and form.is_one(data) and self.in_flight < _MOST_IN_FLIGHT:
                self.server.commands_processed += 1
                burst = Burst(form.meaning, data, [data[form.word_at : form.after_at + 2]])
                if not burst.meaning.start_alone(self, burst):
                    self.backlog.append(burst)
                elif self.backlog:  # it has been unrolled
                    self.drain()
                return
        if self.closing:
            return
        self._waiting_bytes += len(data)
        self._accept(parser.feed(data))
        if self._watch is not None or not parser.at_boundary:
            self._receive_large()

    def _receive_large(self) -> None:
        """Let the kernel write a large argument that has begun to where it belongs."""
        if self.parser.receiving_large and not (self.gone or self.closing):
            large = self.parser.large
            streamed = large is not None and begin_stream(self, *large)
            if not streamed:
                self.transport.set_protocol(self._large)
            self._watch_upload(not streamed)
        elif self._watch is not None or self._waiting_bytes > NOTED:
            self._watch_upload(self.parser.held_bytes > NOTED)

    def large_received(self, count: int) -> None:
        """`count` bytes went straight into a large argument's buffer."""
        self._waiting_bytes += count
        commands = self.parser.received(count)
        if not self.parser.receiving_large:
            self.transport.set_protocol(self)
            self._watch_upload(self.parser.held_bytes > NOTED)
            self._accept(commands)
            return
        if self._watch is not None:
            self._watch.moved()
        if self._waiting_bytes > NOTED:
            self._report()

    def _watch_upload(self, coming: bool) -> None:
        """Whether a command that holds much is still coming, of which some has come just now."""
        if not coming:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
        elif self._watch is not None:
            self._watch.moved()
        else:
            timeout_s = self.server.config.upload_timeout_s
            self._watch = StallWatch(self.server.loop, timeout_s, lambda: not self._reading_paused, self.stalled)

    def stalled(self) -> None:
        """The client has begun to send something large, and does not go on."""
        if type(self.transport.get_protocol()) is not LargeReceiver and self.parser.at_boundary:
            self.busy = False  # it is the command under way that does not go on coming
        timeout_s = self.server.config.upload_timeout_s
        self.server.journal.client_refused("it stopped sending within a command", timeout_s=timeout_s)
        self.end(RedisAIError(f"ERR upload stalled: no data for {timeout_s} s (upload_timeout_s)"))

    def eof_received(self) -> bool:
        # What was sent before the end is answered. But a client that has left altogether looks the same, and Redis
        # drops the blocking command of one: else what BLPOP takes would be lost, and a waiting run would wait on.
        self.eof = True
        if self.closing:
            return False
        self.leave_if_idle()
        if not self.backlog:
            self.session.end_sending()
        self.server.loop.call_later(_EOF_GRACE_S, self._end_grace)
        return True

    def _end_grace(self) -> None:
        if self.gone:
            return
        if self.session.in_message or self.transport.get_write_buffer_size():
            self.server.loop.call_later(_EOF_GRACE_S, self._end_grace)  # a long reply is on its way
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.writing_paused = True
        limit = self.server.config.output_buffer_limit_bytes
        # The reply that is being sent may be larger than that; nothing else is read for who has not taken it.
        if limit and self.transport.get_write_buffer_size() > limit + self._largest_reply:
            self.server.journal.client_refused("it does not read its replies", limit_bytes=limit)
            self.transport.abort()
        self.session.pause_relay()
        self._report()
        if self.held is not None:
            self.held.flow()
        if self._reading_paused and self._may_wait():
            self._resume_reading()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self._report()
        if self.held is not None:
            self.held.flow()
        if self.held is None or self.held.stream is None:
            self.session.resume_relay()
        self.drain()

    def must_wait(self, waits: bool) -> None:
        """Whether Redis is behind with what this client sent: then the client is not read from."""
        self._must_wait = waits
        if waits:
            self._pause_reading()
        else:
            self.drain()

    # -- order -------------------------------------------------------------------------------------------------------

    def _accept(self, commands: list[Command | Burst]) -> None:
        self.server.commands_processed += len(commands)
        self.backlog.extend(commands)
        if not self.parser.at_boundary:
            self._accept_end()
        self.drain()
        if self.backlog:
            self._limit_waiting(len(commands))
        if self.accounted or self._waiting_bytes > NOTED:
            self._report()

    def _accept_end(self) -> None:
        """The stream does not go on, or not before Redis has been asked, if that is why no command begins here."""
        if self.parser.error is not None and not self.closing:
            self.backlog.append(Command([b""], meaning=_Broken(self.parser.error)))
        elif self.parser.doubt is not None and not (self.backlog and type(self.backlog[-1].meaning) is _Doubt):
            self._pause_reading()
            self.backlog.append(Command([b""], meaning=_Doubt()))

    def _limit_waiting(self, came: int) -> None:
        """Stop reading if too much waits. came: how many commands have come just now."""
        waiting = len(self.backlog)
        self._waiting_bytes += min(waiting, came) * _COMMAND_BYTES
        much = waiting > _BURSTS_HIGH and (waiting > _BACKLOG_HIGH or isinstance(self.backlog[-1], Burst))
        high = _BYTES_HIGH if self.session.accepted else _BYTES_UNKNOWN
        if (much or self._waiting_bytes > high) and not (self.writing_paused and self._may_wait()):
            self._pause_reading()

    def _may_wait(self) -> bool:
        """Whether what a client sends may be kept until it reads its replies. Many read none before all is sent: were
        they not read from, both sides would wait for ever.
        """
        limit = self.server.config.output_buffer_limit_bytes
        return self.session.accepted and (not limit or self._waiting_bytes < limit)

    def _report(self) -> None:
        """Report what is held for this client, which may cost it the connection."""
        unread = self.transport.get_write_buffer_size() if self.writing_paused else 0
        self.server.client_memory.holds(self, self._waiting_bytes, unread)

    def end(self, error: RedisAIError) -> None:
        """Disconnect at once, and let go of all that is held; with the error where no other reply is on its way."""
        if self.gone or self.closing:
            return
        self.closing = True
        self.backlog.clear()
        self.parser.close()
        if self.idle and not self.transport.get_write_buffer_size():
            self.session.flush()
            self.transport.write(b"".join(encode_reply(error, self.session.protocol)))
            self.transport.close()
        else:
            self.transport.abort()

    def know(self, accepted: bool, error: BaseException | None) -> None:
        """Whether Redis serves this client has been found out: go on with what depended on it."""
        self.busy = False
        if self.gone:
            return
        if error is not None:
            self.reply(self.failure(error))
            self.close_after_reply()
            return
        self._accept(self.parser.go_on())
        self._receive_large()
        self.after_work()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if not (self.gone or self._must_wait or self.parser.doubt is not None):
            self._reading_paused = False
            self.transport.resume_reading()

    def drain(self) -> None:
        """Start what may start, in order."""
        if self._draining:
            return
        backlog = self.backlog
        self._draining = True
        relay = self.session.upstream if len(backlog) > 1 else None
        if relay is not None:
            relay.hold()
        try:
            while (
                backlog and not (self.busy or self.writing_paused or self.closing) and self.in_flight < _MOST_IN_FLIGHT
            ):
                command = backlog.popleft()
                meaning: Any = command.meaning or understand(command, self.server.frames)  # type: ignore[arg-type]
                mode = self.session.mode
                if not (self._start_in_mode(mode, meaning, command) if mode else meaning.start(self, command)):
                    backlog.appendleft(command)
                    break
        except Exception as error:  # whoever ended the work before this command must not bear it
            self.broken(error)
        finally:
            self._draining = False
            if relay is not None:
                relay.release()
        if not backlog:
            self._waiting_bytes = 0
            if self.accounted or self.eof or not self.parser.at_boundary:
                self._emptied()
        if self._reading_paused and len(backlog) < _BACKLOG_LOW:
            self._resume_reading()

    def _emptied(self) -> None:
        """Nothing that came waits to be started."""
        self._waiting_bytes = self.parser.held_bytes
        if self.accounted:
            self._report()
        if self.eof:
            self.session.end_sending()

    def has_room(self, count: int) -> bool:
        """Whether so many commands may be under way beside those that are."""
        return not self.in_flight or self.in_flight + count <= _MOST_IN_FLIGHT

    def _start_in_mode(self, mode: Mode, meaning: Any, command: Command | Burst) -> bool:
        """Start what comes next in a state other than the ordinary one."""
        if isinstance(command, Burst):
            if mode is Mode.TRACKED and not meaning.is_ai:
                return bool(meaning.start(self, command))
            self.unroll(command)
            return True
        if type(meaning) in _OURS:
            return bool(meaning.start(self, command))
        return self.session.start_in_mode(meaning, command)

    def unroll(self, burst: Burst) -> None:
        """Put the commands of a burst before all that waits, one by one."""
        commands = unroll(burst, self.server.frames)
        self.server.commands_processed += len(commands) - 1
        self.backlog.extendleft(reversed(commands))

    def leave_if_idle(self) -> None:
        """Nothing more comes: close once nothing is under way and every command received is answered."""
        if self.idle and not self.backlog:
            self.session.flush()
            self.transport.close()

    @property
    def idle(self) -> bool:
        """Whether nothing of this client is under way."""
        return not (self.busy or self.in_flight or self.session.relayed)

    # -- work that runs alone ----------------------------------------------------------------------------------------

    def run_alone(self, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Run a handler that gives a reply value; the client waits for it. Starts only when nothing else is under
        way.
        """
        if not self.idle:
            coroutine.close()
            return False
        self.busy = True
        drive(coroutine, self._ran_alone)
        return True

    def _ran_alone(self, value: Any, error: BaseException | None) -> None:
        if value is NO_REPLY and error is None:
            self.busy = False
            self.after_work()
        else:
            self.finish_alone(value if error is None else self.failure(error))

    def finish_alone(self, value: Any) -> None:
        """Reply to the command that ran alone, and go on."""
        self.busy = False
        if not self.gone:
            self.reply(value)
            self.after_work()

    def after_work(self) -> None:
        """Something ended: start what waited for it, or leave."""
        if self.backlog:
            self.drain()
        if self.eof or self.server.draining:
            self.leave_if_idle()

    def failure(self, error: BaseException) -> RedisAIError:
        """The error to reply with; anything outside our tree is a bug, logged with an id."""
        if isinstance(error, RedisAIError):
            return error
        if self.gone and isinstance(error, asyncio.CancelledError):
            return UpstreamError("ERR client disconnected")  # the connections that it waited for went with it
        return self.server.internal_error(error)

    def broken(self, error: BaseException) -> None:
        """A bug of ours ended this client's command somewhere: it gets the error, and is closed, since nobody knows how
        far the command has come. See `containment`.
        """
        if self.gone or self.closing:
            return
        failure = self.server.internal_error(error)
        if self.held is not None and self.held.stream is not None:
            self.transport.abort()
            return
        self.held = None
        self.backlog.clear()
        self.session.write(encode_reply(failure, self.session.protocol))
        self.close_after_reply()

    # -- replies -----------------------------------------------------------------------------------------------------

    def reply(self, value: Any) -> None:
        """Send a reply value in the client's protocol; an error in place of one that cannot be encoded."""
        if takes_long(value):
            self.in_flight += 1
            self.second_trip(_given(value))
            return
        if isinstance(value, RedisAIError) and isinstance(value, ENDS):  # the first alone is cheap
            self.end_with(value)
            return
        try:
            segments = encode_reply(value, self.session.protocol)
        except Exception as error:
            segments = encode_reply(self.server.internal_error(error), self.session.protocol)
        if self.held is None and len(segments) == 1:  # as `write`, without its call: this is the hot path
            self.session.write(segments)
        else:
            self.write(segments)

    def write(self, segments: Segments) -> None:
        """Send a reply's bytes, in order behind replies that are held."""
        if self.held is not None:
            self.held.add(segments)
            return
        if len(segments) > 1:
            self._note_size(segments)
        self.session.write(segments)

    def send(self, segments: Segments) -> None:
        """Send the bytes of a reply that has been held: it has its turn."""
        self._note_size(segments)
        self.session.write(segments)

    def _note_size(self, segments: Segments) -> None:
        """Remember the largest reply, which the limit on what is unread leaves out; one of one segment is small."""
        self._largest_reply = max(self._largest_reply, sum(map(len, segments)))

    def done_in_flight(self) -> None:
        """One overlapping command has its reply."""
        self.in_flight -= 1
        if not self.in_flight and self.reading:
            self.reading.clear()
        self.after_work()

    def second_trip(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """An overlapping command needs more than its one trip: later replies are held until `coroutine` gives its
        own.
        """
        if self.held is None:
            self.held = HeldReplies(self)
        self.held.add_coming(coroutine)

    def end_with(self, error: UpstreamLost | UpstreamRefused) -> None:
        """Redis has closed: so does the client's connection, behind the replies that come before this one. What is
        received from now on is forgotten, and later replies are not sent.
        """
        if self.gone:
            return
        self.closing = True
        if self.held is not None:
            self.held.add(error)
            return
        if isinstance(error, UpstreamRefused):
            self.session.write(encode_reply(error, self.session.protocol))
        self.session.flush()
        transport = self.transport
        receiver = transport.get_protocol()
        transport.set_protocol(self)
        receiver.connection_lost(None)  # nothing more is done for this client
        # Closed with something unread, the system would drop what it has not delivered yet.
        if self.eof or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()
            transport.resume_reading()
            self.server.loop.call_later(_LINGER_S, transport.close)

    def close_after_reply(self) -> None:
        """Close once what was written has been sent."""
        self.closing = True
        self.session.flush()
        self.transport.close()


async def _given(value: Any) -> Any:
    return value


class _Broken:
    """The end of a stream whose framing is broken: reply, then close."""

    __slots__ = ("_error",)

    def __init__(self, error: CommandError | RedisAIError) -> None:
        self._error = error

    def start(self, connection: Connection, command: Command) -> bool:
        if not connection.idle:
            return False
        connection.reply(self._error)
        connection.close_after_reply()
        return True


class _Doubt:
    """A command that only who is authenticated may send is about to come: Redis is asked whether this client is."""

    __slots__ = ()

    def start(self, connection: Connection, command: Command) -> bool:
        if not connection.idle:
            return False
        connection.busy = True
        drive(connection.session.is_accepted(), connection.know)
        return True


_OURS = frozenset((_Broken, _Doubt))
"""Meanings of what is not a command."""
