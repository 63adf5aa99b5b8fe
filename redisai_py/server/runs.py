"""AI.MODELEXECUTE where everything it reads is near: no round trip before the run, one after it, and no coroutine.

The inputs and the model's id come from the near cache, the run starts at once, its outputs are written, and Redis's
answer to that write is also the proof that nothing used had changed when the command arrived: had it, the
invalidation would have come first. Otherwise the command runs again from Redis, before anything is replied. Whatever
is not plain (a miss, a large value, a user without scripts, an output that is no tensor) takes the long way,
`handlers.models`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from redisai_py.commands.models import ModelExecute
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.errors import DeadlineExceeded, RedisAIError, UpstreamError
from redisai_py.resp import Command, encode_command
from redisai_py.resp_reply import TIMEDOUT
from redisai_py.server.handlers import handle
from redisai_py.server.upstream import SharedUpstream
from redisai_py.store import codec
from redisai_py.store.near import Entry, NearCache
from redisai_py.store.scripts import SET_TENSORS_SHA, format_set_prefix
from redisai_py.store.store import LARGE_VALUE
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["ExecuteModel"]

_OK = (b"+OK\r\n",)
_PING = b"*1\r\n$4\r\nPING\r\n"

Used = list[tuple[bytes, Entry]]


class ExecuteModel:
    """AI.MODELEXECUTE, AI.MODELRUN."""

    __slots__ = ("request",)
    is_ai = True

    def __init__(self, request: ModelExecute) -> None:
        self.request = request

    def start(self, connection: Connection, command: Command, payload: bytes | None) -> bool:
        if not connection.idle:
            return False
        access = connection.session.access
        if access is not None and access.near is not None and access.scripting:
            shared = access.shared
            if shared is not None and not shared.closed and self._start_near(connection, access.near, shared):
                return True
        return connection.run_alone(handle(self.request, connection))

    def _start_near(self, connection: Connection, near: NearCache, shared: SharedUpstream) -> bool:
        request = self.request
        entries = near.entries
        entry = entries.get(request.key)
        if entry is None or type(entry.value) is not str:
            return False
        used: Used = [(request.key, entry)]
        loaded = connection.server.engine.loaded(entry.value)
        if loaded is None or not _fits(loaded, request):
            return False
        inputs: list[Tensor] = []
        for key in request.inputs:
            entry = entries.get(key)
            if entry is None or type(entry.value) is not Tensor or entry.deadline < time.monotonic():
                return False
            used.append((key, entry))
            inputs.append(entry.value)
        connection.busy = True
        run = connection.server.engine.run_model(loaded, inputs, request.timeout_ms)
        connection.cancel_run = run.cancel_queued
        execution = _Execution(request, connection, near, shared, used)
        if run.done:
            execution.ran(run)
        else:
            run.waiter = execution.ran  # type: ignore[assignment]  # a Run is a Pending
        return True


def _fits(loaded: LoadedModel, request: ModelExecute) -> bool:
    return len(loaded.inputs) == len(request.inputs) and len(loaded.outputs) == len(request.outputs)


class _Execution:
    """One command under way."""

    __slots__ = ("connection", "near", "outputs", "request", "shared", "used")

    def __init__(
        self, request: ModelExecute, connection: Connection, near: NearCache, shared: SharedUpstream, used: Used
    ) -> None:
        self.request = request
        self.connection = connection
        self.near = near
        self.shared = shared
        self.used = used
        self.outputs: list[tuple[bytes, Tensor, int]] = []

    def ran(self, run: Run) -> None:
        connection = self.connection
        connection.cancel_run = None
        if connection.gone:
            return
        error = run.error
        try:
            if error is not None:
                self._failed(error)
            else:
                self._write(run.value)
        except UpstreamError as lost:
            connection.finish_alone(lost)

    def _write(self, outputs: Any) -> None:
        values: list[bytes] = []
        for key, tensor in zip(self.request.outputs, outputs, strict=True):
            if type(tensor) is not Tensor or len(tensor.data) >= LARGE_VALUE:
                self._again()
                return
            header = codec.encode_header(tensor)
            value = b"".join((header, tensor.data))
            # The cached tensor looks into the bytes that were sent: a view of the run's own output would keep alive the
            # whole batch that it was part of.
            kept = Tensor(tensor.dtype, tensor.shape, memoryview(value)[len(header) :])
            self.outputs.append((key, kept, len(value)))
            values.append(value)
        if len(values) == 1:
            prefix = format_set_prefix(self.request.outputs[0], b"", len(values[0]))
            self.shared.send(b"".join((prefix, values[0], b"\r\n")), self._stored)
        else:
            words = (b"EVALSHA", SET_TENSORS_SHA, b"%d" % len(values), *self.request.outputs, *values)
            self.shared.send(b"".join(encode_command(list(words))), self._stored)

    def _stored(self, reply: Any) -> None:
        connection = self.connection
        if reply != b"OK":
            # Refused, or lost on the way: the long way finds out which, and repeats nothing that was written.
            if isinstance(reply, UpstreamError):
                connection.finish_alone(reply)
            else:
                self._again()
            return
        if not self.near.unchanged(self.used):
            self._again()
            return
        for key, tensor, size in self.outputs:
            self.near.put(key, tensor, size)
        connection.busy = False
        connection.write(_OK)
        connection.after_work()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DeadlineExceeded) and str(error) == "TIMEDOUT":
            self.connection.finish_alone(TIMEDOUT)
            return
        self.shared.send(_PING, partial(self._confirmed, error))

    def _confirmed(self, error: BaseException, reply: Any) -> None:
        """The run failed on what was near; that counts if it was what Redis holds."""
        if self.near.unchanged(self.used):
            self.connection.finish_alone(error if isinstance(error, RedisAIError) else self.connection.failure(error))
        else:
            self._again()

    def _again(self) -> None:
        connection = self.connection
        connection.busy = False
        if not connection.gone:
            for key, entry in self.used:
                if self.near.entries.get(key) is entry:
                    self.near.drop(key)
            connection.run_alone(handle(self.request, connection))
