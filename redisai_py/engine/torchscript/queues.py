"""Jobs that wait: one first-in-first-out queue per device, and the bounds on them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from redisai_py.engine.torchscript.jobs import Execution, Job
from redisai_py.engine.torchscript.lane import FREE_BYTES
from redisai_py.pending import Pending

__all__ = ["JobQueues"]

_MOST_TOGETHER = 64
_TOGETHER_S = 0.0005
"""What a batch may be expected to take."""


class JobQueues:
    """The queues by name (`CPU`, and `CPU compile` for stores); none is empty."""

    def __init__(self) -> None:
        self.by_name: dict[str, deque[Job]] = {}
        self.waiting = 0
        """Jobs in all of them."""

    def add(self, job: Job) -> None:
        """Put a job behind the others."""
        queue = self.by_name.get(job.queue)
        if queue is None:
            queue = self.by_name[job.queue] = deque()
        queue.append(job)
        self.waiting += 1

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Put jobs of one queue before the others, in this order: they were taken too early."""
        if jobs:
            self.by_name.setdefault(jobs[0].queue, deque()).extendleft(reversed(jobs))
            self.waiting += len(jobs)

    def remove(self, job: Job) -> bool:
        """Take a job out; False if it does not wait."""
        queue = self.by_name.get(job.queue)
        if queue is None or job not in queue:
            return False
        queue.remove(job)
        self._taken(job.queue, 1)
        return True

    def waits(self, outcome: Pending[Any]) -> Job | None:
        """The job with this outcome, if it waits."""
        return next((job for queue in self.by_name.values() for job in queue if job.outcome is outcome), None)

    def take(self, name: str) -> list[Job]:
        """The jobs that a worker gets next: one, or several short calls, all of the first one's owner. Those that have
        ended are left out, so it may be none at all.
        """
        queue = self.by_name[name]
        count, size, expected_s = 0, 0, 0.0
        taken: list[Job] = []
        owner = queue[0].owner
        for job in queue:
            if job.outcome.done:  # its client has gone
                count += 1
                continue
            if job.owner != owner:
                break
            alone = job.message is None
            if taken and (alone or size + job.size > FREE_BYTES or expected_s > _TOGETHER_S):
                break
            count += 1
            taken.append(job)
            if alone or len(taken) == _MOST_TOGETHER:
                break
            size += job.size
            if isinstance(job, Execution):
                expected_s += job.function.ran_s
        for _ in range(count):
            queue.popleft()
        self._taken(name, count)
        return taken

    def take_all(self, pool: str | None) -> list[Job]:
        """All that wait for a kind of worker, or at all."""
        jobs: list[Job] = []
        for name in list(self.by_name):
            queue = self.by_name[name]
            if pool is None or queue[0].pool == pool:
                jobs += queue
                del self.by_name[name]
                self.waiting -= len(queue)
        return jobs

    def _taken(self, name: str, count: int) -> None:
        self.waiting -= count
        if not self.by_name[name]:
            del self.by_name[name]
