"""Settings and state of the engine's processes, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["IsolationSettings", "IsolationSnapshot"]


@dataclass(frozen=True, slots=True)
class IsolationSettings:
    """Settings.

    isolation: `none`: models are loaded and run in the server. `all`: in processes. `auto`: in processes, but short
        ONNX models in the server once they have proved themselves.
    engine_processes: per backend on the CPU; each model has its own until there are this many.
    engine_memory_limit_bytes: maximum allocation of one process beyond its framework's, 0 is none.
    model_load_timeout_ms: of one load, 0 is none.
    proof_runs: good runs in a row before a model may run in the server.   short_us: their maximum duration.
    """

    isolation: str = "auto"
    engine_processes: int = 8
    engine_memory_limit_bytes: int = 0
    model_load_timeout_ms: int = 0
    proof_runs: int = 100
    short_us: int = 300

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
