"""Writing for many commands at once: what was computed from near values, and single tensors.

A near value may be out of date, so a result counts only if Redis still holds what it was computed from. One script
compares and writes in one step: what it finds unchanged it writes, and the command takes place at that moment, after
it arrived and before it is answered. Nobody ever sees, and nothing acknowledged is lost to, an output of an old input
(docs/adr/0013). A tensor that a client sets is a member with nothing to compare (docs/adr/0015).

A script call costs Redis more than the comparison, and each reply costs us; so the results of an iteration of the
loop go in one call. Its members must be as if they had come one after the other: all comparing comes before all
writing, so none may have used a key that an earlier one writes. If something has changed, those that used it go their
own way, and the others are sent again. Thread: the event loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from redisai_py.errors import NoScript, RedisAIError, Unproven, UpstreamError, UpstreamLost
from redisai_py.resp.redis_errors import redis_error
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.lua import PROBE, format_set_if_same, format_sets
from redisai_py.upstream.containment import Asker, contain
from redisai_py.upstream.interface import Stream
from redisai_py.upstream.shared import Callback

__all__ = ["CallLater", "Member", "Used", "Writer"]

Used = list[tuple[bytes, Entry]]
CallLater = Callable[[Callable[[], object]], object]
_MOST_BYTES = 64 * 1024
"""Values per call: Redis serves nobody else while the script runs, some 3 us per KiB."""
_SPARED = 64
"""After a refusal, which is likely to be repeated, so many times each member may go alone."""


class Member(Protocol):
    """A command that waits for its commit. Exactly one of the three methods is called, once; none if it is gone."""

    @property
    def used(self) -> Sequence[tuple[bytes, Entry]]:
        """The near values that it was computed from."""

    @property
    def writes(self) -> list[tuple[bytes, bytes]]:
        """Keys and strings to write; none if the result only has to be proven. The last of two under one key wins."""

    options: tuple[bytes, ...]
    """Options of SET."""

    @property
    def turn(self) -> Asker:
        """Whose command it is."""

    dropped_if_gone: bool
    """Whether nothing is to be written once the client has left."""

    def goes_alone(self) -> bool:
        """No other member came in this iteration, or a call of many was refused lately: whether this one has gone its
        own way.
        """

    def committed(self) -> None:
        """Redis held what was used, and what was to be written is written."""

    def stale(self) -> None:
        """Nothing was written: something used has changed, or the proof could not be had."""

    def refused(self, error: RedisAIError) -> None:
        """Redis held what was used, but refused to write; or the connection was lost, and nobody knows."""


class Writer:
    """The commits of one identity, on its shared connection.

    Args: near: None where nothing is compared.   call_later: calls its argument once, when the results that this
          iteration of the loop brings are there.   call_soon: the loop's.
    """

    def __init__(
        self, near: NearCache | None, stream: Stream, call_later: CallLater, call_soon: CallLater | None = None
    ) -> None:
        self.near = near
        """None, too, once this user turned out to have no right to the comparison: then nothing near is of use."""
        self._stream = stream
        self._members: list[Member] = []
        self._call_later = call_later
        self._call_soon = call_soon or call_later
        self._spared = 0

    def add(self, member: Member) -> None:
        """Commit at the end of this iteration of the loop."""
        if not self._members:
            self._call_later(self._flush)
        self._members.append(member)

    def join(self, member: Member) -> None:
        """The same for a member that waits for no result of a run."""
        if not self._members:
            self._call_soon(self._flush)
        self._members.append(member)

    @property
    def idle(self) -> bool:
        """Whether nothing of this identity is under way, so that there is nothing to commit together with."""
        return not (self._stream.waiting or self._members)

    def commit(self, member: Member) -> None:
        """Commit at once."""
        self._commit([member], member.used, dict(member.writes), member.options, self._stream.send_now)

    def _flush(self) -> None:
        members, self._members = self._members, []
        try:
            if self._spared or len(members) == 1:
                self._spared = max(0, self._spared - 1)
                members = [member for member in members if not member.goes_alone()]
            if not members:
                return
            while members:
                members = self._send(members)
        except Exception as error:
            contain(members, error)
        self._stream.flush()

    def _send(self, members: list[Member]) -> list[Member]:
        """Send the commit of those that can be one; the others, in order."""
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
            self._commit(together, used.items(), written, options, self._stream.send)
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
        if compared or not written:
            command = format_set_if_same(written, tensors, models, options)
        else:
            command = format_sets(written, options)
        try:
            send(command, partial(self._answered, members, compared, written))
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
        else:  # one of them is to blame: which one is found out by sending them singly
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
                self._stream.call(*command)
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
    """Whether a member that used these may follow others in one commit; then `used` has its entries too."""
    for key, entry in own:
        if key in written:
            return False
        known = used.setdefault(key, entry)
        if known is not entry and known.raw != entry.raw:
            return False  # one of the two is out of date
    return True
