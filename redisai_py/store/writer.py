"""Writes of many commands at once: results computed from cached values, and single tensors.

A cached value may be stale, so a result counts only if Redis still holds what it was computed from. One script compares
and writes in one step. If the values are unchanged, the command takes effect at that moment, after it arrived and
before it is answered. So nobody ever sees an output of an old input, and no acknowledged write is lost to one
(docs/adr/0013). A tensor that a client sets is a member with nothing to compare (docs/adr/0015).

A script call costs Redis more than the comparison, and each reply costs us time; so all results of an iteration of the
loop go in one call. Its members must behave as if they had come one after the other. All comparisons precede all
writes, so no member may have used a key that an earlier one writes. If something has changed, the members that used it
run again singly, and the others are sent again. Thread: the event loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import hiredis

from redisai_py.errors import NoScript, RedisAIError, Unproven, UpstreamError, UpstreamLost
from redisai_py.resp.redis_errors import redis_error
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.lua import PROBE, SET_IF_SAME_SHA, SET_TENSORS_SHA
from redisai_py.upstream.containment import Requester, contain
from redisai_py.upstream.interface import Stream
from redisai_py.upstream.shared import Callback

__all__ = ["CallLater", "Member", "Used", "Writer"]

Used = list[tuple[bytes, Entry]]
CallLater = Callable[[Callable[[], object]], object]
_MOST_BYTES = 64 * 1024
"""Maximum bytes of values per call: Redis serves nobody else while the script runs, about 3 us per KiB."""
_WORD = b"$%d\r\n%b\r\n"
_SET_ONE_IF_SAME = (
    b"*11\r\n$7\r\nEVALSHA\r\n$40\r\n"
    + SET_IF_SAME_SHA
    + b"\r\n$1\r\n1\r\n"
    + 2 * _WORD
    + b"$1\r\n1\r\n$1\r\n1\r\n"
    + 4 * _WORD
)
"""`_format` of one value, tensor and model, which takes a third of the time like this."""
_SPARED = 64
"""After a refusal, which will probably be repeated, each member may go alone this many times."""


class Member(Protocol):
    """A command that waits for its commit. One of the three methods is called, once; none if its client left."""

    @property
    def used(self) -> Sequence[tuple[bytes, Entry]]:
        """The cached values that it was computed from."""

    @property
    def writes(self) -> list[tuple[bytes, bytes]]:
        """Keys and strings to write; empty if only the check is needed. Of two for the same key, the last wins."""

    options: tuple[bytes, ...]
    """Options of SET."""

    @property
    def turn(self) -> Requester:
        """The client's turn."""

    dropped_if_gone: bool
    """Whether to write nothing once the client has left."""

    def goes_alone(self, stream: Stream) -> bool:
        """Called if no other member came in this iteration, or a call of many was refused recently. Returns: whether
        this member was executed singly, on the stream.
        """

    def committed(self) -> None:
        """Redis held the used values, and the writes are done."""

    def stale(self) -> None:
        """Nothing was written: a used value has changed, or the check was impossible."""

    def refused(self, error: RedisAIError) -> None:
        """Redis held the used values, but refused to write; or the connection was lost, and the outcome is unknown."""


