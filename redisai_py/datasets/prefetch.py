"""Prefetching: a thread fetches blocks of shards while the caller uses earlier ones.

At most `ahead` blocks are being fetched or waiting, besides the one in use, so memory is bounded.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetch"]

T = TypeVar("T")
K = TypeVar("K")


class Prefetch(Generic[K, T]):
    """Iterates over `fetch(key)` for each key, in order. A context manager: the thread ends with the block.

    An exception of `fetch`, or of the keys, is raised in place of the value.
    """

    def __init__(self, fetch: Callable[[K], T], keys: Iterable[K], ahead: int) -> None:
        self._fetch = fetch
        self._keys = iter(keys)
        self._ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(max(1, ahead))
        self._left = False
        self._thread = threading.Thread(target=self._work, name="redisai prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._values()

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._room.release()
        self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                self._room.acquire()
                if self._left:
                    return
                key = next(self._keys)
                self._ready.put((self._fetch(key), None))
        except StopIteration as end:
            self._ready.put((None, end))
        except Exception as error:  # passed on: the consumer raises it
            self._ready.put((None, error))

    def _values(self) -> Iterator[T]:
        while True:
            value, error = self._ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # a value is there whenever no error is
            del value  # only the consumer keeps it alive
            self._room.release()
