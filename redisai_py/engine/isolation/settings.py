"""Settings and state of the engine's processes, as values. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from redisai_py.config import Config

__all__ = ["IsolationSettings", "IsolationSnapshot", "has_processes"]


def has_processes() -> bool:
    """Whether this system can run engine processes."""
    return sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class IsolationSettings:
    """Settings.

    isolation: `none`: models are loaded and run in the server. `all`: in processes. `auto`: in processes, but short
        ONNX models in the server once they have proved themselves.
    engine_processes: per backend on the CPU; each model has its own until there are this many.
    engine_memory_limit_bytes: maximum allocation of one process beyond its framework's, 0 is none.
    model_load_timeout_ms: of one load, 0 is none.
    worker_nice: how much less urgent the processes are than the event loop.
    front_doors: of the server. Each has a copy of a model that runs in the server.
    proof_runs: good runs in a row before a model may run in the server.   short_us: their maximum duration.
    """

    isolation: str = "auto"
    engine_processes: int = 8
    engine_memory_limit_bytes: int = 0
    model_load_timeout_ms: int = 0
    worker_nice: int = 0
    front_doors: int = 1
    proof_runs: int = 100
    short_us: int = 300

    @classmethod
    def of(cls, config: Config) -> IsolationSettings:
        """Those of a server. config: resolved."""
        return cls(
            isolation=config.isolation if has_processes() else "none",
            engine_processes=config.engine_processes,
            engine_memory_limit_bytes=config.engine_memory_limit_mb * 1_000_000,
            model_load_timeout_ms=config.model_load_timeout_ms,
            worker_nice=config.worker_nice,
            front_doors=config.processes,
        )

    @property
    def runs_models(self) -> bool:
        """Whether models are loaded and run in processes. Scripts always are."""
        return self.isolation != "none"

    @property
    def model_load_timeout_s(self) -> float | None:
        """In seconds; None without a limit."""
        return self.model_load_timeout_ms / 1000 if self.model_load_timeout_ms else None


@dataclass(frozen=True, slots=True)
class IsolationSnapshot:
    """The current engine processes.

    pids: of the live ones, without zygotes.   deaths: how they ended -> count, without those that were no longer
    needed.
    quarantined: models by identity -> reason.
    """

    pids: tuple[int, ...] = ()
    deaths: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)
