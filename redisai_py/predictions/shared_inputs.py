"""Keys and encoding of the most frequent inputs of all servers in Redis. Pure.

Each server adds its counts to one sorted set per period, and stores its most frequent inputs. Both are bounded and
expire, so nothing has to be deleted. A server without clients can therefore warm a new version, too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from redisai_py.predictions.entries import decode_entry, encode_entry, output_names
from redisai_py.predictions.identity import PREFIX
from redisai_py.tensor import Buffer, Tensor

__all__ = ["LIFE_S", "PERIOD_S", "SharedInputs"]

PERIOD_S = 1800
LIFE_S = 2 * PERIOD_S
"""Seconds after which counts and inputs expire."""
_SHOWN = 16
_MEMBER = re.compile(rb"[0-9a-f]{64}\Z")


class SharedInputs:
    """The shared inputs of one model key."""

    __slots__ = ("_prefix",)

    def __init__(self, key: bytes) -> None:
        self._prefix = b"%binputs:%b:" % (PREFIX, hashlib.sha256(key).hexdigest()[:_SHOWN].encode())

    def counter(self, now_s: float) -> bytes:
        """The key of the current sorted set: members are inputs, scores are occurrences. now_s: Unix time."""
        return b"%bcount:%d" % (self._prefix, now_s // PERIOD_S)

    def counters(self, now_s: float) -> list[bytes]:
        """The keys of the current and the previous period."""
        return [self.counter(now_s), self.counter(now_s - PERIOD_S)]

    @staticmethod
    def member(digest: bytes) -> bytes:
        """The name of inputs in a counter: the hexadecimal SHA-256 of their digest. digest: of `inputs_digest`."""
        return hashlib.sha256(digest).hexdigest().encode()

    def key(self, member: bytes) -> bytes:
        """The key that holds these inputs."""
        return self._prefix + b"input:" + member

    def encode(self, member: bytes, inputs: Sequence[Tensor]) -> bytes:
        """Encode inputs as the value of their key."""
        return b"".join(encode_entry(self.key(member), output_names([""] * len(inputs)), inputs))

    def decode(self, member: bytes, value: Buffer, count: int) -> list[Tensor]:
        """Decode the value of an inputs' key. Raises WrongType: it does not hold `count` inputs."""
        return decode_entry(self.key(member), value, output_names([""] * count))

    @staticmethod
    def most_frequent(replies: Iterable[Sequence[bytes]], count: int) -> list[bytes]:
        """The members with the highest sums. replies: of ZREVRANGE WITHSCORES, one per counter."""
        sums: Counter[bytes] = Counter()
        for reply in replies:
            for member, score in zip(reply[::2], reply[1::2], strict=True):
                if _MEMBER.match(member):  # any user with write access may have written it
                    sums[member] += int(float(score)) if score.isdigit() else 0
        return [member for member, _ in sums.most_common(count)]
