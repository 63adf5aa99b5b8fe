"""Checks outputs against a model's declaration, so that forged entries of another dtype or shape are rejected. Pure.

A declaration may be wrong, so dtypes and shapes that a run has given are accepted too.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisai_py.bounded import BoundedCache
from redisai_py.tensor import DType, Tensor

__all__ = ["Declared", "Spec"]

_MOST_SEEN = 1024
Spec = tuple[DType | None, tuple[int | None, ...] | None]
"""dtype and shape of one output; None for what is not declared."""
_Kind = tuple[tuple[DType, tuple[int, ...]], ...]


class Declared:
    """The declared outputs of one model, and the dtypes and shapes that its runs gave otherwise."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._specs = specs
        self._seen: BoundedCache[_Kind, None] = BoundedCache(_MOST_SEEN)

    def admits(self, outputs: Sequence[Tensor]) -> bool:
        """Whether outputs of these dtypes and shapes match the declaration or an earlier run."""
        if len(outputs) != len(self._specs):
            return False
        declared = all([_agrees(spec, output) for spec, output in zip(self._specs, outputs, strict=True)])
        return declared or _kind(outputs) in self._seen

    def gave(self, outputs: Sequence[Tensor]) -> None:
        """Remember the dtypes and shapes of a run's outputs."""
        if not self.admits(outputs):
            self._seen.keep(_kind(outputs), None)


def _kind(outputs: Sequence[Tensor]) -> _Kind:
    return tuple([(output.dtype, output.shape) for output in outputs])


def _agrees(spec: Spec, output: Tensor) -> bool:
    dtype, shape = spec
    if dtype is not None and dtype is not output.dtype:
        return False
    if shape is None:
        return True
    return len(shape) == len(output.shape) and all(
        [wanted is None or wanted == given for wanted, given in zip(shape, output.shape, strict=True)]
    )
