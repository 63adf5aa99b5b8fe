"""Whether runs of one model may be merged: shown by comparing merged runs with single ones. Pure: values in, words out.

A request's result must not depend on the requests that came with it. BATCHSIZE claims that a model computes each row
independently, but many models stored with it do not: a detector returns as many rows as it finds, a recurrent network
may have time in its first dimension, dynamic quantisation takes its scale from all rows together. So the first merged
runs of each kind of input (dtypes and shapes without dimension 0) are compared with the single runs of their members,
and with runs on artificial inputs that differ widely from the members' own. A model that fails once is no longer
merged. After the proof nothing is compared, and there is no further cost.

Models that may keep state are never merged: each of their runs counts. Neither are models whose control flow depends on
values of their inputs: no comparison shows a branch that was not taken yet. docs/adr/0016-batching-proves-itself.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redisai_py.tensor import DType, Tensor

__all__ = ["MergeProof", "contrasts", "difference"]

_KINDS = 1024
"""Maximum remembered kinds of input; the oldest are forgotten, and compared again."""
_CONTRAST = -64.0
"""Factor for floats: it shows in every row if a scale is taken from all rows together."""
_RELATIVE = {DType.DOUBLE: 1e-9, DType.FLOAT: 1e-4, DType.FLOAT16: 1e-2, DType.BFLOAT16: 5e-2}
"""Allowed difference between a merged and a single result, relative to the largest element: kernels for one row and for
many rows add in a different order. Integers, booleans and strings must be equal.
"""
_RELATIVE_ON_GPU = {**_RELATIVE, DType.FLOAT: 5e-3}
"""TF32 has ten bits."""
_ABSOLUTE = 1e-7


class MergeProof:
    """The state of one loaded model.

    Args: checks: number of merged runs compared per kind of input, 0 trusts the model.   on_gpu: it runs on a GPU.
    """

    __slots__ = ("_checks", "_on_gpu", "_passed", "proved", "reason", "single_s")

    def __init__(self, checks: int, on_gpu: bool = False) -> None:
        self._checks = checks
        self._on_gpu = on_gpu
        self._passed: dict[Hashable, int] = {}
        self.proved: dict[Hashable, bool] = {}
        """Kinds of input whose runs are merged without comparison."""
        self.reason = ""
        """Why runs are not merged; empty while they are."""
        self.single_s = 0.0
        """Seconds of the slowest single run in the comparisons."""

    def wanted(self, key: Hashable) -> bool:
        """Whether a merged run of this kind of input must be compared."""
        return self._checks > 0 and key not in self.proved

    def passed(self, key: Hashable) -> None:
        """A merged run gave the same results as single ones."""
        count = self._passed.get(key, 0) + 1
        if count < self._checks:
            _remember(self._passed, key, count)
        else:
            self._passed.pop(key, None)
            _remember(self.proved, key, True)

    def compare(self, single: Sequence[Any], merged: Sequence[Any]) -> str:
        """See `difference`."""
        return difference(single, merged, _RELATIVE_ON_GPU if self._on_gpu else _RELATIVE)


def _remember(table: dict[Hashable, Any], key: Hashable, value: Any) -> None:
    if key not in table and len(table) >= _KINDS:
        del table[next(iter(table))]
    table[key] = value


def difference(single: Sequence[Any], merged: Sequence[Any], relative: dict[DType, float] = _RELATIVE) -> str:
    """How the outputs of one request differ between a single and a merged run; empty if they do not.

    Args: single, merged: one Tensor per output, or None for what is not a tensor.
          relative: tolerance per dtype.
    """
    for place, (one, other) in enumerate(zip(single, merged, strict=True), 1):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            if one is not other:
                return f"output {place} is a tensor in one of them only"
            continue
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return f"output {place} has the shape {_shape(other)} instead of {_shape(one)}"
        if one.data == other.data:
            continue
        if one.dtype not in relative:
            return f"output {place} has other values"
        distance = _distance(one.numpy().astype(np.float64), other.numpy().astype(np.float64), relative[one.dtype])
        if distance:
            return f"output {place} differs by {distance:.3g}"
    return ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"


def _distance(one: NDArray[Any], other: NDArray[Any], relative: float) -> float:
    """The largest difference if it exceeds the tolerance, else 0."""
    finite = np.isfinite(one)
    with np.errstate(invalid="ignore", over="ignore"):
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return float("inf")
        if not finite.any():
            return 0.0
        distance = float(np.abs(one[finite] - other[finite]).max())
        bound = _ABSOLUTE + relative * float(np.abs(one[finite]).max())
    return 0.0 if distance <= bound else distance  # NaN exceeds it


def contrasts(inputs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Inputs of the same kind as a request's own that differ widely from it.

    First floats of other sign and magnitude, everything else in reverse order; then zeros, empty strings and False.
    """
    for make in (_stretched, _zeros):
        yield [make(tensor) for tensor in inputs]


def _stretched(tensor: Tensor) -> Tensor:
    array = tensor.numpy()
    if tensor.dtype in _RELATIVE:
        with np.errstate(over="ignore", invalid="ignore"):
            return Tensor.from_numpy((array * array.dtype.type(_CONTRAST)).astype(array.dtype))
    return Tensor.from_numpy(np.ascontiguousarray(array.ravel()[::-1].reshape(array.shape)))


def _zeros(tensor: Tensor) -> Tensor:
    if tensor.dtype is DType.STRING:
        return Tensor.from_numpy(np.full(tensor.shape, b"", object))
    return Tensor.from_numpy(np.zeros(tensor.shape, tensor.dtype.numpy_dtype))
