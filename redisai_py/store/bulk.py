"""Pipelines of AI.TENSORSET: many tensors of many clients in one MSET, still without overwriting a foreign key.

The script that checks and writes one tensor costs Redis several times a SET, mostly for passing the value to the
script. The values of a burst need no script: WATCH the keys, look at what they hold, then MULTI, MSET, EXEC, which does
nothing if one of them was changed in between (docs/adr/0015).

    members of an iteration of the loop --> look: WATCH, GETRANGE of each head, MULTI --> write: MSET, EXEC --> replies

- Groups are all or nothing. If a group cannot be written (a key holds no tensor, another client was faster, a right is
  missing, Redis is out of memory), nothing changes, and each command of the group is executed singly.
- A client has no other work in progress besides its burst, which keeps its order. If two clients write the same key,
  the later member wins, as if they had come one after the other.
- MULTI is sent with the look: if it is refused, no MSET is sent, which would be unconditional.

Thread: the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Protocol

import hiredis

from redisai_py.bounded import BoundedCache
from redisai_py.errors import RedisAIError, TransactionAborted, UpstreamError, WrongType
from redisai_py.resp.redis_errors import redis_error
from redisai_py.store import codec
from redisai_py.store.cache import NearCache
from redisai_py.store.lua import PROBE_SIZE
from redisai_py.store.set_stream import SetStream

__all__ = ["GroupMember", "GroupSets"]

_MOST_BYTES = 1024 * 1024
_MOST_KEYS = 96
"""Maximum number of different keys in a group: WATCH compares each key with all earlier ones."""
_MOST_ATTEMPTS = 5
"""Attempts for a group whose keys are changed meanwhile."""
_FEWEST_SPARED = 64
_MOST_SPARED = 4096
"""Number of bursts executed singly after a refusal; doubles after each further one."""
_MOST_JUDGED = 1024

_GET = b"*4\r\n$8\r\nGETRANGE\r\n"
_HEAD = b"$1\r\n0\r\n$3\r\n%d\r\n" % (PROBE_SIZE - 1)
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"
_DISCARD = b"*1\r\n$7\r\nDISCARD\r\n"
_OK = b"+OK\r\n"
_WRITTEN = b"+QUEUED\r\n*1\r\n+OK\r\n"
_ABSENT = b"$0\r\n\r\n"


class TensorKind(Protocol):
    """What tensors of one dtype and shape share: the first bytes of their values, and of replies."""

    head: bytes
    head_reply: bytes


class GroupMember(Protocol):
    """A client's consecutive commands of one template. Exactly one of the last three methods is called."""

    kind: Any
    """A `TensorKind`."""
    words: list[bytes]
    """The keys, as words on the wire."""
    size: int
    """Bytes received."""

    def pairs(self) -> Iterator[bytes]:
        """Keys and values as the words of an MSET, in pieces."""

    def keys(self) -> list[bytes]:
        """The keys, in order."""

    def value(self, index: int) -> bytes:
        """The write of the command with that index."""

    def written(self) -> None:
        """Everything was written."""

    def refused(self, error: RedisAIError) -> None:
        """The connection was lost, so the outcome is unknown."""

    def given_back(self) -> None:
        """Nothing was written: execute each command singly."""


