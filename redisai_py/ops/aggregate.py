"""Figures of the whole server: the sums over this process, its siblings, and the siblings that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from redisai_py.engine.isolation.settings import IsolationSnapshot
from redisai_py.engine.settings import EngineSnapshot, ModelSnapshot, QueueSnapshot
from redisai_py.engine.stats import RunStats
from redisai_py.model import Kind
from redisai_py.ops.eviction import taken_bytes
from redisai_py.ops.tallies import SERVER, counts_of, program_topic, recent
from redisai_py.serve.figures import added

if TYPE_CHECKING:
    from redisai_py.frontdoor.services import Services

__all__ = ["Aggregate", "aggregate", "own_counts"]

_SLICE = 8


async def own_counts(services: Services, topics: Iterable[str]) -> dict[str, Any]:
    """`counts_of`, yielding to the event loop from time to time."""
    found: dict[str, Any] = {}
    wanted = list(topics)
    for at in range(0, len(wanted), _SLICE):
        found |= counts_of(services, wanted[at : at + _SLICE])
        await asyncio.sleep(0)
    return found


async def aggregate(services: Services, state: dict[str, Any], *, with_programs: bool = False) -> Aggregate:
    """Ask the siblings, if there are any. state: this process's own.   with_programs: include counts of models, scripts
    and prediction caches.

    Called by a Task. Raises: RedisAIError: the siblings cannot be asked.
    """
    own = await own_counts(services, recent(services) if with_programs else [SERVER])
    topics = None if with_programs else [SERVER]
    answer = await services.siblings.ask({"kind": "state", "topics": topics}, own)
    figures = added(own, answer.figures) if answer.figures else own
    return Aggregate(figures, [state, *(reply for reply in answer.replies if reply is not None)])


class Aggregate:
    """Args: figures: sums by topic.   states: of each living process, this process first."""

    def __init__(self, figures: dict[str, Any], states: list[dict[str, Any]]) -> None:
        self.figures = figures
        self.states = states

    @property
    def counts(self) -> dict[str, Any]:
        """The sums of `server_counts` over all processes."""
        counts: dict[str, Any] = self.figures[SERVER]
        return counts

    @property
    def obstacles(self) -> list[str]:
        """The reasons why no client should be sent to this server, without repeats."""
        return list(dict.fromkeys(line for state in self.states for line in state["obstacles"]))

    def total(self, name: str) -> int:
        """The sum of a number of the states."""
        return sum(state[name] for state in self.states)

    def every(self, name: str) -> list[Any]:
        """A value of each process's state."""
        return [state[name] for state in self.states]

    def summed(self, name: str) -> dict[str, int]:
        """The sums of named numbers."""
        total: dict[str, Any] = {}
        for state in self.states:
            total = added(total, state[name])
        return total

    def union(self, name: str) -> dict[str, str]:
        """Named strings of all processes; this process's take precedence."""
        found: dict[str, str] = {}
        for state in self.states:
            found = {**state[name], **found}
        return found

    def listed(self, name: str) -> list[str]:
        """Strings of all processes, without repeats."""
        return list(dict.fromkeys(item for state in self.states for item in state[name]))

    @cached_property
    def engine(self) -> EngineSnapshot:
        """The engines of all processes as one. A model loaded by several is counted once, with the memory of all; they
        share what is in an engine process.
        """
        queues: dict[str, list[int]] = {}
        copies: dict[str, list[ModelSnapshot]] = {}
        for state in self.states:
            for device, numbers in state["queues"].items():
                queues[device] = [a + b for a, b in zip(queues.get(device, (0, 0, 0)), numbers, strict=True)]
            for model in (ModelSnapshot(*values) for values in state["models"]):
                copies.setdefault(model.model_id, []).append(model)
        models = [
            replace(some[-1], nbytes=taken_bytes(some), unfinished=sum(model.unfinished for model in some))
            for some in copies.values()
        ]
        counts = self.counts
        worker_cpu = {name: counts["worker_cpu"].get(name) for name in self.listed("workers")}
        pids = tuple(dict.fromkeys(pid for pids in self.every("pids") for pid in pids))
        return EngineSnapshot(
            queues={device: QueueSnapshot(*numbers) for device, numbers in queues.items()},
            models=tuple(models),
            loaded_bytes=sum(model.nbytes for model in models),
            loading=self.total("loading"),
            worker_cpu_s=worker_cpu,
            executions=counts["executions"],
            loads=counts["loads"],
            refused=counts["runs_refused"],
            timed_out=counts["runs_timed_out"],
            isolation=IsolationSnapshot(pids, counts["deaths"], self.union("quarantined")),
        )

    def programs(self) -> list[tuple[Kind, int, bytes, str, str, str]]:
        """Kind, database, key, identity, backend and device of all known models and scripts; each key once."""
        found: dict[tuple[str, int, str], tuple[Any, ...]] = {}
        for state in reversed(self.states):
            for kind, database, key, *rest in state["programs"]:
                found.pop((kind, database, key), None)
                found[kind, database, key] = (Kind[kind], database, bytes.fromhex(key), *rest)
        return list(found.values())

    def caches(self) -> dict[tuple[int, bytes], bool]:
        """Database and key of each model with a prediction cache, mapped to whether any process looks them up."""
        found: dict[tuple[int, bytes], bool] = {}
        for state in reversed(self.states):
            for database, digits, active in state["caches"]:
                key = bytes.fromhex(digits)
                found[database, key] = active or found.get((database, key), False)
        return found

    def run_stats(self, kind: Kind, identity: str) -> RunStats:
        """The counters of a model or script."""
        return RunStats.from_tally(self.figures.get(program_topic(kind, identity), {}))
