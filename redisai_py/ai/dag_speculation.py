"""AI.DAG* as a client's command: it runs at once if the near cache holds all of its inputs, else by its handler.

`store.writer` explains why a result computed from near values may count.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from redisai_py.ai.dag_run import DagRun
from redisai_py.ai.dag_templates import BoundDag
from redisai_py.ai.dags import commit, execute_dag
from redisai_py.ai.model_runs import encode_tensors, near_model, near_tensors
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import RedisAIError, UpstreamLost, WrongType
from redisai_py.model import Script
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import TIMEDOUT
from redisai_py.resp.templates import Command
from redisai_py.store.writer import GroupCommit, Used

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["ExecuteDag"]


class ExecuteDag:
    """A DAG command."""

    __slots__ = ("_bound",)
    is_ai = True

    def __init__(self, bound: BoundDag) -> None:
        self._bound = bound

    def start(self, connection: Connection, command: Command) -> bool:
        if not connection.idle:
            return False
        bound = self._bound
        access = connection.session.access
        commits = access.commits if access is not None and not bound.template.scripts else None
        if commits is not None and commits.usable and _Execution(bound, connection, commits).start():
            return True
        return connection.run_alone(execute_dag(bound, connection))

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Keys that it reads."""
        template = self._bound.template
        models, scripts = template.models, template.scripts
        return (*self._bound.load, *(op.key for _, op in models), *(op.key for _, op in scripts))

    def carry_out(self, connection: Connection) -> Coroutine[Any, Any, Any]:
        """All of it, for a client that has nothing else under way."""
        return execute_dag(self._bound, connection)


class _Execution:
    """One DAG under way on near values; a `Member` of a commit."""

    __slots__ = ("_bound", "_commits", "_run", "connection", "options", "used", "writes")

    def __init__(self, bound: BoundDag, connection: Connection, commits: GroupCommit) -> None:
        self._bound = bound
        self.connection = connection
        self._commits = commits
        self.used: Used = []
        self.writes: list[tuple[bytes, bytes]] = []
        self.options = bound.template.options

    def start(self) -> bool:
        """False, and nothing has happened, if something that it reads is not near."""
        template, near = self._bound.template, self._commits.near
        runnables: dict[int, LoadedModel | Script] = {}
        rules: dict[int, Rule | None] = {}
        for i, op in template.models:
            loaded = near_model(self.connection, near, op, self.used)
            if loaded is None:
                return False
            runnables[i] = loaded
            rule = self.used[-1][1].rule
            if rule is not None:
                rules[i] = rule
        tensors = near_tensors(near, self._bound.load, self.used)
        if tensors is None:
            return False
        values = self._bound.values()
        values.update(zip(template.load_versions, tensors, strict=True))
        self.connection.busy = True
        timeout_ms = template.request.timeout_ms
        self._run = DagRun(template, values, runnables, rules, self.connection, self._done, timeout_ms)
        self._run.start()
        return True

    def _done(self, error: BaseException | None) -> None:
        """The operations have ended, or their time is over. What they gave counts if what they used still holds."""
        if self.connection.gone:
            self._run.count()  # it was computed, if to no purpose
            return
        if error is not None:
            self.connection.finish_alone(TIMEDOUT)
            return
        if self._bound.persist and self._run.plan.succeeded:
            self.writes = encode_tensors(self._run.persisted(self._bound))
        if self.used or self.writes:
            self._commits.add(self)
        else:
            self.committed()

    def committed(self) -> None:
        if self.writes or not (self._bound.persist and self._run.plan.succeeded):
            self.connection.finish_alone(self._run.replies())
        else:
            self._commit_alone()

    def _commit_alone(self) -> None:
        self.connection.busy = False
        if not self.connection.gone:
            self.connection.run_alone(commit(self._bound, self._run, self.connection))

    def stale(self) -> None:
        connection = self.connection
        connection.busy = False
        if not connection.gone:
            connection.run_alone(execute_dag(self._bound, connection))

    def refused(self, error: RedisAIError) -> None:
        if isinstance(error, UpstreamLost):
            self._run.count()  # it was computed all the same
            self.connection.finish_alone(error)
        elif isinstance(error, WrongType):
            self.connection.finish_alone([*self._run.replies(), error])
        else:
            self.stale()  # the store's way finds the words
