"""The engine's current state as values: the parts of an `EngineSnapshot`. Thread: the event loop's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from redisai_py.engine.execution import Execution
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.settings import ModelSnapshot, QueueSnapshot
from redisai_py.engine.worker import DeviceQueue

__all__ = ["cpu_seconds", "model_snapshot", "queue_snapshots"]


def queue_snapshots(
    devices: Mapping[str, DeviceQueue], alive: Iterable[QueuedModel], ahead: Iterable[Execution]
) -> dict[str, QueueSnapshot]:
    """Each device's workers and runs.

    Args: alive: every model that may have unfinished runs.   ahead: batches under way without a worker thread.
    """
    unfinished = dict.fromkeys(devices, 0)
    for loaded in alive:
        unfinished[loaded.device.name] += loaded.unfinished
    queues: dict[str, QueueSnapshot] = {}
    for name, device in devices.items():
        executing = [slot.current for slot in device.slots]
        running = [execution for execution in executing if execution is not None]
        running += [execution for execution in ahead if execution.loaded.device is device]
        started = sum(len(execution.runs) for execution in running)
        queues[name] = QueueSnapshot(len(device.threads), len(running), max(0, unfinished[name] - started))
    return queues


def cpu_seconds(devices: Mapping[str, DeviceQueue]) -> dict[str, float | None]:
    """INFO's name of each worker thread -> its CPU time so far, None if unknown on this system."""
    return {
        f"ai_queue_{name}_bthread_n{i}_used_cpu_total": seconds
        for name, device in devices.items()
        for i, seconds in enumerate(device.cpu_seconds(), 1)
    }


def model_snapshot(loaded: QueuedModel) -> ModelSnapshot:
    """One loaded model."""
    model = loaded.model
    return ModelSnapshot(
        loaded.id,
        model.backend,
        model.device.text,
        loaded.nbytes,
        loaded.unfinished,
        loaded.inline.enabled,
        loaded.process,
        loaded.here,
        loaded.stats.last_used,
    )
