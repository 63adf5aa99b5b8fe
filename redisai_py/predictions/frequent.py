"""The most frequent inputs of the last hour, for WARM. Pure: the caller passes the time.

Counts cover two periods of half an hour. Inputs are kept from their second occurrence on, up to a limit; beyond it,
the least frequent are dropped first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from redisai_py.tensor import Tensor

__all__ = ["Frequent"]

_SPAN_S = 1800.0
_MOST_COUNTED = 20_000
_LIMIT_BYTES = 64 * 1024 * 1024


class Frequent:
    """The frequent inputs of one model key. limit_bytes: maximum size of the kept inputs."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._now: Counter[bytes] = Counter()
        self._before: Counter[bytes] = Counter()
        self._since = float("-inf")
        self._inputs: dict[bytes, list[Tensor]] = {}
        self._news: Counter[bytes] = Counter()
        self._told: set[bytes] = set()
        self.size_bytes = 0

    def saw(self, digest: bytes, inputs: Sequence[Tensor], now: float) -> None:
        """Count one occurrence of these inputs. digest: their digest."""
        self._turn(now)
        count = self._now[digest] + 1
        if count == 1 and len(self._now) >= _MOST_COUNTED:
            self._now = Counter({each: times for each, times in self._now.items() if times > 1})
            if len(self._now) >= _MOST_COUNTED:
                return
        self._now[digest] = count
        self._news[digest] += 1
        if count + self._before.get(digest, 0) >= 2 and digest not in self._inputs:
            self._keep(digest, inputs)

    def top(self, count: int, now: float) -> list[list[Tensor]]:
        """The `count` most frequent inputs that are kept, most frequent first."""
        self._turn(now)
        kept = sorted(self._inputs, key=self._times, reverse=True)
        return [self._inputs[digest] for digest in kept[:count]]

    def news(self, count: int) -> list[tuple[bytes, int, list[Tensor] | None]]:
        """The `count` most frequent of the inputs that came since the last call: digest, occurrences since then, and
        the inputs, or None if an earlier call in this period returned them.
        """
        news, self._news = self._news, Counter()
        known = sorted((digest for digest in news if digest in self._inputs), key=self._times, reverse=True)[:count]
        told = [(digest, news[digest], None if digest in self._told else self._inputs[digest]) for digest in known]
        self._told.update(known)
        return told

    def _times(self, digest: bytes) -> int:
        return self._now.get(digest, 0) + self._before.get(digest, 0)

    def _keep(self, digest: bytes, inputs: Sequence[Tensor]) -> None:
        size = sum(len(tensor.data) for tensor in inputs)
        if size * 4 > self._limit_bytes:
            return
        # Copies: the inputs may be views of a client's whole message and would keep it alive.
        self._inputs[digest] = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in inputs]
        self.size_bytes += size
        if self.size_bytes > self._limit_bytes:
            seldom = sorted(self._inputs, key=self._times)
            for other in seldom[: max(1, len(seldom) // 4)]:  # a quarter at a time: one sort for many
                self._forget(other)

    def _forget(self, digest: bytes) -> None:
        self.size_bytes -= sum(len(tensor.data) for tensor in self._inputs.pop(digest))

    def _turn(self, now: float) -> None:
        """Start a new period when the current one is over."""
        if now - self._since < _SPAN_S:
            return
        self._before = self._now if now - self._since < 2 * _SPAN_S else Counter()
        self._now = Counter()
        self._news.clear()
        self._told.clear()
        self._since = now
        for digest in [each for each in self._inputs if not self._times(each)]:
            self._forget(digest)
