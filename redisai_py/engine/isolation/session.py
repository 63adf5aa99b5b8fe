"""A model in an engine process, behind the interface of `backend.Session`.

`run` is called on the engine's worker threads, like any session's, and sleeps while the process computes. If the
process ends, the culprit is determined: the model to blame gets an error and a strike; every other model is loaded
again and its run repeated, because a run has no effects. If several models were running, and none was killed for
exceeding its time, each is tried again in its own process, which decides.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from redisai_py.backend import Array, LoadOptions, Session, TensorSpec, load_backend
from redisai_py.engine.isolation import exchanges, memory
from redisai_py.engine.isolation.at_once import NotAtOnce
from redisai_py.engine.isolation.describing import specs_from_json
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.messages import RemoteArray, failure, outputs_of, request_of
from redisai_py.engine.isolation.pipe import Pipe
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.quarantine import Quarantine
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.isolation.wire import Op, Part
from redisai_py.engine.loader import load_session
from redisai_py.errors import BackendError, Overloaded, ProtocolError, RedisAIError
from redisai_py.model import Model

__all__ = ["Processes", "RemoteSession", "process_of"]

STOP_GRACE_S = 1.0
"""Seconds for a run that was told to stop, before its process is killed."""
_TRIES = 3
_PROMOTED_BYTES = 64 * 1024 * 1024
"""A larger model has no short runs, or is not worth a second load."""

logger = structlog.get_logger()


class Processes(Protocol):
    """The owner of the processes, as a session needs it; see `isolation.Isolation`."""

    settings: IsolationSettings
    quarantine: Quarantine
    closing: bool
    loop_thread: int
    versions: dict[str, str]
    name_of: Callable[[str], str]

    def next_number(self) -> int:
        """A number that no other model has."""

    def place(self, session: RemoteSession) -> EngineProcess:
        """A process for the model."""

    def leave(self, session: RemoteSession, process: EngineProcess) -> bool:
        """The model has left the process."""

    def later(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call this on another thread."""


