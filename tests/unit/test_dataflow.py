"""Data-flow flags: what an operator's outputs depend on, from what its inputs depend on."""

from __future__ import annotations

import pytest

from redisai_py.dataflow import SHAPE, VALUES, result_flags, union, union_of

BOTH = VALUES | SHAPE


@pytest.mark.parametrize(
    ("given", "is_size", "parameters", "shaped_by_values", "flags"),
    [
        ([0, 0], False, (), True, 0),  # of constants alone
        ([VALUES, 0], False, (), False, VALUES),
        ([VALUES, 0], False, (1,), False, VALUES),  # the parameter is a constant
        ([0, VALUES], False, (1,), False, BOTH),  # the parameter decides the shape
        ([VALUES], False, (1,), False, VALUES),  # an optional parameter that is left out
        ([VALUES], False, (), True, BOTH),
        ([SHAPE], False, (), False, BOTH),  # the elements of a sum depend on the shape
        ([VALUES], True, (), False, 0),
        ([BOTH], True, (), False, VALUES),
    ],
)
def test_flags_of_a_result(
    given: list[int], is_size: bool, parameters: tuple[int, ...], shaped_by_values: bool, flags: int
) -> None:
    assert result_flags(given, is_size, parameters, shaped_by_values) == flags


def test_branches_are_joined_output_by_output() -> None:
    assert union_of([[VALUES, 0], [0, SHAPE, VALUES]]) == [VALUES, SHAPE, VALUES]
    assert union_of([]) == []
    assert union([]) == 0
