"""One client's connection: reads bytes, passes commands to the client's turn, and limits the memory held meanwhile.

    data_received -> parser -> turn -> a command's action

`Turn` decides when a command may start, `dispatch` what it does; this module reads. It stops reading from the client if
the backlog is full, or if Redis is behind with the client's data. A client that does not read its replies is no longer
served, but still read from, up to a limit: it may be sending a long pipeline first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from redisai_py.errors import CommandError, RedisAIError
from redisai_py.frontdoor.clients import NOTED, Clients
from redisai_py.frontdoor.dispatch import action_of, joint_action
from redisai_py.frontdoor.held_replies import ReplyStream, Streamed
from redisai_py.frontdoor.interfaces import Pipeline
from redisai_py.frontdoor.large_receiver import LargeReceiver, allocate
from redisai_py.frontdoor.modes import start_in_mode
from redisai_py.frontdoor.services import Services
from redisai_py.frontdoor.session import Session
from redisai_py.frontdoor.stall_watch import StallWatch
from redisai_py.frontdoor.streaming import begin_upload
from redisai_py.frontdoor.tensor_stream import TensorStream
from redisai_py.frontdoor.turn import Turn
from redisai_py.resp.replies import encode_reply
from redisai_py.resp.requests import CommandParser
from redisai_py.resp.templates import MAX_FRAME, Burst, Command

__all__ = ["Connection"]

_BACKLOG_HIGH = 1024
_BACKLOG_LOW = 128
_BURSTS_HIGH = 16
"""The same if the waiting commands are bursts of up to 64 commands."""
_BYTES_HIGH = 64 * 1024 * 1024
"""The same if the waiting commands are large."""
_COMMAND_BYTES = 256
"""Memory of a command in addition to its own bytes."""
_BYTES_UNKNOWN = 256 * 1024
"""The same for a client that has not authenticated yet."""
_LINGER_S = 2.0
"""Seconds for a client to read its last replies and close, once Redis has closed."""
_EOF_GRACE_S = 1.0
"""Seconds for the remaining commands of a client that has finished sending."""


class Connection(asyncio.Protocol):
    """A client's connection; created by the server for each accepted socket."""

    def __init__(self, services: Services, clients: Clients) -> None:
        config = services.config
        self._services = services
        self._clients = clients
        self._known = services.frames.by_bytes
        self.parser = CommandParser(
            services.frames,
            config.max_argument_bytes,
            config.max_arguments,
            allocate,
            bursts=True,
            joint=joint_action,
            authenticated=False,
        )
        self.turn = Turn(services, self, clients.flusher)
        self.session = Session(self.turn, self.parser.accept, self.must_wait)
        self.turn.session = self.session
        self.transport: Any = None
        self._reading_paused = False
        self._must_wait = False  # Redis does not accept this client's data as fast as it arrives
        self._waiting_bytes = 0  # received but unprocessed: a lower bound for the backlog and the next command
        self.accounted = 0  # see ClientMemory
        self._large = LargeReceiver(self.parser, self)
        self._watch: StallWatch | None = None  # while something large arrives

    # -- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = self.turn.transport = transport
        self._clients.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        turn = self.turn
        if turn.gone:
            return
        turn.lost()
        self._watch_upload(False)
        self.parser.close()  # connection and session refer to each other, so the collector frees what they hold
        self.session.close()
        self._clients.left(self)

    def data_received(self, data: bytes) -> None:
        parser = self.parser
        turn = self.turn
        if parser.at_boundary and not self.session.mode:
            # A complete, remembered command that need not wait: most of what a busy server receives.
            known = self._known.get(data) if len(data) <= MAX_FRAME else None
            if known is not None:
                if turn.offer(known):
                    return
            elif (template := parser.template) is not None:
                burst = template.alone(data)
                if burst is not None and turn.offer(burst):
                    return
        if turn.closing:
            return
        self._waiting_bytes += len(data)
        self._accept(parser.feed(data))
        if self._watch is not None or not parser.at_boundary:
            self._receive_large()

    def _receive_large(self) -> None:
        """Let the kernel write a large argument straight into its own memory."""
        if self.parser.receiving_large and not (self.turn.gone or self.turn.closing):
            large = self.parser.large
            upload = begin_upload(self.session, self, *large) if large is not None else None
            if upload is not None:
                upload.begin(self.parser.divert())
            else:
                self.transport.set_protocol(self._large)
            self._watch_upload(upload is None)
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
        """Whether a large command is incomplete, and has just received more data."""
        if not coming:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
        elif self._watch is not None:
            self._watch.moved()
        else:
            timeout_s = self._services.config.upload_timeout_s
            self._watch = StallWatch(self._services.loop, timeout_s, lambda: not self._reading_paused, self.stalled)

    def stalled(self) -> None:
        """The client has stopped sending in the middle of something large."""
        if type(self.transport.get_protocol()) is not LargeReceiver and self.parser.at_boundary:
            self.turn.end_alone()  # the stalled command is the one in progress
        timeout_s = self._services.config.upload_timeout_s
        self._services.event_log.client_refused("it stopped sending within a command", timeout_s=timeout_s)
        self.end(RedisAIError(f"ERR upload stalled: no data for {timeout_s} s (upload_timeout_s)"))

    def eof_received(self) -> bool:
        # What was sent before the end is answered. But a client that has left looks the same, and Redis drops its
        # blocking command: otherwise what BLPOP takes would be lost, and a waiting run would keep waiting.
        turn = self.turn
        turn.eof = True
        if turn.closing:
            return False
        turn.leave_when_idle()
        if not turn.backlog:
            self.session.relay.end_sending()
        self._services.loop.call_later(_EOF_GRACE_S, self._end_grace)
        return True

    def _end_grace(self) -> None:
        if self.turn.gone:
            return
        if self.turn.in_message or self.transport.get_write_buffer_size():
            self._services.loop.call_later(_EOF_GRACE_S, self._end_grace)  # a long reply is being sent
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        limit = self._services.config.output_buffer_limit_bytes
        # The reply being sent may exceed the limit by itself; the client is not read from until it has taken it.
        if limit and self.transport.get_write_buffer_size() > limit + self.turn.largest_reply:
            self._services.event_log.client_refused("it does not read its replies", limit_bytes=limit)
            self.transport.abort()
        self.session.relay.pause()
        self.turn.pause()
        self._report()
        if self._reading_paused and self._may_wait():
            self._resume_reading()

    def resume_writing(self) -> None:
        self.turn.pause(False)
        self._report()
        if not self.turn.streams:
            self.session.relay.resume()
        self.turn.drain()

    def must_wait(self, waits: bool) -> None:
        """Redis is behind with this client's data, or has caught up; meanwhile the client is not read from."""
        self._must_wait = waits
        if waits:
            self._pause_reading()
        else:
            self.turn.drain()

    # -- what comes --------------------------------------------------------------------------------------------------

    def _accept(self, commands: list[Command | Burst]) -> None:
        turn = self.turn
        turn.receive(commands)
        if not self.parser.at_boundary:
            self._accept_end()
        turn.drain()
        if turn.backlog:
            self._limit_waiting(len(commands))
        if self.accounted or self._waiting_bytes > NOTED:
            self._report()

    def _accept_end(self) -> None:
        """Why parsing has stopped: for good, or until Redis has been asked whether the client is authenticated."""
        backlog = self.turn.backlog
        if self.parser.error is not None and not self.turn.closing:
            self.turn.put_last(Command([b""], action=_Broken(self.parser.error)))
        elif self.parser.doubt is not None and not (backlog and type(backlog[-1].action) is _AuthenticationCheck):
            self._pause_reading()
            self.turn.put_last(Command([b""], action=_AuthenticationCheck(self)))

    def start(self, command: Command | Burst) -> bool:
        """See `Client`."""
        action: Any = command.action or self._action_of(command)  # type: ignore[arg-type]
        if self.session.mode and type(action) not in _OURS:
            return start_in_mode(self.session, action, command)
        return bool(action.start(self.turn if action.is_ai else self.session, command))

    def _action_of(self, command: Command) -> Any:
        """The action of a command that the parser does not know; remembers a template for the next one like it."""
        action = action_of(command, self._services.frames)
        if command.template is not None:
            self.parser.template = command.template
        return action

    def begin_pipeline(self) -> Pipeline | None:
        """See `Client`."""
        upstream = self.session.relay.upstream
        if upstream is not None:
            upstream.hold()
        return upstream

    def drained(self) -> None:
        """See `Client`."""
        waiting = len(self.turn.backlog)
        if not waiting:
            self._waiting_bytes = 0
            if self.accounted or self.turn.eof or not self.parser.at_boundary:
                self._emptied()
        if self._reading_paused and waiting < _BACKLOG_LOW:
            self._resume_reading()

    def _emptied(self) -> None:
        """Whether no received command waits to be started."""
        self._waiting_bytes = self.parser.held_bytes
        if self.accounted:
            self._report()
        if self.turn.eof:
            self.session.relay.end_sending()

    def authentication_known(self, accepted: bool, error: BaseException | None) -> None:
        """It is known now whether Redis serves this client: continue what depended on it."""
        turn = self.turn
        turn.end_alone()
        if turn.gone:
            return
        if error is not None:
            turn.reply(turn.failure(error))
            turn.close_after_reply()
            return
        self._accept(self.parser.go_on())
        self._receive_large()
        turn.after_work()

    # -- how much is held --------------------------------------------------------------------------------------------

    def _limit_waiting(self, arrived: int) -> None:
        """Stop reading if too much waits. arrived: number of commands that have just arrived."""
        backlog = self.turn.backlog
        waiting = len(backlog)
        self._waiting_bytes += min(waiting, arrived) * _COMMAND_BYTES
        much = waiting > _BURSTS_HIGH and (waiting > _BACKLOG_HIGH or isinstance(backlog[-1], Burst))
        high = _BYTES_HIGH if self.session.accepted else _BYTES_UNKNOWN
        if (much or self._waiting_bytes > high) and not (self.turn.paused and self._may_wait()):
            self._pause_reading()

    def _may_wait(self) -> bool:
        """Whether a client's data may be kept until it reads its replies. Many clients send everything before they
        read; without this, both sides would wait forever.
        """
        limit = self._services.config.output_buffer_limit_bytes
        return self.session.accepted and (not limit or self._waiting_bytes < limit)

    def _report(self) -> None:
        """Report the memory held for this client, which may disconnect it."""
        unread = self.transport.get_write_buffer_size() if self.turn.paused else 0
        self._clients.memory.holds(self, self._waiting_bytes, unread)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if not (self.turn.gone or self._must_wait or self.parser.doubt is not None):
            self._reading_paused = False
            self.transport.resume_reading()

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, error: RedisAIError) -> None:
        """Disconnect immediately and drop everything; send the error if no other reply is being sent."""
        turn = self.turn
        if turn.gone or turn.closing:
            return
        turn.stop()
        self.parser.close()
        if turn.idle and not self.transport.get_write_buffer_size():
            turn.flush()
            self.transport.write(b"".join(encode_reply(error, self.session.protocol)))
            self.transport.close()
        else:
            self.transport.abort()

    def hang_up(self) -> None:
        """See `Client`."""
        transport = self.transport
        receiver = transport.get_protocol()
        transport.set_protocol(self)
        receiver.connection_lost(None)  # nothing more is done for this client
        # If the socket is closed with unread data, the system drops what it has not delivered yet.
        if self.turn.eof or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()
            transport.resume_reading()
            self._services.loop.call_later(_LINGER_S, transport.close)

    def stream(self, reply: Streamed) -> ReplyStream:
        """See `Client`."""
        return TensorStream(reply.request, self.turn, self.session)


@dataclass(slots=True)
class _Broken:
    """The end of a stream whose framing is broken: reply, then close."""

    error: CommandError | RedisAIError
    is_ai: ClassVar = True

    def start(self, turn: Turn, command: Command) -> bool:
        if not turn.idle:
            return False
        turn.reply(self.error)
        turn.close_after_reply()
        return True


@dataclass(slots=True)
class _AuthenticationCheck:
    """A command that requires authentication follows: Redis is asked whether this client is authenticated."""

    connection: Connection
    is_ai: ClassVar = True

    def start(self, turn: Turn, command: Command) -> bool:
        connection = self.connection
        return turn.idle and turn.ask_alone(connection.session.is_accepted(), connection.authentication_known)


_OURS = frozenset((_Broken, _AuthenticationCheck))
"""Actions that are not commands."""
