"""Work that is done by many at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["Duration", "Work", "do_together"]

Work = Callable[[random.Random], None]

_BUSY = 6


class Duration:
    """How long to go on: some seconds, and up to six times that on a busy machine, until enough has been done."""

    def __init__(self, seconds: float, enough: Callable[[], bool]) -> None:
        self._end = time.monotonic() + seconds
        self._latest_end = self._end + (_BUSY - 1) * seconds
        self._enough = enough

    @property
    def is_over(self) -> bool:
        now = time.monotonic()
        return now > self._latest_end or (now > self._end and self._enough())


def do_together(works: Sequence[Work], failures: list[BaseException]) -> None:
    """Each on a thread of its own, with its own random numbers; ends when all have ended.

    failures: gets what they raise, as soon as they do. Raises the first of these.
    """

    def guarded(work: Work, seed: int) -> None:
        try:
            work(random.Random(seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work, seed)) for seed, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
