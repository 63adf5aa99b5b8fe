"""A model in an engine process, behind the interface of `backend.Session`.

`run` is called on the engine's worker threads, like any session's, and sleeps while the process computes. If the
process ends, the culprit is determined: the model to blame gets an error and a strike; every other model is loaded
again and its run repeated, because a run has no effects. If several models were running, and none was killed for
exceeding its time, each is tried again in its own process, which decides.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog

from redisai_py.backend import Array, LoadOptions, Session, TensorSpec
from redisai_py.engine.isolation import device_values, exchanges, memory
from redisai_py.engine.isolation.describing import learn
from redisai_py.engine.isolation.inline_runs import WouldBlock
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.messages import ModelGone, RemoteArray, failure, outputs_of, request_of
from redisai_py.engine.isolation.pipe import Pipe
from redisai_py.engine.isolation.processes import EngineProcess, ProcessEnded
from redisai_py.engine.isolation.promotion import Proof, load_here, terminate
from redisai_py.engine.isolation.session_owner import SessionOwner
from redisai_py.engine.isolation.wire import Op, Part
from redisai_py.errors import BackendError, MemoryLimitExceeded, Overloaded, ProtocolError, RedisAIError
from redisai_py.model import Model

__all__ = ["RemoteSession"]

STOP_GRACE_S = 1.0
"""Seconds for a run that was told to stop, before its process is killed."""
_TRIES = 3

logger = structlog.get_logger()


class RemoteSession:
    """See above. Thread: any; call `load` first."""

    def __init__(self, isolation: SessionOwner, model: Model, options: LoadOptions) -> None:
        self.identity = model.identity
        self.device = model.device
        self.backend = model.backend
        self.apart = False  # it must have its own process
        self.full = 0  # number of a process that refused it memory
        self.struck = False  # a process died because of it, and no run has succeeded since
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[str] = ()
        self.output_specs: Sequence[TensorSpec] = ()
        self.nbytes = 0
        self.stateful = self.loops = self.concurrent = False
        self.was_there = False  # in its process, for another front door
        self.draws = self.branches = ""
        self.in_server = False  # where it runs once it has proved itself
        self._isolation = isolation
        self.model = model
        self._options = options
        self.number = isolation.next_number()
        self._process: EngineProcess | None = None
        self._local: Session | None = None
        self._lock = threading.Lock()
        self._closed = False
        self.ran_s = 0.0  # in the framework, of the latest run
        self._unfinished: tuple[EngineProcess, Lane] | None = None  # a run that the event loop began and left
        self._proof = Proof(isolation.settings, model.backend)

    @property
    def process(self) -> EngineProcess | None:
        """The process that it is in at this moment."""
        process = self._process
        return None if process is None or process.dead else process

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
        if process is not None and process.number == self.full:
            self._replace(process)
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
        for attempt in itertools.count(1):  # `_judge` and `refused_memory` end it
            self._refuse_in_quarantine()
            process = self._isolation.place(self)
            try:
                limit_ms = self._isolation.settings.model_load_timeout_ms
                description = exchanges.load(process, self, self.number, self.model, self._options, limit_ms)
                self._isolation.versions[self.backend] = learn(self, description)
            except ProcessEnded:
                self._isolation.leave(self, process)
                self._judge(process, attempt, in_load=True)
                continue
            except MemoryLimitExceeded as error:
                self._isolation.leave(self, process)
                self.refused_memory(error, process)
                continue
            except BaseException:
                self._isolation.leave(self, process)
                raise
            self._process = process
            return process
        raise AssertionError("unreachable")

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """See Session. Raises also: BackendError: the process ended, or the model is in quarantine. WouldBlock: on the
        event loop's thread, which waits only for short runs.
        """
        if threading.get_ident() == self._isolation.loop_thread:
            return self._run_inline(inputs)
        if self._unfinished is not None:
            self._finish()
        for attempt in itertools.count(1):
            if self.struck:
                self._refuse_in_quarantine()
            process = self._where()
            try:
                return self._run_in(process, inputs, keep_on_device)
            except ProcessEnded as ended:
                self._judge(process, attempt, in_load=False, under_way=ended.under_way)
            except ModelGone:  # it has moved meanwhile
                pass
            except MemoryLimitExceeded as error:
                self.refused_memory(error, process)
            if self.in_server:
                break
        return self._run_here(inputs, keep_on_device)

    def _run_in(self, process: EngineProcess, inputs: Sequence[Array], keep_on_device: bool) -> list[Array | None]:
        held = partial(self._held, process)
        outputs, ran_ns = exchanges.run(process, self, self.number, inputs, keep_on_device, held)
        self.ran(ran_ns, well=True)
        if self.struck:
            self.struck = False
            self._isolation.went_well(self.identity)
        return outputs

    def _run_inline(self, inputs: Sequence[Array]) -> list[Array | None]:
        """Run it while the event loop waits. Raises: WouldBlock: a worker thread must take it."""
        process = self._process
        if process is None or process.dead or self.struck or self.stateful or self._unfinished is not None:
            raise WouldBlock
        request, data = request_of(inputs, process)
        if request.total > memory.LANE_BYTES:
            raise WouldBlock
        try:
            lane = process.take_inline(self)
        except (ProcessEnded, OSError):
            raise WouldBlock from None
        try:
            answer = lane.exchange(Op.RUN, 0, self.number, request, data)
            if answer.op != Op.DONE:
                raise failure(answer)
            outputs = outputs_of(answer, partial(self._held, process))
        except (OSError, ProtocolError):  # no answer yet, or the process has ended
            self._unfinished = process, lane
            raise WouldBlock from None
        except BaseException as error:
            process.give_back(lane)
            if isinstance(error, ModelGone | MemoryLimitExceeded):  # the run that follows finds out what to do
                raise WouldBlock from None
            raise
        process.give_back(lane)
        self.ran(answer.number, well=True)
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

    def beside(self) -> EngineProcess | None:
        """The process that may share the runs of a model in the server, if there is one; see `pipes.offloading`."""
        process = self._process
        return process if self.in_server and process is not None and not process.dead else None

    def want_beside(self, wanted: bool) -> None:
        """Have such a process from now on, or none."""
        self._isolation.later(self._set_beside, wanted)

    def _set_beside(self, wanted: bool) -> None:
        with self._lock, contextlib.suppress(RedisAIError):  # then the server goes on alone
            if self.in_server and not self._closed and wanted == (self.beside() is None):
                self._load() if wanted else self._leave()

    def open_pipe(self, process: EngineProcess) -> Pipe[Any]:
        """Raises: ProcessEnded, OSError."""
        return process.open_pipe(self, self.number)

    def why_it_ended(self, process: EngineProcess, nonsense: bool) -> RedisAIError | None:
        """A pipe to the process has ended, and so will the process. What a run under way there fails with; None if it
        may be repeated.

        nonsense: the process did not keep to the protocol.   Thread: any but the event loop's.
        """
        if self._process is not process and not (nonsense or process.dead):
            return None  # the model has left the process, which goes on for others
        process.kill(self if nonsense else None, exchanges.NONSENSE)
        process.lost()
        try:
            self._judge(process, 1, in_load=False)
        except RedisAIError as error:
            return error
        return None

    def _held(self, process: EngineProcess, part: Part) -> RemoteArray:
        return device_values.held(part, process, self.device.index or 0, self, self._isolation.later, self._text)

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
        if process.blames(self) and under_way:
            self._distrust()
            self._refuse_in_quarantine()
            raise BackendError(self._text(f"its engine process died while {what} it ({how})"))
        if self.stateful and not in_load:
            why = f"its engine process died ({how}) because of another model, and its state is lost"
            raise BackendError(self._text(why))
        if attempt >= _TRIES:
            raise BackendError(self._text(f"its engine process died {attempt} times while {what} it ({how})"))

    def terminate(self, thread_id: int | None = None) -> bool:
        """Stop a run, or all: ask the framework, and kill the process if that fails. False: there is no process."""
        local, process = self._local, self._process
        if local is not None and terminate(local, self.concurrent, thread_id):
            return True
        if process is not None:  # also of a model that runs here: see `_run_here`
            lanes = process.stop_runs(self, thread_id)
            if lanes:
                timer = threading.Timer(STOP_GRACE_S, self._kill_if_running, (process, lanes))
                timer.daemon = True
                timer.start()
        return local is None or process is not None

    def _kill_if_running(self, process: EngineProcess, lanes: Sequence[Any]) -> None:
        if going_on := [lane for lane in lanes if process.still_stopping(lane, self)]:
            guilty = not process.shared or any(lane.under_way for lane in going_on)
            process.kill(self if guilty else None, "SIGKILL: the run went on after MODEL_EXECUTION_TIMEOUT")

    # -- moving --------------------------------------------------------------------------------------------------------

    def ran(self, run_ns: int, well: bool) -> None:
        """A run in a process took so long in the framework."""
        self.ran_s = run_ns / 1e9
        if well and self._proof.wanted and self._proof.ran(run_ns, self):
            self._isolation.later(self._promote)

    def _promote(self) -> None:
        """Load the model in the server too, run it there from now on, and leave the process."""
        try:
            local = load_here(self.model, self._options, self._isolation.settings.front_doors)
        except RedisAIError as error:
            logger.info("a model stays in its process", reason=self._text(str(error)))
            return
        with self._lock:
            if self._closed:
                local.close()
                return
            if self._local is not None:  # see `_distrust`
                self._local.close()
            self._local = local
            self.run = self._run_here  # type: ignore[method-assign]  # no look-up more than for any other session
            self.in_server = True
            self._leave()

    def _distrust(self) -> None:
        """It was to blame for the end of a process: it must prove itself again before it runs in the server."""
        if self.in_server:
            self.in_server = False
            self.__dict__.pop("run", None)
            self._proof = Proof(self._isolation.settings, self.backend)

    def _run_here(self, inputs: Sequence[Array], keep_on_device: bool = False) -> list[Array | None]:
        """`run` of a model that has proved itself. Raises also: WouldBlock, see `run`."""
        try:
            assert self._local is not None
            return self._local.run(inputs, keep_on_device)
        except MemoryLimitExceeded:  # more than a short run needs: not here
            if threading.get_ident() == self._isolation.loop_thread:
                raise WouldBlock from None
            return RemoteSession.run(self, inputs, keep_on_device)

    def refused_memory(self, error: MemoryLimitExceeded, process: EngineProcess) -> None:
        """A run or load was refused memory: give the model a new process of its own. Not if it keeps a state, which
        would be lost. Returns if it may be repeated there, since another model may have taken the memory.

        Raises: MemoryLimitExceeded: the client's error.
        """
        leaving = process.number == self.full  # one of several runs: the first has had it replaced
        on_cpu = self.device.kind == "CPU"
        alone = (self.apart and not leaving) or not on_cpu
        if not (leaving or self.stateful):
            if on_cpu:  # one process owns a GPU, so there is no other
                self.apart, self.full = True, process.number
            self._isolation.later(self._replace, process)
        if alone or self.stateful:
            raise MemoryLimitExceeded(self._text(str(error).removeprefix("ERR "))) from error

    def _replace(self, process: EngineProcess) -> None:
        with self._lock, contextlib.suppress(RedisAIError):  # the next run reports errors
            if self._closed or self._process is not process or process.dead:
                return
            self._leave()
            if not self.in_server:
                self._load()

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
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished[0].abandon(unfinished[1])
        process, self._process = self._process, None
        if process is not None and not self._isolation.leave(self, process):
            if process.number == self.full:  # it may take long to answer, or never do
                self._isolation.later(exchanges.unload, process, self, self.number)
            else:
                exchanges.unload(process, self, self.number)