@dataclass(slots=True)
class _Group:
    """Members written together. words: what they write, each with the kind of the last member that writes it."""

    members: list[GroupMember] = field(default_factory=list)
    words: dict[bytes, TensorKind] = field(default_factory=dict)
    attempts: int = 1
    asked_exists: bool = False
    _encoded: bytes = b""

    def encode(self) -> bytes:
        """The commands that write it, built on first use."""
        if not self._encoded:
            pieces: list[bytes] = [b""]
            for member in self.members:
                pieces += member.pairs()
            pieces[0] = b"*%d\r\n$4\r\nMSET\r\n" % (1 + len(pieces) // 3 * 2)
            pieces.append(_EXEC)
            self._encoded = b"".join(pieces)
        return self._encoded


class GroupSets:
    """The groups of one identity. While one is written, the next is looked at.

    Args: connect: opens a connection with the identity, on first use.   near: returns the identity's near cache.
    """

    def __init__(
        self, connect: Callable[[], Coroutine[Any, Any, SetStream]], near: Callable[[], NearCache | None]
    ) -> None:
        self._connect = connect
        self._near = near
        self._stream: SetStream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[GroupMember] = deque()
        self._again: deque[_Group] = deque()  # to retry: another client was faster
        self._looking = False  # a group is being looked at, or will be immediately
        self._under_way = 0
        self._closing = False
        self._absent = False  # the last group had missing keys, so it pays to ask for that as well
        self._failures = 0  # consecutive
        self._spared = 0
        self._judged: BoundedCache[bytes, None] = BoundedCache(_MOST_JUDGED)  # heads of other programs' tensors

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._stream is not None and not self._stream.closed

    def accepts(self) -> bool:
        """Whether a burst is accepted now; if not, its commands are executed singly."""
        if self._spared:
            self._spared -= 1
            return False
        if self.is_open:
            return True
        if self._opening is None and not self._closing:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        return False

    async def _open(self) -> None:
        try:
            stream = await self._connect()
        except UpstreamError:
            self._failed(1)
            return
        finally:
            self._opening = None
        self._stream = stream
        if self._closing:
            stream.close()

    def add(self, member: GroupMember) -> None:
        """Write a member together with others of this iteration of the loop. It ends like all exclusive work."""
        self._under_way += 1
        self._waiting.append(member)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Look at the next group, if there is one."""
        self._looking = True
        while self._again or self._waiting:  # after a lost connection, all are given back one by one
            if self._look(self._again.popleft() if self._again else self._collect()):
                return
        self._looking = False

    def _collect(self) -> _Group:
        """A group of the waiting members."""
        group = _Group()
        size = 0
        waiting = self._waiting
        while waiting and len(group.words) < _MOST_KEYS and size < _MOST_BYTES:
            member = waiting.popleft()
            group.members.append(member)
            size += member.size
            group.words.update(dict.fromkeys(member.words, member.kind))
        return group

    # -- look --------------------------------------------------------------------------------------------------------

    def _look(self, group: _Group) -> bool:
        """Whether the look has started; if not, the group has been given back."""
        stream = self._stream
        if stream is None or stream.closed:
            self._give_back(group)
            return False
        words = group.words
        number = len(words)
        keys = b"".join(words)
        asked = [b"*%d\r\n$5\r\nWATCH\r\n" % (number + 1), keys, _GET, (_HEAD + _GET).join(words), _HEAD]
        expected = [_OK]
        group.asked_exists = self._absent
        if group.asked_exists:
            asked += (b"*%d\r\n$6\r\nEXISTS\r\n" % (number + 1), keys)
            expected += (_ABSENT * number, b":0\r\n")
        else:
            expected += [kind.head_reply for kind in words.values()]
        asked.append(_MULTI)
        expected.append(_OK)
        replies = 2 + number + group.asked_exists
        stream.ask(b"".join(asked), b"".join(expected), replies, partial(self._looked, group))
        asyncio.get_running_loop().call_soon(group.encode)  # while Redis looks
        return True

    def _looked(self, group: _Group, replies: Any) -> None:
        stream = self._stream
        assert stream is not None
        if isinstance(replies, UpstreamError):
            self._give_back(group)  # nothing that writes was sent
        elif replies is not None and replies[-1] != b"OK":
            stream.close()  # it still watches keys
            self._failed(1)
            self._give_back(group)
        else:
            refused = replies is not None and any(map(_is_refusal, replies))
            if replies is None or (not refused and self._judge(group, replies)):
                self._write(stream, group)
            else:
                stream.ask(_DISCARD, _OK, 1, partial(self._discarded, stream))
                if self._absent and not refused and not group.asked_exists:
                    if self._look(group):
                        return
                else:
                    self._failed(int(refused))
                    self._give_back(group)
        self._next()

    def _judge(self, group: _Group, replies: list[Any]) -> bool:
        """Whether every key holds a tensor or nothing; without EXISTS, empty replies are undecided."""
        heads = replies[1 : len(group.words) + 1]
        existing = replies[-2]
        absent = heads.count(b"")
        self._absent = absent > 0
        for head, kind in zip(heads, group.words.values(), strict=True):
            if head != kind.head and head != b"" and not self._is_tensor(head):
                self._absent = False
                return False
        return not absent or (group.asked_exists and existing == len(heads) - absent)

    def _is_tensor(self, head: Any) -> bool:
        if head in self._judged:
            return True
        if type(head) is not bytes:
            return False
        try:
            size = codec.header_size(head)
            if size > len(head):
                return False  # the single way reads more of it
            codec.read_header(head[:size])
        except WrongType:
            return False
        self._judged.keep(head, None)
        return True

    @staticmethod
    def _discarded(stream: SetStream, replies: Any) -> None:
        if replies is not None:
            stream.close()  # it may still be in MULTI

    # -- write -------------------------------------------------------------------------------------------------------

    def _write(self, stream: SetStream, group: _Group) -> None:
        if stream.closed:
            self._give_back(group)
            return
        stream.ask(group.encode(), _WRITTEN, 2, partial(self._wrote, stream, group))

    def _wrote(self, stream: SetStream, group: _Group, replies: Any) -> None:
        if replies is None:
            self._failures = 0
            self._written(group)
        elif isinstance(replies, UpstreamError):
            for member in group.members:
                self._ended()
                member.refused(replies)
        elif replies[1] is None and group.attempts < _MOST_ATTEMPTS:
            # Do not execute these singly: single writes would make the next groups of the same keys fail in turn.
            group.attempts += 1
            self._again.append(group)
            if not self._looking:
                self._next()
        else:
            outcome = replies[1]
            if isinstance(outcome, hiredis.ReplyError) and not isinstance(redis_error(outcome), TransactionAborted):
                stream.close()  # EXEC itself was refused
            self._failed(0 if outcome is None else 1)
            self._give_back(group)

    def _written(self, group: _Group) -> None:
        near = self._near()
        if near is not None and near.entries:
            _keep_near(near, group)
        for member in group.members:
            self._ended()
            member.written()

    def _give_back(self, group: _Group) -> None:
        """Let each command be executed singly."""
        for member in group.members:
            self._ended()
            member.given_back()

    def _failed(self, weight: int) -> None:
        """A refusal (weight 1) will probably be repeated, so the next bursts are executed singly; a possible
        coincidence (0) has that effect only if it happens again.
        """
        times = self._failures + weight
        self._failures += 1
        if times:
            self._spared = min(_FEWEST_SPARED << (times - 1), _MOST_SPARED)

    # -- end ---------------------------------------------------------------------------------------------------------

    def _ended(self) -> None:
        self._under_way -= 1
        if self._closing and not self._under_way:
            self.close()

    def close(self) -> None:
        """Close the connection once running work has ended: it was received, and clients may have left."""
        self._closing = True
        if self._opening is not None:
            self._opening.cancel()
        if not self._under_way and self._stream is not None:
            self._stream.close()


def _is_refusal(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and not isinstance(redis_error(reply), WrongType)


def _keep_near(near: NearCache, group: _Group) -> None:
    """Update cached values that were written; others need no update."""
    renewed: set[bytes] = set()
    for member in reversed(group.members):
        keys = member.keys()
        known = (near.entries.keys() & keys) - renewed
        if known:
            last = dict(zip(keys, count()))
            for key in known:
                near.put(key, member.value(last[key]))
            renewed |= known
