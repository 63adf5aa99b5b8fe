"""Clients of a model of their own, who must notice nothing of what happens to others."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.runtime.serving import Serving

__all__ = ["Onlookers"]

_SLEEP_S = 0.02


class Onlookers:
    """Runs models from 20 connections, some hundred times a second in all, and notes errors and pauses.

    Args: keys: of models whose one input is `onlooker:in`; each client runs one of them.
          reconnects: a client whose connection is closed connects again, and sends its command again.
    """

    def __init__(self, serving: Serving, *keys: str, clients: int = 20, reconnects: bool = False) -> None:
        self._serving = serving
        self._retry = Retry(ConstantBackoff(0.02), 100) if reconnects else None
        self._stop = threading.Event()
        commands = [
            ("AI.MODELEXECUTE", key, "INPUTS", 1, "onlooker:in", "OUTPUTS", 1, f"onlooker:{key}") for key in keys
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(commands[number % len(keys)],), daemon=True)
            for number in range(clients)
        ]
        self._threads.append(threading.Thread(target=self._sleep, daemon=True))
        self.errors: list[str] = []
        self.calls = 0
        self._longest_s = self._stood_still_s = 0.0

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
        """The longest that one of them has waited for a reply since this was last asked, less the longest time for
        which the machine, or this process, stood still: on a machine that did not, every pause counts in full.
        """
        longest, self._longest_s = self._longest_s, 0.0
        stood_still, self._stood_still_s = self._stood_still_s, 0.0
        return max(longest - stood_still, 0.0)

    def _sleep(self) -> None:
        while True:
            began = time.monotonic()
            if self._stop.wait(_SLEEP_S):
                return
            self._stood_still_s = max(self._stood_still_s, time.monotonic() - began - _SLEEP_S)

    def _work(self, command: tuple[str | int, ...]) -> None:
        with self._serving.client(retry=self._retry) as client:
            while not self._stop.wait(_SLEEP_S):
                began = time.monotonic()
                try:
                    client.execute_command(*command)
                except redis.RedisError as error:
                    self.errors.append(repr(error))
                self._longest_s = max(self._longest_s, time.monotonic() - began)
                self.calls += 1
