"""An engine process that runs scripts, as the front door sees it that uses it. It has no model, and no other user."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded

__all__ = ["ScriptProcess"]

_T = TypeVar("_T")


class _Processes(Protocol):
    """The owner of the processes; see `isolation.Isolation`."""

    def next_number(self) -> int: ...

    def place_scripts(self, user: ScriptProcess) -> EngineProcess: ...

    def leave(self, user: ScriptProcess, process: EngineProcess) -> bool: ...


class ScriptProcess:
    """Args: ended: called when the process has ended, unless `kill` was called: with its exit status, or minus the
    signal's number; None if it is not known. Thread: any.
    """

    identity = ""

    def __init__(self, isolation: _Processes, ended: Callable[[int | None], object]) -> None:
        self.number = isolation.next_number()
        self.process_ended = ended
        self._isolation = isolation
        self._process: EngineProcess | None = None

    def start(self, lane_bytes: int, make: Callable[[int, socket.socket, int], _T]) -> _T | None:
        """Have it started, and open its lane (`EngineProcess.open_scripts`). Thread: any but the event loop's.

        Returns: None if it has ended already.   Raises: BackendNotInstalled, BackendError: it cannot be started.
        """
        self._process = self._isolation.place_scripts(self)
        try:
            return self._process.open_scripts(lane_bytes, make)
        except ProcessEnded:
            self.note_end()
        except BaseException:
            self.kill()
            raise
        return None

    @property
    def pid(self) -> int:
        """Its process id; 0 if it does not run, or that is not known."""
        process = self._process
        return 0 if process is None or process.dead else process.pid or 0

    def note_end(self) -> None:
        """Its lane has ended; the manager says why. Thread: any."""
        if self._process is not None:
            self._process.note_end()

    def kill(self) -> None:
        """Kill it immediately. Thread: any; does not wait."""
        if self._process is not None:
            self._isolation.leave(self, self._process)
