"""Waiting for what will come, on a machine that may be busy, or stand still for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    what: str | Callable[[], str] = "it did not come to that",
    *,
    seconds: float = 20.0,
    every_s: float = 0.01,
    not_yet: tuple[type[Exception], ...] = (),
) -> T:
    """The first true result of `condition`.

    It is tried as often as fits into the seconds, whatever the time: what the machine stood still does not count.

    Args:   what: says what is wrong if it never is true.   not_yet: exceptions that count as not true yet.
    Raises: AssertionError: it never was.
    """
    failure: Exception | None = None
    for _ in range(round(seconds / every_s)):
        try:
            if result := condition():
                return result
            failure = None
        except not_yet as error:
            failure = error
        time.sleep(every_s)
    raise AssertionError(what() if callable(what) else what) from failure
