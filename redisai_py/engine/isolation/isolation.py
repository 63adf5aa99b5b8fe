"""Models in engine processes, as one front door has them: which session is in which process.

The manager starts the processes, decides which model is in which, and judges their ends (`manager`). With one front
door it is an object here; several share one in a process of its own (`remote_manager`).
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import structlog

from redisai_py.backend import LoadOptions, Session, framework_error
from redisai_py.blobs import ModelFile, filed
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.long_runs import LongRuns
from redisai_py.engine.isolation.managed import Placement, Wanted
from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.quarantine import Quarantine
from redisai_py.engine.isolation.remote_manager import ManagerLost, RemoteManager
from redisai_py.engine.isolation.script_process import ScriptProcess
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.isolation.settings import IsolationSettings, IsolationSnapshot
from redisai_py.engine.isolation.shared_reads import SharedReads
from redisai_py.engine.isolation.verdicts import Suspect, Verdict
from redisai_py.errors import BackendError, RedisAIError
from redisai_py.model import Model

__all__ = ["Isolation", "Managing"]

_KEPT_IN_FILES = 1024 * 1024
"""The bytes of models of at least this size are kept in files, for loading them again."""

logger = structlog.get_logger()


class Managing(Protocol):
    """The manager of the processes; see `manager.Manager` for its methods."""

    settings: IsolationSettings
    quarantine: Quarantine
    shared: bool
    """Whether there may be other front doors."""

    def welcome(self, door: Isolation) -> None: ...

    def place(self, door: Isolation, wanted: Wanted, file: int) -> int: ...

    def leave(self, door: Isolation, session: int, number: int) -> None: ...

    def kill(self, number: int, program: int, why: str) -> None: ...

    def ended(self, door: Isolation, number: int, suspects: Sequence[Suspect]) -> None: ...

    def rename(self, before: str, identity: str) -> Future[None] | None: ...

    def clear(self, identity: str) -> None: ...

    def import_backend(self, name: str) -> str: ...

    def close(self, timeout_s: float) -> None: ...


class Isolation:
    """Args: name_of: a model's identity -> its name for users. Called on any thread."""

    def __init__(self, manager: Managing, name_of: Callable[[str], str]) -> None:
        self.settings = manager.settings
        self.quarantine = manager.quarantine
        """To look into; changes go to the manager."""
        self.name_of = name_of
        self.closing = False
        self.loop_thread = 0
        """Id of the event loop's thread, which waits only for short runs."""
        self.versions: dict[str, str] = {}
        """Versions of the backends that processes have imported, by wire name."""
        self._manager = manager
        self.shared_reads = SharedReads(manager) if isinstance(manager, RemoteManager) else None
        """How front doors read a model once; None: there is only one."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._processes: dict[int, EngineProcess] = {}
        self._placing: dict[int, RemoteSession | ScriptProcess] = {}
        self._placed: dict[int, EngineProcess] = {}
        self._deaths: Counter[str] = Counter()
        self.on_long_run: Callable[[int], object] = lambda thread_id: None
        """Called with the id of each thread that waits long for a process."""
        self._alarm = LongRuns(self._busy_lanes, lambda thread_id: self.on_long_run(thread_id))
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._helper: threading.Thread | None = None
        manager.welcome(self)

    def next_number(self) -> int:
        """A number that was not used before."""
        return next(self._numbers)

    # -- models --------------------------------------------------------------------------------------------------------

    def load(self, model: Model, options: LoadOptions) -> Session:
        """A session of the model in a process. Thread: a loader's.

        Raises: BackendNotInstalled; BackendError: the framework's error, the process died, or the model is in
                quarantine.
        """
        if len(model.blob) >= _KEPT_IN_FILES:
            model = replace(model, blob=filed(model.blob))
        session = RemoteSession(self, model, options)
        try:
            session.load()
        except RedisAIError:
            raise
        except Exception as error:  # the caller that waits for the load must get it
            logger.exception("a load failed")
            raise framework_error(error, "ERR ") from error
        return session

    def import_backend(self, name: str) -> str:
        """Import a backend where processes will be forked. Returns: its version. Thread: any but the event loop's.

        Raises: BackendNotInstalled, BackendError.
        """
        version = self.versions[name] = self._manager.import_backend(name)
        return version

    async def rename(self, session: Session, identity: str) -> None:
        """A loaded model has another identity from now on.

        Returns when the manager knows it: a front door that loads the model by it then finds the process that has it.
        """
        if not isinstance(session, RemoteSession) or session.identity == identity:
            return
        before, session.identity = session.identity, identity
        known = self._manager.rename(before, identity)
        if known is not None:
            with suppress(ManagerLost):  # and with it all processes
                await asyncio.wrap_future(known)

    def went_well(self, identity: str) -> None:
        """A run of a model succeeded: its record is clean."""
        self._manager.clear(identity)

    forget = went_well
    """A model was deleted or replaced."""

    # -- processes -----------------------------------------------------------------------------------------------------

    def place(self, session: RemoteSession) -> EngineProcess:
        """A process for a model; `leave` releases it. Raises: BackendNotInstalled, BackendError."""
        device = session.device
        gpu = (device.index or 0) if device.kind == "GPU" else None
        wanted = Wanted(session.number, session.identity, session.backend, gpu, session.apart, session.full)
        return self._place(session, wanted, self._file_of(session))

    def place_scripts(self, user: ScriptProcess) -> EngineProcess:
        """A process for scripts; `leave` ends it. Raises: BackendNotInstalled, BackendError."""
        if "TORCH" not in self.versions:
            self.import_backend("TORCH")
        return self._place(user, Wanted(user.number, user.identity, "TORCH", scripts=True))

    def _place(self, user: RemoteSession | ScriptProcess, wanted: Wanted, file: int = -1) -> EngineProcess:
        self._placing[user.number] = user
        try:
            pid = self._manager.place(self, wanted, file)
        except BaseException:
            process = self._placed.pop(user.number, None)
            if process is not None:
                self.leave(user, process)
            raise
        finally:
            del self._placing[user.number]
        process = self._placed.pop(user.number, None)
        if process is None:
            raise BackendError("ERR an engine process cannot be reached: no files are left")
        process.pid = process.pid or pid
        return process

    def _file_of(self, session: RemoteSession) -> int:
        """The file of a large model, for other front doors; -1 for none."""
        blob = session.model.blob
        return blob.fileno() if self._manager.shared and isinstance(blob, ModelFile) else -1

    def leave(self, user: RemoteSession | ScriptProcess, process: EngineProcess) -> bool:
        """A model has left the process. Returns: False if others are there, and it must be unloaded."""
        with self._lock:
            process.users.discard(user)
            last = not (process.users or process.dead)
            if last:
                self._processes.pop(process.number, None)
                process.cut_off()
        self._manager.leave(self, user.number, process.number)
        return process.dead

    def _ended(self, process: EngineProcess, suspects: dict[RemoteSession, bool]) -> None:
        found = []
        for session, in_load in suspects.items():
            if session in process.programs:
                found.append(Suspect(process.programs[session], in_load, self.name_of(session.identity)))
        self._manager.ended(self, process.number, found)

    def _kill(self, process: EngineProcess, culprit: RemoteSession | None, why: str) -> None:
        self._manager.kill(process.number, process.programs.get(culprit, 0) if culprit is not None else 0, why)

    def _busy_lanes(self) -> list[Lane]:
        return [lane for process in list(self._processes.values()) for lane in process.busy()]

    # -- managed.Door --------------------------------------------------------------------------------------------------

    def placed(self, session: int, placement: Placement) -> None:
        """See Door."""
        user = self._placing.get(session)
        if user is None:  # nobody waits any more
            placement.control.close()
            return
        with self._lock:
            process = self._processes.get(placement.process)
            if process is None:
                process = EngineProcess(
                    placement.process, placement.control, self._manager.shared, self._alarm, self._ended, self._kill
                )
                self._processes[process.number] = process
            else:
                placement.control.close()
            process.users.add(user)
            process.programs[user] = placement.program
            self._placed[session] = process

    def has_ended(self, process: int) -> None:
        """See Door."""
        ended = self._processes.get(process)
        if ended is None:
            self._manager.ended(self, process, ())
        else:
            ended.note_end()  # unless a thread of ours has noticed: then it tells

    def judged(self, process: int, verdict: Verdict) -> None:
        """See Door. The process's models are loaded again immediately, so that no run has to wait."""
        with self._lock:
            ended = self._processes.pop(process, None)
            if verdict.counts:
                self._deaths[verdict.how.partition(":")[0]] += 1
        if ended is None:
            return
        for session, program in list(ended.programs.items()):
            if isinstance(session, ScriptProcess):  # is never blamed
                continue
            session.apart = session.apart or program in verdict.apart
            session.struck = session.struck or program == verdict.culprit
        ended.judged(verdict)
        self._tell_users(ended, verdict.status)

    def manager_lost(self) -> None:
        """See RemoteDoor."""
        with self._lock:
            processes, self._processes = list(self._processes.values()), {}
        if not self.closing:
            logger.error("the manager of the engine processes ended, and they with it", processes=len(processes))
        for process in processes:
            process.cut_off()
            self._tell_users(process, None)

    def _tell_users(self, process: EngineProcess, status: int | None) -> None:
        for user in list(process.users):
            if isinstance(user, ScriptProcess):
                user.process_ended(status)
            elif not self.closing:
                self.later(user.revive)

    # -- background work -----------------------------------------------------------------------------------------------

    def later(self, work: Callable[..., object], *arguments: Any) -> None:
        """Call this on a thread of our own. Thread: any, also from a finalizer."""
        self._work.put(lambda: work(*arguments))
        if self._helper is None and not self.closing:
            self._helper = threading.Thread(target=self._help, name="redisai isolation", daemon=True)
            self._helper.start()

    def _help(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                logger.exception("work of the engine's processes failed")
            del work

    # -- the whole -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> IsolationSnapshot:
        """Current processes and quarantine."""
        pids = [process.pid for process in list(self._processes.values()) if process.pid and not process.dead]
        return IsolationSnapshot(tuple(pids), dict(self._deaths), self.quarantine.reasons())

    def close(self, timeout_s: float = 2.0) -> None:
        """Leave every process. Those that nobody else uses have ended when this returns, or after `timeout_s`."""
        self.closing = True
        self._work.put(None)
        self._alarm.stop()
        self._manager.close(timeout_s)
        for process in list(self._processes.values()):
            process.cut_off()
