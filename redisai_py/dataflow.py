"""Data-flow analysis of a model's graph: which values depend on values of its inputs? For backends. Pure."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Collection, Iterable, Sequence

__all__ = ["SHAPE", "VALUES", "result_flags", "union", "union_of"]

VALUES, SHAPE = 1, 2
"""Flags of a value: its elements, and its shape, depend on values of the inputs."""


def union(flags: Iterable[int]) -> int:
    """All of the flags together."""
    return functools.reduce(operator.or_, flags, 0)


def result_flags(
    given: Sequence[int], is_size: bool, parameters: Collection[int], shaped_by_values: bool = False
) -> int:
    """The flags of an operator's outputs. Elements may depend on the inputs' shapes: think of a sum.

    Args: given: the flags of its inputs.   is_size: it returns sizes of its inputs, such as `Shape`.
          parameters: the inputs whose values decide the shape of its outputs.
          shaped_by_values: the values of every input do, as for `NonZero`.
    """
    given_flags = union(given)
    if is_size:
        return VALUES if given_flags & SHAPE else 0
    shaped = shaped_by_values or any(given[place] & VALUES for place in parameters if place < len(given))
    return VALUES | (SHAPE if shaped else given_flags & SHAPE) if given_flags else 0


def union_of(results: Iterable[Sequence[int]]) -> list[int]:
    """Per output the flags that it has after any of several graphs, such as the branches of an `If`."""
    return [union(flags) for flags in itertools.zip_longest(*results, fillvalue=0)]
