"""Work that is done by many at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

__all__ = ["Work", "do_together"]

Work = Callable[[random.Random], None]


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
