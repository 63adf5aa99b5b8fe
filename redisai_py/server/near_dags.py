"""AI.DAG* as a client's command: at once where all that it reads is near, else by its handler.

See `runs` for why a result computed from near values counts only after a reply to something sent later than the
command came.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.engine.dag import Version
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import UpstreamError, WrongType
from redisai_py.model import Script
from redisai_py.resp import Command, encode_command
from redisai_py.resp_reply import TIMEDOUT
from redisai_py.server.handlers.dag_run import DagRun, Template
from redisai_py.server.handlers.dags import commit, execute_template
from redisai_py.server.upstream import SharedUpstream
from redisai_py.store.near import Entry, NearCache
from redisai_py.store.scripts import SET_TENSORS_SHA
from redisai_py.store.store import LARGE_VALUE, script_words
from redisai_py.tensor import Tensor

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

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        if not connection.idle:
            return False
        template = self._template
        access = connection.session.access
        if access is not None and access.near is not None and access.scripting and not template.scripts:
            shared = access.shared
            if shared is not None and not shared.closed and not template.request.ifunchanged:
                values = template.fill(self._argv)
                if _Execution(template, values, connection, access.near, shared).start():
                    return True
        return connection.run_alone(execute_template(template, template.fill(self._argv), connection))


class _Execution:
    """One DAG under way on near values."""

    __slots__ = ("confirmed", "connection", "near", "over", "ran", "run", "shared", "template", "used", "values")

    def __init__(
        self,
        template: Template,
        values: dict[Version, Any],
        connection: Connection,
        near: NearCache,
        shared: SharedUpstream,
    ) -> None:
        self.template = template
        self.values = values
        self.connection = connection
        self.near = near
        self.shared = shared
        self.used: list[tuple[bytes, Entry]] = []
        self.confirmed = False
        self.ran = False
        self.over = False  # answered, or begun again: what still comes is of no interest

    def start(self) -> bool:
        """False, and nothing has happened, if something that it reads is not near."""
        template, near, engine = self.template, self.near.entries, self.connection.server.engine
        now = time.monotonic()
        runnables: dict[int, LoadedModel | Script] = {}
        for i, op in template.models:
            entry = near.get(op.key)
            loaded = engine.loaded(entry.value) if entry is not None and type(entry.value) is str else None
            if entry is None or entry.deadline < now or loaded is None:
                return False
            if len(loaded.inputs) != len(op.inputs) or len(loaded.outputs) != len(op.outputs):
                return False
            self.used.append((op.key, entry))
            runnables[i] = loaded
        for version in template.load_versions:
            key: bytes = version.name  # type: ignore[assignment]  # names are keys here
            entry = near.get(key)
            if entry is None or type(entry.value) is not Tensor or entry.deadline < now:
                return False
            self.used.append((key, entry))
            self.values[version] = entry.value
        self.connection.busy = True
        if self.used:
            self.shared.send(template.touch, self._touched)
        else:
            self.confirmed = True
        self.run = DagRun(template, self.values, runnables, self.connection, self._done)
        self.run.start()
        return True

    def _touched(self, reply: Any) -> None:
        """What was used is what Redis held after the command's arrival, or not."""
        if self.over or self.connection.gone:
            return
        if reply != len(self.used) or not self.near.unchanged(self.used):
            # Nothing is written yet, so this is right too where Redis was lost, or refused this user the TOUCH.
            self._again()
            return
        self.confirmed = True
        if self.ran:
            self._go_on()

    def _done(self, error: BaseException | None) -> None:
        """The operations have ended, or their time is over."""
        if self.over or self.connection.gone:
            return
        if error is not None:
            self.over = True
            self.connection.finish_alone(TIMEDOUT)
            return
        self.ran = True
        if self.confirmed:
            self._go_on()

    def _again(self) -> None:
        self.over = True
        connection = self.connection
        if connection.cancel_run is not None:
            cancel, connection.cancel_run = connection.cancel_run, None
            cancel()
        connection.busy = False
        # The values of this execution are spoilt; the words of the command are not.
        fresh = {version: self.values[version] for version in self.template.tensors}
        connection.run_alone(execute_template(self.template, fresh, connection))

    def _go_on(self) -> None:
        if self.template.request.persist and self.run.plan.succeeded:
            self._persist()
        else:
            self.connection.finish_alone(self.run.replies())

    def _persist(self) -> None:
        request = self.template.request
        tensors = {key: tensor for key in request.persist if (tensor := self.run.last(key)) is not None}
        size = sum(len(tensor.data) for tensor in tensors.values())
        if not tensors or size >= LARGE_VALUE or self.shared.closed:
            self._commit_slowly()
            return
        deadline = math.inf if request.ex_seconds is None else time.monotonic() + request.ex_seconds
        words, written = script_words(tensors, request.ex_seconds, request.keepttl)
        data = b"".join(encode_command([b"EVALSHA", SET_TENSORS_SHA, *words]))
        self.shared.send(data, partial(self._stored, written, deadline))

    def _stored(self, written: dict[bytes, Tensor], deadline: float, reply: Any) -> None:
        connection = self.connection
        if reply == b"OK":  # what is near must follow, whether the client is still there or not
            for key, tensor in written.items():
                if self.template.request.keepttl:
                    self.near.drop(key)  # when it expires is not known here
                else:
                    self.near.put(key, tensor, len(tensor.data), deadline)
        if connection.gone:
            return
        if reply == b"OK":
            connection.finish_alone(self.run.replies())
        elif "WRONGTYPE" in str(reply):
            connection.finish_alone([*self.run.replies(), WrongType()])
        elif isinstance(reply, UpstreamError):
            connection.finish_alone(reply)
        else:  # nothing was written; the long way finds out why
            self._commit_slowly()

    def _commit_slowly(self) -> None:
        self.connection.busy = False
        self.connection.run_alone(commit(self.template.request, self.run, self.connection))
