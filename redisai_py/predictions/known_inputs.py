"""Digests of large inputs that were seen before: comparing bytes takes a sixth of the time of hashing them. Pure.

An input is kept when it comes for the second time, so inputs that never repeat use no memory. A few of its bytes choose
the candidate; only equality of all bytes counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from redisai_py.predictions.identity import tensor_digest
from redisai_py.tensor import Tensor

__all__ = ["KnownInputs"]

_LEAST = 8 * 1024
"""Bytes below which hashing takes no longer than comparing."""
_SAMPLED = 64
_MOST = 16 * 1024
_OVERHEAD = 512
_LARGEST_SHARE = 16
"""An input larger than this fraction of the limit is not kept."""


@dataclass(slots=True)
class _Known:
    """An input. data: None until it has come twice."""

    data: bytearray | None = None
    digest: bytes = b""


class KnownInputs:
    """Inputs of all identities; the oldest are dropped first. limit_bytes: 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.size_bytes = 0
        self._inputs: OrderedDict[Hashable, _Known] = OrderedDict()

    def digest(self, owner: Hashable, inputs: Sequence[Tensor]) -> bytes:
        """`inputs_digest`. owner: whose inputs these are; an owner cannot learn from timing what others have sent."""
        digests = []
        for tensor in inputs:
            digest = self._find(owner, tensor)
            if digest is None:
                digest = tensor_digest(tensor)
                self._add(owner, tensor, digest)
            digests.append(digest)
        return b"".join(digests) if len(digests) != 1 else digests[0]

    def quick_digest(self, owner: Hashable, inputs: Sequence[Tensor]) -> bytes | None:
        """The digest if no large input has to be hashed, otherwise None."""
        digests = []
        for tensor in inputs:
            digest = tensor_digest(tensor) if len(tensor.data) < _LEAST else self._find(owner, tensor)
            if digest is None:
                return None
            digests.append(digest)
        return b"".join(digests) if len(digests) != 1 else digests[0]

    def find(self, owner: Hashable, inputs: Sequence[Tensor]) -> bytes | None:
        """The digest if all inputs are known, otherwise None."""
        digests = [digest for tensor in inputs if (digest := self._find(owner, tensor)) is not None]
        return b"".join(digests) if len(digests) == len(inputs) else None

    def add(self, owner: Hashable, inputs: Sequence[Tensor], digests: Sequence[bytes]) -> None:
        """Record inputs that were not all known. digests: one for each input."""
        for tensor, digest in zip(inputs, digests, strict=True):
            self._add(owner, tensor, digest)

    def _find(self, owner: Hashable, tensor: Tensor) -> bytes | None:
        if not self._is_kept(tensor):
            return None
        known = self._inputs.get(_place(owner, tensor))
        # A bytearray is compared by memcmp; a memoryview is compared element by element.
        if known is None or known.data is None or known.data != tensor.data:
            return None
        return known.digest

    def _add(self, owner: Hashable, tensor: Tensor, digest: bytes) -> None:
        if not self._is_kept(tensor):
            return
        place = _place(owner, tensor)
        known = self._inputs.get(place)
        if known is None:
            self._inputs[place] = _Known()
            if len(self._inputs) > _MOST:
                self._drop()
            return
        if known.data is None:
            self.size_bytes += len(tensor.data) + _OVERHEAD
        known.data = bytearray(tensor.data)  # a copy: the tensor may be a view of a larger received buffer
        known.digest = digest
        self._inputs.move_to_end(place)
        while self.size_bytes > self._limit_bytes:
            self._drop()

    def _is_kept(self, tensor: Tensor) -> bool:
        return _LEAST <= len(tensor.data) <= self._limit_bytes // _LARGEST_SHARE

    def _drop(self) -> None:
        _, known = self._inputs.popitem(last=False)
        if known.data is not None:
            self.size_bytes -= len(known.data) + _OVERHEAD


def _place(owner: Hashable, tensor: Tensor) -> Hashable:
    data = tensor.data
    return owner, tensor.dtype, tensor.shape, bytes(data[:: len(data) // _SAMPLED])
