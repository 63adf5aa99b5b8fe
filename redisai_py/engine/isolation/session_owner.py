"""The owner of a front door's engine processes, as the session of one model needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.quarantine import Quarantine
from redisai_py.engine.isolation.settings import IsolationSettings

__all__ = ["SessionOwner"]


class SessionOwner(Protocol):
    """See `isolation.Isolation`."""

    settings: IsolationSettings
    quarantine: Quarantine
    closing: bool
    loop_thread: int
    versions: dict[str, str]
    name_of: Callable[[str], str]

    def next_number(self) -> int:
        """A number that no other model has."""

    def place(self, session: Any) -> EngineProcess:
        """A process for the model."""

    def leave(self, session: Any, process: EngineProcess) -> bool:
        """The model has left the process."""

    def went_well(self, identity: str) -> None: ...

    def later(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call this on another thread."""
