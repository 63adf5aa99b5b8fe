"""The devices in use, each with its own worker threads. Thread: the event loop's, except `slots`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from redisai_py.engine.execution import Execution, Slot, Watch
from redisai_py.engine.settings import EngineSettings
from redisai_py.engine.worker import DeviceQueue, HandOver

__all__ = ["Devices"]

_MOST_DEVICES = 64
"""Limit of devices: each device string has its own threads, and anybody may write `CPU:12345` into a model."""


class Devices:
    """Args: report, expired, watchdog, stopped: see `DeviceQueue`."""

    def __init__(
        self,
        settings: EngineSettings,
        report: Callable[[Execution], object],
        expired: Callable[[HandOver], object],
        watchdog: Watch,
        stopped: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._make = partial(
            DeviceQueue,
            report=report,
            expired=expired,
            watchdog=watchdog,
            stopped=stopped,
            nice=settings.worker_nice,
        )
        self.by_name: dict[str, DeviceQueue] = {}

    def __iter__(self) -> Iterator[DeviceQueue]:
        return iter(list(self.by_name.values()))

    def get(self, name: str) -> DeviceQueue:
        """The device of that upper-cased string; its threads start on first use.

        Raises: RuntimeError: they cannot start, or there are too many devices.
        """
        device = self.by_name.get(name)
        if device is None:
            if len(self.by_name) >= _MOST_DEVICES:
                raise RuntimeError(f"more than {_MOST_DEVICES} device strings are in use")
            device = self.by_name[name] = self._make(name, *self._settings.threads_of(name))
        return device

    def slots(self) -> list[Slot]:
        """The slots of all worker threads. Thread: any."""
        return [slot for device in self for slot in (*device.slots, *device.lent)]

    def replace(self, slot: Slot) -> None:
        """See `DeviceQueue.replace`."""
        for device in self:
            if slot in device.slots:
                device.replace(slot)

    def lend(self, thread_id: int) -> None:
        """A run takes long in an engine process: give its thread a successor."""
        with suppress(RuntimeError):  # no more threads available: other runs wait
            for device in self:
                device.lend(thread_id)

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that end when the devices are stopped."""
        return [thread for device in self for thread in device.threads]

    def stop(self) -> None:
        """Let every thread end once it has executed the waiting runs."""
        for device in self:
            device.stop()
