"""Blocks of shards, fetched ahead by a thread while the ones before are computed with.

At most `ahead` blocks wait, beside the one in use: memory is bounded whatever the size of the data set.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetch"]

T = TypeVar("T")
K = TypeVar("K")
_POLL_S = 0.1


class Prefetch(Generic[K, T]):
    """Iterates over `fetch(key)` for each key, in order; one fetch runs ahead. A context manager.

    An error of `fetch` is raised where its value was expected. Leaving the block ends the thread.
    """

    def __init__(self, fetch: Callable[[K], T], keys: Iterable[K], ahead: int) -> None:
        self._fetch = fetch
        self._keys = iter(keys)
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(max(1, ahead))
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name="redisai prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._values()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for key in self._keys:
                if self._left.is_set() or not self._put((self._fetch(key), None)):
                    return
            self._put((None, StopIteration()))
        except Exception as error:  # the consumer raises it: this thread has nobody to tell
            self._put((None, error))

    def _put(self, item: tuple[T | None, BaseException | None]) -> bool:
        while not self._left.is_set():
            try:
                self._ready.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def _values(self) -> Iterator[T]:
        while True:
            value, error = self._ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # a value is there whenever no error is
