"""The most frequent inputs of the last hour, for WARM. Pure: the clock is the caller's.

Counted in two spans of half an hour. The inputs themselves are kept from their second time on, within a bound; where
there are too many, those seen least go first.
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
    """Those of one model key. limit_bytes: of the inputs kept."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._now: Counter[bytes] = Counter()
        self._before: Counter[bytes] = Counter()
        self._since = float("-inf")
        self._inputs: dict[bytes, list[Tensor]] = {}
        self.size_bytes = 0

    def saw(self, digest: bytes, inputs: Sequence[Tensor], now: float) -> None:
        """These inputs came. digest: theirs."""
        self._turn(now)
        count = self._now[digest] + 1
        if count == 1 and len(self._now) >= _MOST_COUNTED:
            self._now = Counter({each: times for each, times in self._now.items() if times > 1})
            if len(self._now) >= _MOST_COUNTED:
                return
        self._now[digest] = count
        if count + self._before.get(digest, 0) >= 2 and digest not in self._inputs:
            self._keep(digest, inputs)

    def top(self, count: int, now: float) -> list[list[Tensor]]:
        """The inputs of the `count` most frequent, the most frequent first, as far as they are kept."""
        self._turn(now)
        kept = sorted(self._inputs, key=self._times, reverse=True)
        return [self._inputs[digest] for digest in kept[:count]]

    def _times(self, digest: bytes) -> int:
        return self._now.get(digest, 0) + self._before.get(digest, 0)

    def _keep(self, digest: bytes, inputs: Sequence[Tensor]) -> None:
        size = sum(len(tensor.data) for tensor in inputs)
        if size * 4 > self._limit_bytes:
            return
        # Copies: the inputs may be views of what a client sent, and would keep all of that.
        self._inputs[digest] = [Tensor(tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in inputs]
        self.size_bytes += size
        if self.size_bytes > self._limit_bytes:
            seldom = sorted(self._inputs, key=self._times)
            for other in seldom[: max(1, len(seldom) // 4)]:  # a quarter at once: sorting is for many
                self._forget(other)

    def _forget(self, digest: bytes) -> None:
        self.size_bytes -= sum(len(tensor.data) for tensor in self._inputs.pop(digest))

    def _turn(self, now: float) -> None:
        """Begin a new span when the present one is over."""
        if now - self._since < _SPAN_S:
            return
        self._before = self._now if now - self._since < 2 * _SPAN_S else Counter()
        self._now = Counter()
        self._since = now
        for digest in [each for each in self._inputs if not self._times(each)]:
            self._forget(digest)
