"""AI.DAG* as a client's command: at once where all that it reads is near, else by its handler.

See `group_commit` for why a result computed from near values may count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redisai_py.engine.dag import Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import UpstreamError, WrongType
from redisai_py.frames import Command
from redisai_py.model import Script
from redisai_py.resp_reply import TIMEDOUT
from redisai_py.server.group_commit import GroupCommit, Used
from redisai_py.server.handlers.dag_run import DagRun, Template
from redisai_py.server.handlers.dags import commit, execute_template
from redisai_py.server.runs import encode_tensors, near_model, near_tensors

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["ExecuteDag"]


class ExecuteDag:
    """A DAG command: its template and the values that came with it."""

    __slots__ = ("_argv", "_template")
    is_ai = True

    def __init__(self, template: Template, argv: list[Any]) -> None:
        self._template = template
        self._argv = argv

    def start(self, connection: Connection, command: Command) -> bool:
        if not connection.idle:
            return False
        template = self._template
        access = connection.session.access
        values = template.fill(self._argv)
        commits = access.commits if access is not None and not template.scripts else None
        if commits is not None and commits.usable and _Execution(template, values, connection, commits).start():
            return True
        return connection.run_alone(execute_template(template, values, connection))


class _Execution:
    """One DAG under way on near values; a `Member` of a commit."""

    __slots__ = ("_commits", "_run", "_template", "_values", "connection", "options", "used", "writes")

    def __init__(
        self, template: Template, values: dict[Version, Any], connection: Connection, commits: GroupCommit
    ) -> None:
        self._template = template
        self._values = values
        self.connection = connection
        self._commits = commits
        self.used: Used = []
        self.writes: list[tuple[bytes, bytes]] = []
        self.options = template.options

    def start(self) -> bool:
        """False, and nothing has happened, if something that it reads is not near."""
        template, near = self._template, self._commits.near
        runnables: dict[int, LoadedModel | Script] = {}
        for i, op in template.models:
            loaded = near_model(self.connection, near, op, self.used)
            if loaded is None:
                return False
            runnables[i] = loaded
        tensors = near_tensors(near, template.request.load, self.used)
        if tensors is None:
            return False
        self._values.update(zip(template.load_versions, tensors, strict=True))
        self.connection.busy = True
        self._run = DagRun(template, self._values, runnables, self.connection, self._done)
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
        run, persist = self._run, self._template.request.persist
        if persist and run.plan.succeeded:
            # An output that is no tensor writes no key.
            self.writes = encode_tensors((key, tensor) for key in persist if (tensor := run.last(key)) is not None)
        if self.used or self.writes:
            self._commits.add(self)
        else:
            self.committed()

    def committed(self) -> None:
        if self.writes or not (self._template.request.persist and self._run.plan.succeeded):
            self.connection.finish_alone(self._run.replies())
        else:
            self._commit_alone()

    def _commit_alone(self) -> None:
        self.connection.busy = False
        if not self.connection.gone:
            self.connection.run_alone(commit(self._template.request, self._run, self.connection))

    def stale(self) -> None:
        connection = self.connection
        connection.busy = False
        if not connection.gone:
            # The values of this execution are spoilt; the words of the command are not.
            fresh = {version: self._values[version] for version in self._template.tensors}
            connection.run_alone(execute_template(self._template, fresh, connection))

    def refused(self, reply: Any) -> None:
        if isinstance(reply, UpstreamError):
            self.connection.finish_alone(reply)
        elif "WRONGTYPE" in str(reply):
            self.connection.finish_alone([*self._run.replies(), WrongType()])
        else:
            self.stale()  # the store's way finds the words
