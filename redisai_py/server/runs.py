"""AI.MODELEXECUTE where everything it reads is near: the run starts at once, and without a coroutine.

The inputs and the model's id come from the near cache, and a TOUCH of their keys is sent while the model runs. Redis's
answer is the proof that nothing used had changed when the command arrived: had it, the invalidation would have come
first. Only then are the outputs written: an output of an old input must not be seen by anybody, and must not overwrite
what an acknowledged write left under the same key. If something had changed, the command runs again from Redis.
Whatever is not plain (a miss, a large value, a user without scripts, an output that is no tensor) takes the long way,
`handlers.models`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from redisai_py.commands.models import ModelExecute
from redisai_py.engine.registry import LoadedModel
from redisai_py.engine.run import Run
from redisai_py.errors import DeadlineExceeded, RedisAIError, UpstreamError
from redisai_py.resp import Command, encode_command
from redisai_py.resp_reply import OK, TIMEDOUT
from redisai_py.server.handlers import handle
from redisai_py.server.upstream import SharedUpstream
from redisai_py.store import codec
from redisai_py.store.near import Entry, NearCache, format_touch
from redisai_py.store.scripts import SET_TENSORS_SHA, format_set_prefix
from redisai_py.store.store import LARGE_VALUE
from redisai_py.tensor import Tensor

if TYPE_CHECKING:
    from redisai_py.server.connection import Connection

__all__ = ["ExecuteModel"]

_OK = (b"+OK\r\n",)

Used = list[tuple[bytes, Entry]]


class ExecuteModel:
    """AI.MODELEXECUTE, AI.MODELRUN."""

    __slots__ = ("_touch", "request")
    is_ai = True

    def __init__(self, request: ModelExecute) -> None:
        self.request = request
        self._touch = format_touch((request.key, *request.inputs))

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
        now = time.monotonic()
        entry = entries.get(request.key)
        if entry is None or type(entry.value) is not str or entry.deadline < now:
            return False
        used: Used = [(request.key, entry)]
        loaded = connection.server.engine.loaded(entry.value)
        if loaded is None or not _fits(loaded, request):
            return False
        inputs: list[Tensor] = []
        for key in request.inputs:
            entry = entries.get(key)
            if entry is None or type(entry.value) is not Tensor or entry.deadline < now:
                return False
            used.append((key, entry))
            inputs.append(entry.value)
        connection.busy = True
        execution = _Execution(request, connection, near, shared, used)
        shared.send(self._touch, execution.touched)
        run = execution.run = connection.server.engine.run_model(loaded, inputs, request.timeout_ms)
        connection.cancel_run = run.cancel_queued
        if run.done:
            execution.ran(run)
        else:
            run.waiter = execution.ran  # type: ignore[assignment]  # a Run is a Pending
        return True


def _fits(loaded: LoadedModel, request: ModelExecute) -> bool:
    return len(loaded.inputs) == len(request.inputs) and len(loaded.outputs) == len(request.outputs)


class _Execution:
    """One command under way. It goes on when the run has ended and the reply to TOUCH has come, in either order."""

    __slots__ = ("confirmed", "connection", "near", "outputs", "over", "request", "run", "shared", "used")

    def __init__(
        self, request: ModelExecute, connection: Connection, near: NearCache, shared: SharedUpstream, used: Used
    ) -> None:
        self.request = request
        self.connection = connection
        self.near = near
        self.shared = shared
        self.used = used
        self.run: Run | None = None
        self.confirmed = False
        self.over = False  # answered, or begun again: what still comes is of no interest
        self.outputs: list[tuple[bytes, Tensor, int]] = []

    def touched(self, reply: Any) -> None:
        """What was used is what Redis held after the command's arrival, or not."""
        if self.over or self.connection.gone:
            return
        if reply != len(self.used) or not self.near.unchanged(self.used):
            # Nothing is written yet, so this is right too where Redis was lost, or refused this user the TOUCH.
            self._again()
            return
        self.confirmed = True
        run = self.run
        if run is not None and run.done:
            self._go_on(run)

    def ran(self, run: Run) -> None:
        connection = self.connection
        if self.over or connection.gone:
            return
        connection.cancel_run = None
        error = run.error
        if isinstance(error, DeadlineExceeded) and str(error) == "TIMEDOUT":
            self.over = True
            connection.finish_alone(TIMEDOUT)
        elif self.confirmed:
            self._go_on(run)

    def _go_on(self, run: Run) -> None:
        error = run.error
        if error is not None:
            self.connection.finish_alone(error if isinstance(error, RedisAIError) else self.connection.failure(error))
            return
        try:
            self._write(run.value)
        except UpstreamError:  # gone since: nothing was written
            self._again()

    def _write(self, outputs: Any) -> None:
        values: list[bytes] = []
        for key, tensor in zip(self.request.outputs, outputs, strict=True):
            if type(tensor) is not Tensor or len(tensor.data) >= LARGE_VALUE:
                self._write_long(outputs)
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
            # Refused: the store's way finds out why, and nothing was written. Lost on the way: nothing is repeated.
            run = self.run
            if isinstance(reply, UpstreamError) or run is None:
                connection.finish_alone(reply)
            else:
                self._write_long(run.value)
            return
        for key, tensor, size in self.outputs:
            self.near.put(key, tensor, size)
        connection.busy = False
        connection.write(_OK)
        connection.after_work()

    def _write_long(self, outputs: Any) -> None:
        """Write what does not go in one command; the run itself stands, and is not repeated."""
        connection = self.connection
        connection.busy = False
        if not connection.gone:
            connection.run_alone(self._put(outputs))

    async def _put(self, outputs: Any) -> Any:
        access = await self.connection.session.authenticated()
        pairs = zip(self.request.outputs, outputs, strict=True)
        await access.store.put_tensors([(key, tensor) for key, tensor in pairs if tensor is not None])
        return OK

    def _again(self) -> None:
        self.over = True
        connection = self.connection
        if connection.cancel_run is not None:
            cancel, connection.cancel_run = connection.cancel_run, None
            cancel()
        connection.busy = False
        if not connection.gone:
            for key, entry in self.used:
                if self.near.entries.get(key) is entry:
                    self.near.drop(key)
            connection.run_alone(handle(self.request, connection))