class Writer:
    """The commits of one identity, on its shared connection.

    Args: near: None if nothing is compared.   call_later: calls its argument once, after the results of this iteration
          of the loop have arrived.   call_soon: the loop's.
    """

    def __init__(
        self, near: NearCache | None, stream: Stream, call_later: CallLater, call_soon: CallLater | None = None
    ) -> None:
        self.near = near
        """None, too, once this user turned out to lack the rights for comparing; then cached values are useless."""
        self.stream = stream
        self._members: list[Member] = []
        self._call_later = call_later
        self._call_soon = call_soon or call_later
        self._spared = 0
        self._concurrent = False  # several members, or what they wait for, came together lately

    def add(self, member: Member) -> None:
        """Commit at the end of this iteration of the loop."""
        if not self._members:
            self._call_later(self._flush)
        self._members.append(member)

    def join(self, member: Member) -> None:
        """The same for a member that does not wait for a run."""
        if not self._members:
            self._call_soon(self._flush)
        self._members.append(member)

    @property
    def idle(self) -> bool:
        """Whether nothing of this identity is in progress, so there is nothing to commit together with."""
        return not (self.stream.waiting or self._members)

    @property
    def alone(self) -> bool:
        """Whether a command need not wait for others to join it: `idle`, and no commands came together recently."""
        stream = self.stream
        return not (self._concurrent or self._members or stream.waiting or stream.closed)

    def commit(self, member: Member) -> None:
        """Commit immediately."""
        self._commit([member], member.used, dict(member.writes), member.options, self.stream.send_now)

    def _flush(self) -> None:
        members, self._members = self._members, []
        self._concurrent = len(members) > 1 or bool(self.stream.waiting)
        try:
            if self._spared or len(members) == 1:
                self._spared = max(0, self._spared - 1)
                members = [member for member in members if not member.goes_alone(self.stream)]
            if not members:
                return
            while members:
                members = self._send(members)
        except Exception as error:
            contain(members, error)
        self.stream.flush()

    def _send(self, members: list[Member]) -> list[Member]:
        """Send as one commit the members that can share one; then the others, in order."""
        options = members[0].options
        used: dict[bytes, Entry] = {}
        written: dict[bytes, bytes] = {}
        together: list[Member] = []
        others: list[Member] = []
        size = 0
        for member in members:
            if member.turn.gone and member.dropped_if_gone:
                continue
            own = member.used
            if size > _MOST_BYTES or member.options != options or (own and not _joins(own, used, written)):
                others.append(member)
                continue
            together.append(member)
            for key, raw in member.writes:
                written[key] = raw
                size += len(raw)
        if together:
            self._commit(together, used.items(), written, options, self.stream.send)
        return others

    def _commit(
        self,
        members: list[Member],
        used: Iterable[tuple[bytes, Entry]],
        written: dict[bytes, bytes],
        options: tuple[bytes, ...],
        send: Callable[[bytes, Callback], None],
    ) -> None:
        tensors = [(key, entry.raw) for key, entry in used if entry.identity is None]
        models = [(key, entry.raw) for key, entry in used if entry.identity is not None]
        compared = [*tensors, *models]
        try:
            send(_format(written, tensors, models, options), partial(self._answered, members, compared, written))
        except UpstreamError:
            for member in members:
                member.stale()

    def _answered(
        self, members: list[Member], compared: list[tuple[bytes, bytes]], written: dict[bytes, bytes], reply: Any
    ) -> None:
        if reply == b"OK":
            self._committed(members, written)
        elif type(reply) is int:
            self._changed(members, compared[reply - 1][0])
        else:
            self._refused(members, redis_error(reply))

    def _refused(self, members: list[Member], error: RedisAIError) -> None:
        if isinstance(error, NoScript | Unproven):
            self._cannot_prove(members, error)
        elif isinstance(error, UpstreamLost) or len(members) == 1:
            for member in members:
                member.refused(error)
        else:  # one of them is the cause; sending them singly shows which
            self._spared = _SPARED
            for member in members:
                self._send([member])

    def _committed(self, members: list[Member], written: dict[bytes, bytes]) -> None:
        if self.near is not None:
            put = self.near.put
            for key, raw in written.items():
                put(key, raw)
        for member in members:
            member.committed()

    def _cannot_prove(self, members: list[Member], why: RedisAIError) -> None:
        if isinstance(why, NoScript):
            for command in PROBE:
                self.stream.call(*command)
        else:
            self.near = None
        for member in members:
            member.stale()

    def _changed(self, members: list[Member], key: bytes) -> None:
        if self.near is not None:
            self.near.changed(key)
        for member in members:
            if any(used == key for used, _ in member.used):
                member.stale()
            else:
                self.add(member)


def _joins(own: Sequence[tuple[bytes, Entry]], used: dict[bytes, Entry], written: dict[bytes, bytes]) -> bool:
    """Whether a member that used these may follow others in one commit; if so, adds its entries to `used`."""
    for key, entry in own:
        if key in written:
            return False
        known = used.setdefault(key, entry)
        if known is not entry and known.raw != entry.raw:
            return False  # one of the two is stale
    return True


def _format(
    values: Mapping[bytes, bytes],
    tensors: Sequence[tuple[bytes, bytes]],
    models: Sequence[tuple[bytes, bytes]],
    options: Sequence[bytes],
) -> bytes:
    """The encoded command that writes `values` if Redis holds these strings of tensors and ids of models.

    Its reply: OK; the number, from 1, of the first tensor or model that differs; or an error, if a key to be written
    holds something else. options: of each SET.
    """
    if len(values) == len(tensors) == len(models) == 1 and not options:
        (output, value), (source, held), (model, its_id) = *values.items(), *tensors, *models
        return _SET_ONE_IF_SAME % (
            len(output), output, len(value), value,
            len(source), source, len(held), held, len(model), model, len(its_id), its_id,
        )  # fmt: skip
    words: list[Any] = [b"EVALSHA", SET_TENSORS_SHA, b"%d" % len(values), *values, *values.values()]
    if tensors or models or not values:
        words[1] = SET_IF_SAME_SHA
        words += (b"%d" % len(tensors), b"%d" % len(models))
        for pair in chain(tensors, models):
            words += pair
    command: bytes = hiredis.pack_command((*words, *options))
    return command
