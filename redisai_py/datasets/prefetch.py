"""Prefetching: a thread fetches blocks of shards while the caller uses earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")
K = TypeVar("K")


@contextmanager
def prefetched(fetch: Callable[[K], T], keys: Iterable[K], ahead: int) -> Iterator[Iterator[T]]:
    """Iterates over `fetch(key)` for each key, in order. The thread ends with the block.

    At most `ahead` values are being fetched or waiting, besides the one in use, so memory is bounded. An exception of
    `fetch` is raised in place of the value. A block that is still open delays the interpreter's exit by what is being
    fetched.
    """
    pool = ThreadPoolExecutor(1, "redisai prefetch")
    left = iter(keys)

    def values() -> Iterator[T]:
        coming: deque[Future[T]] = deque(pool.submit(fetch, key) for key in islice(left, max(1, ahead)))
        while coming:
            value = coming.popleft().result()
            coming.extend(pool.submit(fetch, key) for key in islice(left, 1))
            yield value
            del value  # only the consumer keeps it alive

    try:
        yield values()
    finally:
        pool.shutdown(cancel_futures=True)
