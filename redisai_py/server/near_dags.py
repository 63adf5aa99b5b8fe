"""AI.DAG* as a client's command: at once where all that it reads is near, else by its handler.

See `runs` for why a result computed from near values counts only after a reply to something sent later than the
command came.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from redisai_py.engine.dag import Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import UpstreamError, WrongType
from redisai_py.model import Script
from redisai_py.pending import Pending
from redisai_py.resp import Command, encode_command
from redisai_py.resp_reply import TIMEDOUT
from redisai_py.server.handlers.dag_run import DagRun, Template
from redisai_py.server.handlers.dags import commit, execute_template
from redisai_py.store.near import Entry, NearCache
from redisai_py.store.scripts import SET_TENSORS_SHA
from redisai_py.store.store import LARGE_VALUE, script_words
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.server.access import Access
    from redisai_py.server.connection import Connection

__all__ = ["ExecuteDag"]


class ExecuteDag:
    """A DAG command: its template and the values that came with it."""

    __slots__ = ("_argv", "_template")
    is_ai = True

    def __init__(self, template: Template, argv: list[Any]) -> None:
        self._template = template
        self._argv = argv

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        if not connection.idle:
            return False
        template = self._template
        access = connection.session.access
        if access is not None and access.near is not None and access.scripting and not template.scripts:
            shared = access.shared
            if shared is not None and not shared.closed and not template.request.ifunchanged:
                values = template.fill(self._argv)
                if _Execution(template, values, connection, access, access.near).start():
                    return True
        return connection.run_alone(execute_template(template, template.fill(self._argv), connection))


class _Execution:
    """One DAG under way on near values."""

    __slots__ = ("access", "connection", "fenced", "near", "ran", "run", "template", "used", "values")

    def __init__(
        self,
        template: Template,
        values: dict[Version, Any],
        connection: Connection,
        access: Access,
        near: NearCache,
    ) -> None:
        self.template = template
        self.values = values
        self.connection = connection
        self.access = access
        self.near = near
        self.used: list[tuple[bytes, Entry]] = []
        self.fenced = False
        self.ran = False

    def start(self) -> bool:
        """False, and nothing has happened, if something that it reads is not near."""
        template, near, engine = self.template, self.near.entries, self.connection.server.engine
        runnables: dict[int, LoadedModel | Script] = {}
        for i, op in template.models:
            entry = near.get(op.key)
            loaded = engine.loaded(entry.value) if entry is not None and type(entry.value) is str else None
            if entry is None or loaded is None:
                return False
            if len(loaded.inputs) != len(op.inputs) or len(loaded.outputs) != len(op.outputs):
                return False
            self.used.append((op.key, entry))
            runnables[i] = loaded
        for version in template.load_versions:
            key: bytes = version.name  # type: ignore[assignment]  # names are keys here
            entry = near.get(key)
            if entry is None or type(entry.value) is not Tensor or entry.deadline < time.monotonic():
                return False
            self.used.append((key, entry))
            self.values[version] = entry.value
        self.connection.busy = True
        self.access.fence().waiter = self._passed
        self.run = DagRun(template, self.values, runnables, self.connection, self._done)
        self.run.start()
        return True

    def _passed(self, fence: Pending[None]) -> None:
        if fence.error is not None and not self.connection.gone:
            self.connection.cancel_run = None
            self.connection.finish_alone(fence.error)
            self.connection = None  # type: ignore[assignment]  # the run may end later; nobody waits for it
            return
        self.fenced = True
        if self.ran:
            self._both()

    def _done(self, error: BaseException | None) -> None:
        if self.connection is None or self.connection.gone:
            return
        if error is not None:
            self.ran = self.fenced = False
            self.connection.finish_alone(TIMEDOUT)
            self.connection = None  # type: ignore[assignment]  # a late fence has nobody to tell
            return
        self.ran = True
        if self.fenced:
            self._both()

    def _both(self) -> None:
        """The operations have ended, and what they used was still what Redis held when the command came, or not."""
        connection, request = self.connection, self.template.request
        if connection is None or connection.gone:
            return
        if not self.near.unchanged(self.used):
            connection.busy = False
            # The values of this execution are spoilt; the words of the command are not.
            fresh = {version: self.values[version] for version in self.template.tensors}
            connection.run_alone(execute_template(self.template, fresh, connection))
        elif not request.persist or not self.run.plan.succeeded:
            connection.finish_alone(self.run.replies())
        else:
            self._persist()

    def _persist(self) -> None:
        connection, request = self.connection, self.template.request
        tensors = {key: tensor for key in request.persist if (tensor := self.run.last(key)) is not None}
        shared = self.access.shared
        size = sum(len(tensor.data) for tensor in tensors.values())
        if not tensors or size >= LARGE_VALUE or shared is None or shared.closed:
            connection.busy = False
            connection.run_alone(commit(request, self.run, connection, self.access))
            return
        deadline = math.inf if request.ex_seconds is None else time.monotonic() + request.ex_seconds
        words, written = script_words(tensors, request.ex_seconds, request.keepttl)
        data = b"".join(encode_command([b"EVALSHA", SET_TENSORS_SHA, *words]))

        def stored(reply: Any) -> None:
            if connection.gone:
                return
            if reply == b"OK":
                for key, tensor in written.items():
                    if request.keepttl:
                        self.near.drop(key)  # when it expires is not known here
                    else:
                        self.near.put(key, tensor, len(tensor.data), deadline)
                connection.finish_alone(self.run.replies())
            elif "WRONGTYPE" in str(reply):
                connection.finish_alone([*self.run.replies(), WrongType()])
            elif isinstance(reply, UpstreamError):
                connection.finish_alone(reply)
            else:  # nothing was written; the long way finds out why
                connection.busy = False
                connection.run_alone(commit(request, self.run, connection, self.access))

        shared.send(data, stored)