class RemoteSession:
    """See above. Thread: any; call `load` first."""

    def __init__(self, isolation: Processes, model: Model, options: LoadOptions) -> None:
        self.identity = model.identity
        self.device = model.device
        self.backend = model.backend
        self.apart = False
        """It must have its own process."""
        self.struck = False
        """A process died because of it, and no run has succeeded since."""
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[str] = ()
        self.output_specs: Sequence[TensorSpec] = ()
        self.nbytes = 0
        self.stateful = self.loops = self.concurrent = False
        self.draws = self.branches = ""
        self.in_server = False
        """It has proved itself and runs in the server."""
        self._isolation = isolation
        self._model = model
        self._options = options
        self._number = isolation.next_number()
        self._process: EngineProcess | None = None
        self._local: Session | None = None
        self._lock = threading.Lock()
        self._closed = False
        self.ran_s = 0.0
        """Seconds in the framework of the latest run."""
        self._unfinished: tuple[EngineProcess, Lane] | None = None
        """A run that the event loop began and did not wait for."""
        self._good_runs = 0
        self._may_be_promoted = isolation.settings.isolation == "auto" and model.backend == "ONNX"

    @property
    def pid(self) -> int | None:
        """Id of the process; None while it is in none."""
        process = self._process
        return process.pid if process is not None and not process.dead else None

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the model in a process. Raises: RedisAIError."""
        with self._lock:
            self._load()

    def revive(self) -> None:
        """Load the model again if its process has ended; its next run reports errors."""
        with self._lock, contextlib.suppress(RedisAIError):
            if not self._closed and not self.in_server and self._process is not None and self._process.dead:
                self._load()

    def _where(self) -> EngineProcess:
        """The process in which the model is loaded; loads it again if the old one has ended."""
        process = self._process
        if process is None or process.dead:
            if process is not None:
                process.verdict()  # this model may have to be alone from now on
            with self._lock:
                process = self._process
                if process is None or process.dead:
                    process = self._load()
        return process

    def _load(self) -> EngineProcess:
        for attempt in range(1, _TRIES + 1):
            self._refuse_in_quarantine()
            process = self._isolation.place(self)
            try:
                limit_ms = self._isolation.settings.model_load_timeout_ms
                self._learn(exchanges.load(process, self, self._number, self._model, self._options, limit_ms))
            except ProcessEnded:
                self._isolation.leave(self, process)
                self._judge(process, attempt, in_load=True)
                continue
            except BaseException:
                self._isolation.leave(self, process)
                raise
            self._process = process
            return process
        raise AssertionError("unreachable")  # the last attempt has raised

    def _learn(self, told: dict[str, Any]) -> None:
        """Raises: KeyError, TypeError, ValueError: the process sent invalid data."""
        self.inputs = specs_from_json(told["inputs"])
        self.outputs = tuple(told["outputs"])
        self.output_specs = specs_from_json(told["output_specs"])
        self.nbytes = int(told["nbytes"])
        self.stateful = bool(told["stateful"])
        self.draws = str(told["draws"])
        self.branches = str(told["branches"])
        self.loops = bool(told["loops"])
        self.concurrent = bool(told["concurrent"])
        self._isolation.versions[self.backend] = str(told["version"])

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """See Session. Raises also: BackendError: the process ended, or the model is in quarantine. NotAtOnce: on the
        event loop's thread, which waits only for short runs.
        """
        if threading.get_ident() == self._isolation.loop_thread:
            return self._run_at_once(inputs)
        if self._unfinished is not None:
            self._finish()
        attempt = 0
        while True:
            if self.struck:
                self._refuse_in_quarantine()
            process = self._where()
            try:
                outputs = self._run_in(process, inputs, keep_on_device)
            except ProcessEnded as ended:
                attempt += 1
                self._judge(process, attempt, in_load=False, under_way=ended.under_way)
                continue
            if self.struck:
                self.struck = False
                self._isolation.quarantine.went_well(self.identity)
            return outputs

    def _run_in(self, process: EngineProcess, inputs: Sequence[Array], keep_on_device: bool) -> list[Array | None]:
        outputs, ran_ns = exchanges.run(
            process, self, self._number, inputs, keep_on_device, lambda part: self._held(part, process)
        )
        self.ran_s = ran_ns / 1e9
        if self._may_be_promoted:
            self._prove(ran_ns)
        return outputs

    def _run_at_once(self, inputs: Sequence[Array]) -> list[Array | None]:
        """Run it while the event loop waits. Raises: NotAtOnce: a worker thread must take it."""
        process = self._process
        if process is None or process.dead or self.struck or self.stateful or self._unfinished is not None:
            raise NotAtOnce
        request, data = request_of(inputs, process)
        if request.total > memory.LANE_BYTES:
            raise NotAtOnce
        try:
            lane = process.take_at_once(self)
        except (ProcessEnded, OSError):
            raise NotAtOnce from None
        try:
            answer = lane.exchange(Op.RUN, 0, self._number, request, data)
            if answer.op != Op.DONE:
                raise failure(answer)
            outputs = outputs_of(answer, lambda part: self._held(part, process))
        except (OSError, ProtocolError):  # no answer yet, or the process has ended
            self._unfinished = process, lane
            raise NotAtOnce from None
        except BaseException:
            process.give_back(lane)
            raise
        process.give_back(lane)
        self.ran_s = answer.number / 1e9
        if self._may_be_promoted:
            self._prove(answer.number)
        return outputs

    def _finish(self) -> None:
        """Wait for the end of a run that the event loop began, which will be repeated. Raises: RedisAIError."""
        with self._lock:
            unfinished, self._unfinished = self._unfinished, None
        if unfinished is None:  # another thread was faster
            return
        process, lane = unfinished
        try:
            lane.finish()
        except (OSError, ProtocolError):
            process.kill()
            process.lost()
            self._judge(process, 1, in_load=False)
        finally:
            process.give_back(lane)

    # -- runs that the event loop sends ahead --------------------------------------------------------------------------

    def ahead(self) -> EngineProcess | None:
        """The process, if runs may be sent to it by the event loop; None if a worker thread must look after them."""
        process = self._process
        doubtful = self.struck or self.in_server or self.stateful or self._unfinished is not None
        return None if process is None or process.dead or doubtful else process

    def open_pipe(self, process: EngineProcess) -> Pipe[Any]:
        """Raises: ProcessEnded, OSError."""
        return process.open_pipe(self, self._number)

    def ran_ahead(self, ran_ns: int) -> None:
        """A run that was sent ahead took so long in the framework."""
        self.ran_s = ran_ns / 1e9
        if self._may_be_promoted:
            self._prove(ran_ns)

    def why_it_ended(self, process: EngineProcess, nonsense: bool) -> RedisAIError | None:
        """A pipe to the process has ended, and so will the process. What a run under way there fails with; None if it
        may be repeated.

        nonsense: the process did not keep to the protocol.   Thread: any but the event loop's.
        """
        process.kill(self if nonsense else None, exchanges.NONSENSE)
        process.lost()
        try:
            self._judge(process, 1, in_load=False)
        except RedisAIError as error:
            return error
        return None

    def _held(self, part: Part, process: EngineProcess) -> RemoteArray:
        number = part.shape[0]
        value = RemoteArray(part, process, self.device.index or 0, lambda: self._fetch(number, process))
        weakref.finalize(value, self._isolation.later, self._drop, number, process).atexit = False
        return value

    def _fetch(self, number: int, process: EngineProcess) -> NDArray[Any]:
        """A value on the device. Raises: BackendError: its process has ended."""
        try:
            answer = exchanges.ask(process, self, Op.FETCH, number)
        except ProcessEnded as error:
            raise BackendError(self._text("its engine process ended, and the value on the device with it")) from error
        assert isinstance(answer, np.ndarray)
        return answer

    def _drop(self, number: int, process: EngineProcess) -> None:
        """Drop a value on the device."""
        with contextlib.suppress(BackendError, ProcessEnded):
            exchanges.ask(process, self, Op.DROP, number)

    # -- failures ------------------------------------------------------------------------------------------------------

    def _text(self, what: str) -> str:
        return f"ERR model '{self._isolation.name_of(self.identity)}': {what}"

    def _refuse_in_quarantine(self) -> None:
        if self._isolation.closing:
            raise Overloaded("ERR the server is shutting down")
        reason = self._isolation.quarantine.reason(self.identity)
        if reason:
            raise BackendError(self._text(f"it is in quarantine, since {reason}; store the model again to try it anew"))

    def _judge(self, process: EngineProcess, attempt: int, in_load: bool, under_way: bool = True) -> None:
        """The process ended under a run or load of this model. Returns if it may be repeated. Raises: RedisAIError."""
        if self._isolation.closing:
            raise Overloaded("ERR the server is shutting down")
        how = process.verdict()
        what = "loading" if in_load else "running"
        if process.culprit is self and under_way:
            self._refuse_in_quarantine()
            raise BackendError(self._text(f"its engine process died while {what} it ({how})"))
        if self.stateful and not in_load:
            raise BackendError(
                self._text(f"its engine process died ({how}) because of another model, and its state is lost")
            )
        if attempt >= _TRIES:
            raise BackendError(self._text(f"its engine process died {attempt} times while {what} it ({how})"))

    def terminate(self, thread_id: int | None = None) -> bool:
        """Stop a run, or all: ask the framework, and kill the process if that fails. Always True."""
        local, process = self._local, self._process
        if local is not None:
            return local.terminate(thread_id) if self.concurrent else local.terminate()  # type: ignore[call-arg]
        if process is not None:
            lanes = process.stop_runs(self, thread_id)
            if lanes:
                timer = threading.Timer(STOP_GRACE_S, self._kill_if_running, (process, lanes))
                timer.daemon = True
                timer.start()
        return True

    def _kill_if_running(self, process: EngineProcess, lanes: Sequence[Any]) -> None:
        if any(process.still_stopping(lane, self) for lane in lanes):
            process.kill(self, "SIGKILL: the run went on after MODEL_EXECUTION_TIMEOUT")

    # -- proving -------------------------------------------------------------------------------------------------------

    def _prove(self, run_ns: int) -> None:
        settings = self._isolation.settings
        if run_ns > settings.short_us * 1000:
            self._good_runs = max(0, self._good_runs - 1)
            return
        self._good_runs += 1
        if self._good_runs >= settings.proof_runs:
            self._may_be_promoted = False
            promoted = not (self.stateful or self.loops)  # a model with loops must stay where it can be stopped
            if promoted and self.device.kind == "CPU" and self.nbytes <= _PROMOTED_BYTES:
                self._isolation.later(self._promote)

    def _promote(self) -> None:
        """Load the model in the server too, run it there from now on, and leave the process."""
        try:
            local = load_session(self._model, self._options, load_backend)
        except RedisAIError as error:
            name = self._isolation.name_of(self.identity)
            logger.warning("a model stays in its process", model=name, reason=str(error))
            return
        with self._lock:
            if self._closed:
                local.close()
                return
            self._local = local
            self.run = local.run  # type: ignore[method-assign]  # no look-up more than for any other session
            self.in_server = True
            self._model = replace(self._model, blob=b"")  # never loaded again
            self._leave()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See Session."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._leave()
            if self._local is not None:
                self._local.close()

    def _leave(self) -> None:
        """Unload the model in its process, which ends if it was the last one."""
        process, self._process = self._process, None
        if process is None or self._isolation.leave(self, process):
            return
        exchanges.unload(process, self, self._number)


def process_of(session: Session) -> int:
    """The id of a session's engine process; 0 if it is in the server's own, or in none at this moment."""
    return (session.pid or 0) if isinstance(session, RemoteSession) else 0
