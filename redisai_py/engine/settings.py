"""Settings and state of the engine, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from redisai_py.engine.isolation.settings import IsolationSnapshot

__all__ = ["EngineSettings", "EngineSnapshot", "ModelSnapshot", "QueueSnapshot"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings. Source of the names in capitals: RedisAI's load-time arguments.

    threads_per_queue: THREADS_PER_QUEUE, workers per device.   device_threads: the same for single devices (`GPU:0`).
    spare_threads: how many of `threads_per_queue` one model leaves to the others.
    intra_op_parallelism, inter_op_parallelism: 0 leaves the framework's default.
    model_execution_timeout_ms: MODEL_EXECUTION_TIMEOUT, 0 is none.
    backend_memory_limit_bytes: BACKEND_MEMORY_LIMIT, 0 is none.
    loaded_models_limit_bytes: memory of the whole server's loaded models, least recently used out first, 0 is none.
    queue_limit: maximum waiting or running runs of one model.
    auto_batch: models stored without BATCHSIZE whose inputs all have a dynamic first dimension are merged up to this
        many rows; 0 does not merge them, as RedisAI.
    merge_checks: merged runs per kind of input that are compared with single ones before merging is trusted.
    inline_run_us: a CPU model with measurably shorter batches may run on the event loop, 0 never.
    inline_budget_us: time per iteration of the event loop for such runs.
    load_threads: number of models loaded at the same time.
    worker_nice: nice value of workers and loaders relative to the event loop, 0 to 19.
    slow_run_s: report executions that take at least this long.
    processes: of this server, each with an engine; MINBATCHSIZE is divided among them.
    """

    threads_per_queue: int = 1
    spare_threads: int = 0
    device_threads: Mapping[str, int] = field(default_factory=dict)
    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    model_execution_timeout_ms: int = 5000
    backend_memory_limit_bytes: int = 0
    loaded_models_limit_bytes: int = 0
    queue_limit: int = 10_000
    auto_batch: int = 0
    merge_checks: int = 2
    inline_run_us: int = 300
    inline_budget_us: int = 2000
    load_threads: int = 2
    worker_nice: int = 0
    slow_run_s: float = math.inf
    processes: int = 1

    def threads_of(self, device: str) -> tuple[int, int]:
        """Worker threads of a device, by its upper-cased string, and on how many of them one model may run at once."""
        own = self.device_threads.get(device)
        if own is not None:
            return own, own
        return self.threads_per_queue, max(1, self.threads_per_queue - self.spare_threads)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One device: its worker threads, batches being executed, and runs waiting."""

    threads: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One loaded model. unfinished: runs waiting or running.   inline: whether it may run on the event loop.
    process: id of its engine process, 0 for none.   here: whether the server's own process has a copy, or none.
    last_used: when it was loaded or began its last successful run, monotonic seconds.
    """

    model_id: str
    backend: str
    device: str
    nbytes: int
    unfinished: int
    inline: bool
    process: int = 0
    here: bool = True
    last_used: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine's current state.

    queues: by upper-cased device string.   models: least recently used first.   loaded_bytes: their sum.
    loading: number of models being loaded.
    worker_cpu_s: INFO's names (`ai_queue_CPU_bthread_n1_used_cpu_total`) -> seconds, None if unknown on this system.
    executions, loads: by backend, number of runs and loads of the framework; AI.INFO RESETSTAT does not reset them.
    refused: runs that found their queue full.   timed_out: runs whose TIMEOUT passed in it.
    """

    queues: Mapping[str, QueueSnapshot]
    models: tuple[ModelSnapshot, ...]
    loaded_bytes: int
    loading: int
    worker_cpu_s: Mapping[str, float | None]
    executions: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, int] = field(default_factory=dict)
    refused: int = 0
    timed_out: int = 0
    isolation: IsolationSnapshot = field(default_factory=IsolationSnapshot)
