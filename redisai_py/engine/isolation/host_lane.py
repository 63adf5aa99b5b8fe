"""A lane's far end, in the engine process: one request after the other, on a thread of its own."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redisai_py.backend import (
    LoadOptions,
    Session,
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
from redisai_py.engine.isolation.hosted import Hosted, Unloaded
from redisai_py.engine.isolation.vital import VitalThread
from redisai_py.engine.isolation.wire import Frame, Layout, Op
from redisai_py.engine.loader import load_session
from redisai_py.model import Model
from redisai_py.tensor import Device

__all__ = ["HostDoor", "HostLane"]


class HostDoor(Protocol):
    """What a front door has in this process; see `host.Door`. The numbers are the front door's of its sessions."""

    held: HeldValues
    models: dict[int, Hosted]

    def load(self, session: int, program: int, build: Callable[[], Session]) -> tuple[Hosted, bool]:
        """Load a model; True if it was there."""

    def unload(self, session: int) -> None:
        """Unload a model."""

    def look_after_others(self) -> None:
        """After a load; see `hosted.Programs.look_after_others`."""


class HostLane:
    """Handles one request after the other, on its own thread."""

    def __init__(self, sock: socket.socket, fd: int, door: HostDoor) -> None:
        self._sock = sock
        self._door = door
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
        self.thread = VitalThread(self._work, "redisai lane")

    def stop(self) -> None:
        """Stop what it runs."""
        running = self.running
        if running is not None:
            running.terminate(self.thread.ident)

    @property
    def is_running(self) -> bool:
        """Whether it is in a run. A load is none."""
        return self.running is not None

    def hang_up(self) -> None:
        """Stop what it runs; the thread ends."""
        with suppress(OSError):  # the front door was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        self.stop()

    def _work(self) -> None:
        with suppress(OSError):  # the front door has hung up
            while self._serve_one():
                pass
        self._sock.close()

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
        hosted = self._door.models.get(frame.number)
        if hosted is None:
            raise Unloaded
        held = self._door.held
        inputs = held.inputs(memory.parsed(bytes(request[: frame.header_bytes]), len(request)), request)
        with hosted.guard:
            self.running = hosted
            if hosted.exclusive:
                memory.STAMP.pack_into(self._shared, memory.TURN_AT, time.monotonic_ns())
            self._shared[memory.RUNNING_AT] = 1
            started = time.perf_counter_ns()
            try:
                outputs = hosted.run(inputs, bool(frame.flags & wire.KEEP))
            finally:
                self._ns = time.perf_counter_ns() - started
                self._shared[memory.RUNNING_AT] = 0
                self.running = None
        return self._answer(Op.DONE, self._ns, *held.outputs(outputs))

    def _load(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        asked = json.loads(bytes(request[: frame.header_bytes]))

        def build() -> Session:
            self._shared[memory.RUNNING_AT] = 1
            try:
                session = load_session(_model(asked, fds), LoadOptions(*asked["options"]), load_backend)
                self._door.look_after_others()
                return session
            finally:
                self._shared[memory.RUNNING_AT] = 0

        hosted, was_there = self._door.load(frame.number, asked["program"], build)
        session = hosted.session
        description = {
            "inputs": specs_to_json(session.inputs),
            "outputs": list(session.outputs),
            "output_specs": specs_to_json(output_specs(session)),
            "nbytes": int(session.nbytes),
            "stateful": may_keep_state(session),
            "draws": what_draws(session),
            "branches": what_branches(session),
            "loops": may_loop(session),
            "concurrent": bool(getattr(session, "concurrent", False)),
            "version": load_backend(asked["backend"]).version,
            "was_there": was_there,
        }
        return self._answer_json(Op.LOADED, description)

    def _close(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        self._door.unload(frame.number)
        return self._answer_json(Op.DONE, {})

    def _fetch(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        return self._answer(Op.DONE, 0, *self._door.held.outputs([self._door.held[frame.number].numpy()]))

    def _drop(self, frame: Frame, request: memoryview, fds: list[int]) -> bytes | None:
        self._door.held.drop(frame.number)
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

    def _answer_json(self, op: int, fields: dict[str, Any]) -> bytes | None:
        return self._answer(op, self._ns, json_message(fields), ())


def _model(asked: dict[str, Any], fds: list[int]) -> Model:
    return Model(
        id="",
        backend=asked["backend"],
        device=Device(*asked["device"]),
        tag=b"",
        batchsize=0,
        minbatchsize=0,
        minbatchtimeout_ms=0,
        inputs=tuple(asked["inputs"]),
        outputs=tuple(asked["outputs"]),
        blob=_blob(fds, asked["blob_bytes"]),
        signature=asked["signature"],
    )


def _blob(fds: list[int], size: int) -> Blob:
    """The model's bytes; a large one stays in its file."""
    if size >= FROM_FILE:
        return ModelFile.over_fd(fds.pop(0))
    fd = fds.pop(0)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
