"""Splits: shares, strata, times and groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from redisai_py.artifacts.errors import Invalid
from redisai_py.datasets.split import Split


def test_a_share_of_the_rows() -> None:
    rows = {"x": np.arange(100)}
    chosen = Split(test=0.2, seed=1).test_rows(rows)
    assert chosen.sum() == 20
    assert np.array_equal(chosen, Split(test=0.2, seed=1).test_rows(rows))
    assert not np.array_equal(chosen, Split(test=0.2, seed=2).test_rows(rows))


def test_strata_keep_their_shares() -> None:
    classes = np.array(["a"] * 90 + ["b"] * 8 + [None] * 2, object)
    chosen = Split(test=0.25, stratify="c").test_rows({"c": classes})
    assert [int(chosen[:90].sum()), int(chosen[90:98].sum()), int(chosen[98:].sum())] == [22, 2, 1]


def test_time_is_not_shuffled() -> None:
    days = np.array([5, 1, 4, 2, 3, 5, 5, 1, 1, 1], "datetime64[D]")
    chosen = Split(test=0.2, by="day").test_rows({"day": days})
    assert days[chosen].min() > days[~chosen].max()
    assert chosen.sum() == 3  # rows of one moment stay together


def test_groups_stay_together() -> None:
    patients = np.repeat(np.arange(20), 5)
    chosen = Split(test=0.3, group="p").test_rows({"p": patients})
    assert not set(patients[chosen]) & set(patients[~chosen])
    assert chosen.sum() == 30


@pytest.mark.parametrize(
    ("how", "columns", "text"),
    [
        ({"test": 0}, {}, "test is 0"),
        ({"test": 1.5}, {}, "test is 1.5"),
        ({"by": "a", "group": "b"}, {}, "by and group cannot be combined"),
        ({"by": "b"}, {"a": np.arange(3)}, "there is no column b; columns: a"),
        ({"by": "a"}, {"a": np.array([1, np.nan, 2])}, "lacks a value"),
        ({"by": "a"}, {"a": np.array(["NaT", "2020-01-01"], "datetime64[us]")}, "lacks a value"),
        ({"by": "a"}, {"a": np.array(["x", "y"], object)}, "must hold times or numbers"),
        ({"stratify": "a"}, {"a": np.array([1, 1, 2])}, "'2' in one row only|2 in one row only"),
        ({"group": "a"}, {"a": np.zeros(5)}, "none would be left for training"),
        ({}, {"a": np.zeros(1)}, "none would be left for training"),
        ({}, {"a": np.zeros(0)}, "none would be left"),
        ({"stratify": "a"}, {"a": np.repeat(np.arange(50), 2)}, "50 different values, and one side has 20 rows"),
        ({"stratify": "a"}, {"a": np.zeros((3, 2))}, "several values a row"),
    ],
)
def test_what_cannot_be_split_is_refused(how: dict[str, Any], columns: dict[str, Any], text: str) -> None:
    with pytest.raises(Invalid, match=text):
        Split(**how).test_rows(columns)
