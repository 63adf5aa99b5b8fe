"""One client's turn: which of its commands may be in progress, and what a command may do to its client. Pure.

Order is kept by limiting what may overlap. There are three kinds of work, and only one kind is in progress at a time:

- commands relayed to Redis on the client's own connection (`relayed` counts the outstanding replies),
- AI commands of one round trip, TENSORSET and TENSORGET (`in_flight`): they follow each other on the identity's shared
  stream, which answers in order, so a pipeline of them overlaps,
- every other AI command (`busy`): exclusive, like a blocking command in Redis.

A command that cannot start yet waits in the backlog; work that ends starts waiting commands. Replies leave in the order
of their commands: later ones are held after one that takes a second round trip, and our own never go into the middle of
a message from Redis.

A command sees its client only through this object, and nobody else writes this state. A turn has no socket: it has a
transport to write to, and a `Client` that starts commands. Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from redisai_py.errors import RedisAIError, UpstreamError, UpstreamLost, UpstreamRefused
from redisai_py.frontdoor.eager_task import NO_REPLY, run_eagerly
from redisai_py.frontdoor.held_replies import ENDS, HeldReplies
from redisai_py.frontdoor.interfaces import Caller, Client
from redisai_py.frontdoor.output import Flusher, Output
from redisai_py.frontdoor.reads import Reads
from redisai_py.frontdoor.services import Services
from redisai_py.resp.replies import encode_reply, takes_long
from redisai_py.resp.requests import unroll
from redisai_py.resp.templates import Burst, Command

__all__ = ["Turn"]

_MOST_IN_FLIGHT = 1024
"""Maximum number of AI commands of one client in progress."""

Work = Coroutine[Any, Any, Any]


class Turn(Output):
    """Args: session: the client's state at Redis.   client: the connection.   flusher: the server's."""

    __slots__ = (
        "_cancel", "_client", "_counters", "_draining", "backlog", "busy", "closing", "eof", "in_flight", "leaving",
        "reading", "relayed", "services", "session",
    )  # fmt: skip

    session: Caller

    def __init__(self, services: Services, client: Client, flusher: Flusher) -> None:
        super().__init__(flusher)
        self.services = services
        self._counters = services.counters
        self._client = client
        self.backlog: deque[Command | Burst] = deque()
        self.busy = False
        self.in_flight = 0
        self.relayed = 0
        self.reading = Reads()
        """Keys of TENSORGETs in flight, which a later write of this client must not overtake."""
        self.closing = False
        """The reply that ends the connection was sent; nothing more is started."""
        self.eof = False
        """The client has finished sending; written by its connection."""
        self.leaving = False
        """The connection closes once nothing is in progress and every received command is answered."""
        self._cancel: Callable[[], object] | None = None
        self._draining = False

    # -- what comes ----------------------------------------------------------------------------------------------------

    def has_room(self, count: int = 1) -> bool:
        """Whether this many more commands may be in flight."""
        return not self.in_flight or self.in_flight + count <= _MOST_IN_FLIGHT

    def offer(self, command: Command | Burst) -> bool:
        """Start an AI command that came singly, or let it wait. False if it must go after waiting commands."""
        if self.backlog or self.busy or self.paused or self.closing or (self.in_flight and not self.has_room()):
            return False
        self._counters.commands += 1
        if not command.action.start(self, command):
            self.backlog.append(command)
        elif self.backlog:  # a burst that was split up
            self.drain()
        return True

    def drain(self) -> None:
        """Start what may start, in order."""
        if self._draining:
            return
        backlog, client = self.backlog, self._client
        self._draining = True
        pipeline = client.begin_pipeline() if len(backlog) > 1 else None
        try:
            while backlog and not (
                self.busy or self.paused or self.closing or (self.in_flight and not self.has_room())
            ):
                command = backlog.popleft()
                if not client.start(command):
                    backlog.appendleft(command)
                    break
        except Exception as error:  # not the fault of the client whose work ended before this command
            self.broken(error)
        finally:
            self._draining = False
            if pipeline is not None:
                pipeline.release()
        client.drained()

    def receive(self, commands: Sequence[Command | Burst]) -> None:
        """Let commands wait after all others, until `drain`."""
        self._counters.commands += len(commands)
        self.backlog.extend(commands)

    def put_last(self, command: Command) -> None:
        """Let something that is not a client's command wait after all others."""
        self.backlog.append(command)

    def put_back(self, command: Command) -> None:
        """Let a command wait before all others."""
        self.backlog.appendleft(command)

    def unroll(self, burst: Burst) -> None:
        """Put the commands of a burst before all waiting ones, one by one."""
        commands = unroll(burst, self.services.frames)
        self._counters.commands += len(commands) - 1
        self.backlog.extendleft(reversed(commands))

    # -- exclusive work ------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing of this client is in progress."""
        return not (self.busy or self.in_flight or self.relayed)

    def begin(self, cancel: Callable[[], object] | None = None) -> None:
        """A command of an idle client runs exclusively from now on. cancel: see `cancelled_by`."""
        self.busy = True
        self._cancel = cancel

    def run_alone(self, work: Work) -> bool:
        """Run a handler that returns a reply value, or NO_REPLY. False, and it is closed, if the client is not idle."""
        return self.ask_alone(work, self._ran_alone)

    def ask_alone(self, work: Work, done: Callable[[Any, BaseException | None], object]) -> bool:
        """The same, with the outcome passed to `done`, which must end the work."""
        if not self.idle:
            work.close()
            return False
        self.busy = True
        run_eagerly(work, done)
        return True

    def _ran_alone(self, value: Any, error: BaseException | None) -> None:
        if value is NO_REPLY and error is None:
            self.end_alone()
            self.after_work()
        else:
            self.finish(value if error is None else self.failure(error))

    def end_alone(self) -> None:
        """The exclusive command has ended; the caller has sent its reply, or is about to."""
        self.busy = False
        self._cancel = None

    def finish(self, value: Any) -> None:
        """Reply to the exclusive command, and continue."""
        self.busy = False
        self._cancel = None
        if not self.gone:
            self.reply(value)
            self.after_work()

    def finish_each(self, value: Any, count: int) -> None:
        """`finish` for several commands that ran as one."""
        for _ in range(count - 1):
            self.reply(value)
        self.finish(value)

    def finish_with(self, reply: bytes) -> None:
        """`finish` with an encoded reply that is not followed soon by others: written immediately."""
        self.busy = False
        self._cancel = None
        if self.gone:
            return
        if self._out or self.deferred or self.muted or self.skip_next or not self._whole:
            self._write((reply,))
        else:  # `_write_at_once`, inlined on the hot path
            self.transport.write(reply)
        if self.backlog or self.leaving:
            self.after_work()

    def continue_with(self, work: Work) -> None:
        """Let a handler end the exclusive command."""
        self.end_alone()
        if self.gone:
            work.close()
        else:
            self.run_alone(work)

    def give_back(self, burst: Burst) -> None:
        """Execute each command of an exclusive burst singly."""
        self.end_alone()
        if not self.gone:
            self.unroll(burst)
            self.after_work()

    def cancelled_by(self, cancel: Callable[[], object]) -> None:
        """Set the function to call if the client leaves before the exclusive command has ended."""
        self._cancel = cancel

    def after_work(self) -> None:
        """Something ended: start what waited for it, or close."""
        if self.backlog:
            self.drain()
        if self.leaving:
            self.leave_if_idle()

    # -- overlapping work ----------------------------------------------------------------------------------------------

    def overlap(self, count: int = 1) -> None:
        """This many commands, received as one, were sent on the shared stream."""
        self.in_flight += count
        if count > 1:
            self._counters.commands += count - 1

    def overlap_instead(self) -> None:
        """The exclusive command was sent on the shared stream, where later ones may follow it."""
        self.busy = False
        self.in_flight += 1
        self.after_work()

    def overlap_reading(self, keys: Iterable[bytes], count: int = 1) -> None:
        """The same for commands that read these keys: a later write must not overtake them."""
        self.overlap(count)
        self.reading.add(keys)

    def answer(self, value: Any) -> None:
        """Reply to an overlapping command."""
        self.reply(value, last=self.in_flight == 1 and not self.backlog)
        self.answered()

    def answer_with(self, reply: bytes) -> None:
        """The same with an encoded reply."""
        if self.held is not None:
            self.held.add((reply,))
        elif self.in_flight == 1 and not self.backlog:
            self._write_at_once(reply)
        else:
            self._write((reply,))
        self.answered()

    def answer_together(self, reply: bytes, count: int) -> None:
        """Reply to several consecutive overlapping commands, with the bytes for all."""
        self.in_flight -= count - 1
        self.answer_with(reply)

    def answered(self) -> None:
        """One overlapping command has its reply."""
        self.in_flight -= 1
        if not self.in_flight and self.reading:
            self.reading.clear()
        if self.backlog or self.leaving:
            self.after_work()

    def second_trip(self, work: Work, *, alone: bool = False) -> None:
        """An overlapping command takes more than one round trip: later replies are held until `work` returns its own.

        alone: no other command may start until then.
        """
        if alone:
            self.busy = True
            work = self._alone(work)
        if self.held is None:
            self.held = HeldReplies(self, self._client.stream)
        self.held.add_coming(work)

    async def _alone(self, work: Work) -> Any:
        try:
            return await work
        finally:
            self.end_alone()

    # -- relayed work --------------------------------------------------------------------------------------------------

    def relaying(self, count: int) -> None:
        """This many commands, received as one, were passed on to Redis."""
        self.relayed += count
        if count > 1:
            self._counters.commands += count - 1

    def relayed_answered(self, count: int) -> None:
        """This many of their replies have come."""
        self.relayed -= count

    # -- replies -------------------------------------------------------------------------------------------------------

    def reply(self, value: Any, last: bool = False) -> None:
        """Send a reply value in the client's protocol; an error if it cannot be encoded.

        Args: last: no other reply follows soon.
        """
        if takes_long(value):
            self.in_flight += 1
            self.second_trip(_given(value))
            return
        if isinstance(value, RedisAIError) and isinstance(value, ENDS):  # the first check alone is cheap
            self.end_with(value)
            return
        try:
            segments = encode_reply(value, self.session.protocol)
        except Exception as error:
            segments = encode_reply(self.services.internal_error(error), self.session.protocol)
        if self.held is not None or len(segments) > 1:
            self.write(segments)
        elif last:
            self._write_at_once(segments[0])
        else:
            self._write(segments)

    def failure(self, error: BaseException) -> RedisAIError:
        """The error to reply with; anything else than a RedisAIError is a bug, logged with an id."""
        if isinstance(error, RedisAIError):
            return error
        if self.gone and isinstance(error, asyncio.CancelledError):
            return UpstreamError("ERR client disconnected")  # the connections it waited for are closed
        return self.services.internal_error(error)

    # -- the end -------------------------------------------------------------------------------------------------------

    def leave_when_idle(self) -> None:
        """Close as soon as nothing is in progress and every received command is answered."""
        self.leaving = True
        self.leave_if_idle()

    def leave_if_idle(self) -> None:
        """Close if that is so now."""
        if self.idle and not self.backlog:
            self.flush()
            self.transport.close()

    def lost(self) -> None:
        """The client has left: nobody wants what is in progress."""
        self.gone = True
        self.backlog.clear()
        if self.held is not None:
            self.held.close()
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()

    def stop(self) -> None:
        """Start nothing more."""
        self.closing = True
        self.backlog.clear()

    def end_with(self, error: UpstreamLost | UpstreamRefused) -> None:
        """Redis has closed: close the client's connection, after the replies that come before this one. Data received
        from now on is dropped, and later replies are not sent.
        """
        if self.gone:
            return
        self.closing = True
        if self.held is not None:
            self.held.add(error)
            return
        if isinstance(error, UpstreamRefused):
            self._write(encode_reply(error, self.session.protocol))
        self.flush()
        self._client.hang_up()

    def broken(self, error: BaseException) -> None:
        """A bug of ours ended this client's command: the client gets the error and is disconnected, because the state
        of the command is unknown. See `containment`.
        """
        if self.gone or self.closing:
            return
        failure = self.services.internal_error(error)
        if self.held is not None and self.held.stream is not None:
            self.transport.abort()
            return
        self.held = None
        self.backlog.clear()
        self._write(encode_reply(failure, self.session.protocol))
        self.close_after_reply()

    def close_after_reply(self) -> None:
        """Close once everything written has been sent."""
        self.closing = True
        self.flush()
        self.transport.close()


async def _given(value: Any) -> Any:
    return value
