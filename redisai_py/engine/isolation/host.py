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
from collections.abc import Callable, Sequence
from typing import Any

from redisai_py.backend import (
    LoadOptions,
    load_backend,
    may_keep_state,
    may_loop,
    output_specs,
    what_branches,
    what_draws,
)
from redisai_py.blobs import FROM_FILE, Blob, ModelFile
from redisai_py.engine.isolation import memory, wire
from redisai_py.engine.isolation.describing import specs_to_json
from redisai_py.engine.isolation.host_messages import HeldValues, failure_of, json_message
from redisai_py.engine.isolation.host_pipe import HostPipe
from redisai_py.engine.isolation.hosted import Hosted
from redisai_py.engine.isolation.wire import Frame, Layout, Op
from redisai_py.engine.loader import load_session
from redisai_py.model import Model
from redisai_py.tensor import Device

__all__ = ["OPEN", "OPEN_PIPE", "ORDER", "STOP", "STOP_IN_PIPE", "serve"]

ORDER = struct.Struct("<BIQ")
"""On the control socket: what, the number of the lane or pipe, and of the model or the run."""
OPEN, STOP, OPEN_PIPE, STOP_IN_PIPE = 1, 2, 3, 4


def serve(control: socket.socket) -> None:
    """Work until the server closes the connection."""
    host = _Host()
    while True:
        order, fds, _, _ = socket.recv_fds(control, ORDER.size, 2)
        if len(order) != ORDER.size:
            return
        what, number, detail = ORDER.unpack(order)
        if what == OPEN:
            lane = host.lanes[number] = _Lane(socket.socket(fileno=fds[0]), fds[1], host)
            lane.thread.start()
        elif what == OPEN_PIPE:
            host.open_pipe(number, socket.socket(fileno=fds[0]), fds[1], detail)
        elif what == STOP:
            host.stop(number)
        elif (pipe := host.pipes.get(number)) is not None:
            pipe.stop(detail)


class _Host:
    """What the lanes share: loaded models, by number, and values on the device."""

    def __init__(self) -> None:
        self.lanes: dict[int, _Lane] = {}
        self.pipes: dict[int, HostPipe] = {}
        self.models: dict[int, Hosted] = {}
        self.held = HeldValues()

    def open_pipe(self, number: int, sock: socket.socket, fd: int, model: int) -> None:
        """Serve a pipe to a loaded model."""
        hosted = self.models.get(model)
        if hosted is None:  # it has been unloaded meanwhile
            sock.close()
            os.close(fd)
            return
        pipe = self.pipes[number] = HostPipe(sock, fd, hosted, self.held)
        pipe.thread.start()

    def stop(self, number: int) -> None:
        """Stop what a lane runs."""
        lane = self.lanes.get(number)
        running = lane.running if lane is not None else None
        if lane is not None and running is not None:
            running.terminate(lane.thread.ident)


class _Lane:
    """Handles one request after the other, on its own thread."""

    def __init__(self, sock: socket.socket, fd: int, host: _Host) -> None:
        self._sock = sock
        self._host = host
        self._shared = memory.mapped(fd, memory.LANE_FILE_BYTES)
        os.close(fd)
        both = memoryview(self._shared)
        self._requests = both[: memory.LANE_BYTES].toreadonly()
        self._answers = both[memory.LANE_BYTES : memory.RUNNING_AT]
        self._handlers: dict[int, Callable[[Frame, memoryview, list[int]], bytes | None]] = {
            Op.RUN: self._run,
            Op.LOAD: self._load,
            Op.CLOSE: self._close,
            Op.FETCH: self._fetch,
            Op.DROP: self._drop,
        }
        self.running: Hosted | None = None
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
        except BaseException as error:  # of whatever kind: the server is told, and gives it to the client
            answer = self._answer(Op.FAILED, self._ns, failure_of(error), ())
        finally:
            for fd in fds:
                os.close(fd)
        if answer is not None:
            self._sock.send(answer)
        return True

    # -- requests ------------------------------------------------------------------------------------------------------

    def _run(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        hosted = self._host.models.get(frame.number)
        if hosted is None:
            return self._answer(Op.FAILED, 0, json_message({"type": "gone", "text": ""}), ())
        held = self._host.held
        inputs = held.inputs(memory.parsed(bytes(request[: frame.header_bytes]), len(request)), request)
        with hosted.guard:
            self.running = hosted
            self._shared[memory.RUNNING_AT] = 1
            started = time.perf_counter_ns()
            try:
                outputs = hosted.session.run(inputs, bool(frame.flags & wire.KEEP))
            finally:
                self._ns = time.perf_counter_ns() - started
                self._shared[memory.RUNNING_AT] = 0
                self.running = None
        return self._answer(Op.DONE, self._ns, *held.outputs(outputs))

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
        self._host.models[frame.number] = Hosted(session)
        told = {
            "inputs": specs_to_json(session.inputs),
            "outputs": list(session.outputs),
            "output_specs": specs_to_json(output_specs(session)),
            "nbytes": int(session.nbytes),
            "stateful": may_keep_state(session),
            "draws": what_draws(session),
            "branches": what_branches(session),
            "loops": may_loop(session),
            "concurrent": bool(getattr(session, "concurrent", False)),
            "version": load_backend(model.backend).version,
        }
        return self._answer_json(Op.LOADED, told)

    def _close(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        hosted = self._host.models.pop(frame.number, None)
        if hosted is not None:
            for number in [number for number, pipe in list(self._host.pipes.items()) if pipe.hosted is hosted]:
                self._host.pipes.pop(number).close()
            with hosted.guard:  # a run may be under way, which the server repeats elsewhere
                hosted.session.close()
        return self._answer_json(Op.DONE, {})

    def _fetch(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        return self._answer(Op.DONE, 0, *self._host.held.outputs([self._host.held[frame.number].numpy()]))

    def _drop(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        self._host.held.drop(frame.number)
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
        return self._answer(op, self._ns, json_message(told), ())


def _blob(fds: list[int], size: int) -> Blob:
    """The model's bytes; a large one stays in its file."""
    if size >= FROM_FILE:
        return ModelFile.over_fd(fds.pop(0))
    fd = fds.pop(0)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
