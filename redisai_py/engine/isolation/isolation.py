"""The engine's processes, the models in them, and the record of their deaths.

Each CPU model has its own process while there are few; further models share, by backend. A model suspected of having
ended a process is alone in its next one. Each GPU has one process, for all of its models. A process without a model
ends. Nothing is started before the first model.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from redisai_py.backend import LoadOptions, Session, framework_error
from redisai_py.blobs import filed
from redisai_py.engine.isolation.lane import Lane
from redisai_py.engine.isolation.long_runs import LongRuns
from redisai_py.engine.isolation.processes import EngineProcess
from redisai_py.engine.isolation.quarantine import Quarantine
from redisai_py.engine.isolation.session import RemoteSession
from redisai_py.engine.isolation.settings import IsolationSettings, IsolationSnapshot
from redisai_py.engine.isolation.zygotes import Zygote
from redisai_py.errors import BackendError, RedisAIError
from redisai_py.model import Model

__all__ = ["Isolation"]

_KEPT_IN_FILES = 1024 * 1024
"""The bytes of models of at least this size are kept in files, for loading them again."""

logger = structlog.get_logger()


class Isolation:
    """Args: name_of: a model's identity -> its name for users. Called on any thread."""

    def __init__(self, settings: IsolationSettings, name_of: Callable[[str], str]) -> None:
        self.settings = settings
        self.name_of = name_of
        self.closing = False
        self.loop_thread = 0
        """Id of the event loop's thread, which waits only for short runs."""
        self.quarantine = Quarantine()
        self.versions: dict[str, str] = {}
        """Versions of the backends that processes have imported, by wire name."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._processes: list[EngineProcess] = []
        self._zygotes: dict[str, Zygote] = {}
        self._deaths: Counter[str] = Counter()
        self.on_long_run: Callable[[int], object] = lambda thread_id: None
        """Called with the id of each thread that waits long for a process."""
        self._alarm = LongRuns(self._busy_lanes, lambda thread_id: self.on_long_run(thread_id))
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._helper: threading.Thread | None = None

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
        zygote = self._zygote(name)
        self._wait_for(zygote)
        self.versions[name] = zygote.version
        return zygote.version

    def rename(self, session: Session, identity: str) -> None:
        """A loaded model has another identity from now on."""
        if isinstance(session, RemoteSession):
            self.quarantine.rename(session.identity, identity)
            session.identity = identity

    # -- processes -----------------------------------------------------------------------------------------------------

    def place(self, session: RemoteSession) -> EngineProcess:
        """A process for a model; `leave` releases it. Raises: BackendNotInstalled, BackendError."""
        device = session.device
        on_gpu = device.kind == "GPU"
        name = f"GPU:{device.index or 0}" if on_gpu else session.backend
        zygote = self._zygote("" if on_gpu else session.backend)
        self._wait_for(zygote)
        with self._lock:
            alone = session.apart and not on_gpu
            shared = [each for each in self._processes if each.place == name and not (each.dead or each.retired)]
            if alone or len(shared) < (1 if on_gpu else self.settings.engine_processes):
                process = self._start(f"{name} apart" if alone else name, zygote)
            else:
                process = min(shared, key=lambda process: len(process.users))
            process.users.add(session)
            return process

    def leave(self, session: RemoteSession, process: EngineProcess) -> bool:
        """A model has left the process. Returns: True if the process has ended, or ends now because it is empty."""
        with self._lock:
            process.users.discard(session)
            if process.users:
                return process.dead
            process.retired = True
        process.kill()
        return True

    def _start(self, place: str, zygote: Zygote) -> EngineProcess:
        try:
            process = EngineProcess(self.next_number(), place, zygote, self._alarm, self._ended)
            process.fork(self.settings.engine_memory_limit_bytes)
        except OSError as error:
            raise BackendError(f"ERR an engine process cannot be started: {error.strerror}") from error
        self._processes.append(process)
        return process

    def _zygote(self, backend: str) -> Zygote:
        with self._lock:
            zygote = self._zygotes.get(backend)
            if zygote is None or not zygote.alive:
                zygote = self._zygotes[backend] = Zygote(backend, self._zygote_ended)
            return zygote

    def _wait_for(self, zygote: Zygote) -> None:
        try:
            zygote.wait_ready(self.settings.model_load_timeout_s)
        except TimeoutError:
            zygote.close()
            ms = self.settings.model_load_timeout_ms
            text = f"ERR Could not load backend: importing {zygote.backend} took longer than --model-load-timeout-ms"
            raise BackendError(f"{text} ({ms} ms)") from None

    def _zygote_ended(self, zygote: Zygote) -> None:
        with self._lock:
            if self._zygotes.get(zygote.backend) is zygote:
                del self._zygotes[zygote.backend]

    def _ended(self, process: EngineProcess) -> None:
        """A process has ended: find the culprit. Its models are reloaded immediately, so that no run has to wait."""
        with suppress(ValueError):
            self._processes.remove(process)
        if not (self.closing or process.retired):
            self._judge(process)
        process.judged()

    def _judge(self, process: EngineProcess) -> None:
        how = process.how()
        suspects = process.suspects
        if process.culprit is None and len(suspects) == 1 and not process.ended_with_its_zygote:
            (process.culprit,) = suspects
        culprit = process.culprit
        if culprit is not None:
            culprit.apart = culprit.struck = True
            self.quarantine.struck(culprit.identity, how, suspects.get(culprit, False))
        elif not process.ended_with_its_zygote:
            for session in suspects:
                session.apart = True
        self._deaths[how.partition(":")[0]] += 1
        names = sorted(self.name_of(session.identity) for session in suspects)
        logger.error("an engine process ended", pid=process.pid, place=process.place, how=how, at_work_for=names)
        for session in list(process.users):
            self.later(session.revive)

    def _busy_lanes(self) -> list[Lane]:
        return [lane for process in list(self._processes) for lane in process.busy()]

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
        pids = [process.pid for process in list(self._processes) if process.pid is not None and not process.dead]
        return IsolationSnapshot(tuple(pids), dict(self._deaths), self.quarantine.reasons())

    def close(self, timeout_s: float = 2.0) -> None:
        """Kill every process. Returns when they have ended, or after `timeout_s`."""
        self.closing = True
        self._work.put(None)
        self._alarm.stop()
        until = time.monotonic() + timeout_s
        with self._lock:
            zygotes = list(self._zygotes.values())
        for zygote in zygotes:
            zygote.close()
        for zygote in zygotes:
            zygote.thread.join(max(0.0, until - time.monotonic()))
