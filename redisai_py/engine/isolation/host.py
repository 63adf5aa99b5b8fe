"""The engine process: it loads models and runs them, with one thread per lane.

A lane is a socket and a memory area that the server maps too (`wire`, `memory`), with one outstanding request. The main
thread reads orders from the control socket: a new lane, or a run to stop. When that socket ends, the server is gone,
and the process ends immediately.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from redisai_py.backend import (
    Array,
    DeviceArray,
    LoadOptions,
    Session,
    load_backend,
    may_keep_state,
    may_loop,
    output_specs,
    what_draws,
)
from redisai_py.blobs import FROM_FILE, Blob, ModelFile
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.describing import specs_to_json
from redisai_py.engine.isolation.wire import Frame, Layout, Op, Part
from redisai_py.engine.loader import load_session
from redisai_py.engine.merging import to_value
from redisai_py.errors import RedisAIError
from redisai_py.model import Model
from redisai_py.tensor import Device, DType, Tensor

__all__ = ["OPEN", "ORDER", "STOP", "serve"]

ORDER = struct.Struct("<BI")
"""On the control socket: kind of order, and the lane's number."""
OPEN, STOP = 1, 2

_NUMPYS_OWN = {dtype.numpy_dtype for dtype in DType if dtype is not DType.STRING}
_ERRORS = {"ShapeMismatch", "BackendNotInstalled", "BackendError", "RedisAIError"}


def serve(control: socket.socket) -> None:
    """Work until the server closes the connection."""
    host = _Host()
    while True:
        order, fds, _, _ = socket.recv_fds(control, ORDER.size, 2)
        if len(order) != ORDER.size:
            return
        what, number = ORDER.unpack(order)
        if what == OPEN:
            lane = _Lane(socket.socket(fileno=fds[0]), fds[1], host)
            host.lanes[number] = lane
            lane.thread.start()
        else:
            host.stop(number)


class _Host:
    """Shared by the lanes: loaded models, and values on the device, by number."""

    def __init__(self) -> None:
        self.lanes: dict[int, _Lane] = {}
        self.sessions: dict[int, Session] = {}
        self.held: dict[int, DeviceArray] = {}
        self._numbers = 0
        self._lock = threading.Lock()

    def hold(self, value: DeviceArray) -> int:
        """Keep a value on the device. Returns: its number."""
        with self._lock:
            self._numbers += 1
            self.held[self._numbers] = value
            return self._numbers

    def stop(self, number: int) -> None:
        """Stop a lane's run. If the framework cannot stop, the server kills the process."""
        lane = self.lanes.get(number)
        session = lane.running if lane is not None else None
        if lane is None or session is None:
            return
        try:
            if getattr(session, "concurrent", False) and not may_keep_state(session):
                session.terminate(lane.thread.ident)  # type: ignore[call-arg]  # a ConcurrentSession's
            else:
                session.terminate()
        except Exception:
            traceback.print_exc()


