"""Clients of a model of their own, who must notice nothing of what happens to others."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import redis

from tests.runtime.serving import Serving

__all__ = ["Onlookers"]


class Onlookers:
    """Runs a model from 20 connections, some hundred times a second in all, and notes errors and pauses.

    Args: key: of a model with one input of one float, `onlooker:in`.
    """

    def __init__(self, serving: Serving, key: str, clients: int = 20) -> None:
        self._serving = serving
        self._command = ("AI.MODELEXECUTE", key, "INPUTS", 1, "onlooker:in", "OUTPUTS", 1, "onlooker:out")
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]
        self.errors: list[str] = []
        self.calls = 0
        self._longest_s = 0.0

    def __enter__(self) -> Onlookers:
        for thread in self._threads:
            thread.start()
        time.sleep(0.3)
        self.pause_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def pause_s(self) -> float:
        """The longest that one of them has waited for a reply since this was last asked."""
        longest, self._longest_s = self._longest_s, 0.0
        return longest

    def _work(self) -> None:
        with self._serving.client() as client:
            while not self._stop.wait(0.02):
                began = time.monotonic()
                try:
                    client.execute_command(*self._command)
                except redis.RedisError as error:
                    self.errors.append(repr(error))
                self._longest_s = max(self._longest_s, time.monotonic() - began)
                self.calls += 1