class _Lane:
    """Handles one request after the other, on its own thread."""

    def __init__(self, sock: socket.socket, fd: int, host: _Host) -> None:
        self._sock = sock
        self._host = host
        self._shared = memory.mapped(fd, 2 * memory.LANE_BYTES)
        os.close(fd)
        both = memoryview(self._shared)
        self._requests = both[: memory.LANE_BYTES].toreadonly()
        self._answers = both[memory.LANE_BYTES :]
        self._handlers: dict[int, Callable[[Frame, memoryview, list[int]], bytes | None]] = {
            Op.RUN: self._run,
            Op.LOAD: self._load,
            Op.CLOSE: self._close,
            Op.FETCH: self._fetch,
            Op.DROP: self._drop,
        }
        self.running: Session | None = None
        self._ns = 0
        self.thread = threading.Thread(target=self._work, name="redisai lane", daemon=True)

    def _work(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        data, ancillary, _, _ = self._sock.recvmsg(wire.FRAME.size, 64)
        if not data:
            return False
        frame = Frame.unpack(data)
        fds = [fd for _, _, raw in ancillary for fd in struct.unpack(f"{len(raw) // 4}i", raw)]
        self._ns = 0
        try:
            request = self._requests
            if frame.flags & wire.LARGE:
                request = memoryview(memory.mapped(fds[0], frame.total_bytes)).toreadonly()
                os.close(fds.pop(0))
            answer = self._handlers[frame.op](frame, request, fds)
        except BaseException as error:  # of any kind: the server passes it on to the client
            answer = self._failed(error)
        finally:
            for fd in fds:
                os.close(fd)
        if answer is not None:
            self._sock.send(answer)
        return True

    # -- requests ------------------------------------------------------------------------------------------------------

    def _run(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        session = self._host.sessions[frame.number]
        inputs = self._inputs(memory.parsed(bytes(request[: frame.header_bytes]), len(request)), request)
        self.running = session
        started = time.perf_counter_ns()
        try:
            outputs = session.run(inputs, bool(frame.flags & wire.KEEP))
        finally:
            self._ns = time.perf_counter_ns() - started
            self.running = None
        return self._outputs(outputs)

    def _inputs(self, parts: Sequence[Part], request: memoryview) -> list[Array]:
        inputs: list[Array] = []
        for part in parts:
            if part.code == wire.ON_DEVICE:
                inputs.append(self._host.held[part.shape[0]])
            else:
                array = memory.array_at(request, part, own=False)
                assert array is not None
                inputs.append(array)
        return inputs

    def _outputs(self, outputs: Sequence[Any]) -> bytes | None:
        if all(isinstance(output, np.ndarray) and output.dtype in _NUMPYS_OWN for output in outputs):
            return self._answer(Op.DONE, self._ns, memory.sized(outputs), outputs)
        parts: list[Part] = []
        data: list[Any] = []
        for output in outputs:
            value = to_value(output)
            if isinstance(value, Tensor):
                parts.append(Part(wire.code_of(value.dtype), value.shape, len(value.data)))
                data.append(bytes(value.data))
            elif value is None:
                parts.append(Part(wire.NONE, (), 0))
                data.append(None)
            else:
                parts.append(Part(wire.ON_DEVICE, (self._host.hold(value), *value.shape), value.nbytes))
                data.append(None)
        return self._answer(Op.DONE, self._ns, wire.layout([_without_data(part) for part in parts]), data)

    def _load(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        asked = json.loads(bytes(request[: frame.header_bytes]))
        blob = _blob(fds, asked["blob_bytes"])
        model = Model(
            id="",
            backend=asked["backend"],
            device=Device(*asked["device"]),
            tag=b"",
            batchsize=0,
            minbatchsize=0,
            minbatchtimeout_ms=0,
            inputs=tuple(asked["inputs"]),
            outputs=tuple(asked["outputs"]),
            blob=blob,
            signature=asked["signature"],
        )
        session = load_session(model, LoadOptions(*asked["options"]), load_backend)
        self._host.sessions[frame.number] = session
        told = {
            "inputs": specs_to_json(session.inputs),
            "outputs": list(session.outputs),
            "output_specs": specs_to_json(output_specs(session)),
            "nbytes": int(session.nbytes),
            "stateful": may_keep_state(session),
            "draws": what_draws(session),
            "loops": may_loop(session),
            "concurrent": bool(getattr(session, "concurrent", False)),
            "version": load_backend(model.backend).version,
        }
        return self._answer_json(Op.LOADED, told)

    def _close(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        session = self._host.sessions.pop(frame.number, None)
        if session is not None:
            session.close()
        return self._answer_json(Op.DONE, {})

    def _fetch(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        return self._outputs([self._host.held[frame.number].numpy()])

    def _drop(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        self._host.held.pop(frame.number, None)
        return self._answer_json(Op.DONE, {})

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answer(self, op: int, number: int, found: Layout, data: Sequence[Any]) -> bytes | None:
        """Put the message where the server reads it. Returns: the frame to send, or None if it was sent."""
        if found.total <= memory.LANE_BYTES:
            memory.write(self._answers, found, data)
            return Frame(op, 0, len(found.header), number, found.total).pack()
        fd = memory.create(found.total)
        try:
            with memory.mapped(fd, found.total) as file, memoryview(file) as view:
                memory.write(view, found, data)
            frame = Frame(op, wire.LARGE, len(found.header), number, found.total)
            socket.send_fds(self._sock, [frame.pack()], [fd])
        finally:
            os.close(fd)
        return None

    def _answer_json(self, op: int, told: dict[str, Any]) -> bytes | None:
        header = json.dumps(told).encode()
        return self._answer(op, self._ns, Layout(header, (), wire.aligned(len(header))), ())

    def _failed(self, error: BaseException) -> bytes | None:
        if isinstance(error.__cause__, MemoryError):  # in a load, whose errors already have the framework's text
            told = {"type": "memory", "text": str(error).removeprefix("ERR ")}
        elif isinstance(error, RedisAIError) and type(error).__name__ in _ERRORS:
            told = {"type": type(error).__name__, "text": str(error)}
        else:
            traceback.print_exc()  # a plugin's own failure: logged like that of a run in the server
            text = str(error).replace("\n", " ").replace("\r", " ")
            text = text if text.strip() else type(error).__name__
            told = {"type": "memory" if isinstance(error, MemoryError) else "plugin", "text": text}
        error.__traceback__ = None
        return self._answer_json(Op.FAILED, told)


def _without_data(part: Part) -> Part:
    """A value on the device has a size, but no data in the message."""
    return part._replace(nbytes=0) if part.code == wire.ON_DEVICE else part


def _blob(fds: list[int], size: int) -> Blob:
    """The model's bytes; a large one stays in its file."""
    if size >= FROM_FILE:
        return ModelFile.over_fd(fds.pop(0))
    fd = fds.pop(0)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
