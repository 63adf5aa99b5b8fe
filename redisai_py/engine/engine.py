"""The engine's facade: load models, run them, count, stop.

DESIGN. All public methods belong to the event loop's thread and never block it. The rest of the server imports this
module and the values of `run`, `reports`, `settings` and `stats`, and nothing else of the engine
(docs/adr/0034-the-engine-behind-a-facade.md). Models are loaded by `loads` and run by `runner`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from functools import partial

from redisai_py.backend import Backend, LoadOptions, Session, load_backend, loaded_backends
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.seen import was_there
from redisai_py.engine.isolation.settings import IsolationSnapshot
from redisai_py.engine.isolation.shared_reads import SharedReads
from redisai_py.engine.loader import load_session
from redisai_py.engine.loads import Loads
from redisai_py.engine.mailbox import Mailbox
from redisai_py.engine.policies import policies
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.registry import Registry
from redisai_py.engine.reports import Counters, Executed, GivenUp
from redisai_py.engine.run import LoadedModel, Run
from redisai_py.engine.runaways import STUCK
from redisai_py.engine.runner import SHUTTING_DOWN, Runner
from redisai_py.engine.settings import EngineSettings, EngineSnapshot
from redisai_py.engine.snapshots import cpu_seconds, model_snapshot, queue_snapshots
from redisai_py.engine.stats import RunStats, StatsTable
from redisai_py.errors import BackendError, Overloaded
from redisai_py.model import Model

__all__ = ["Engine", "EngineSettings", "EngineSnapshot", "LoadedModel", "Run", "RunStats"]


class Engine:
    """Runs models.

    Args: loop: the event loop; every method is called on its thread, and every run is resolved there.
          find_backend: returns the backend of a wire name; called on a loader thread.
          notable: gets every execution that failed, with its error, or took `settings.slow_run_s`, with None.
          evicted: gets each model that is unloaded because others need its memory.
          ended_merging: gets each model that is no longer merged; its `not_merged` has the reason.
          given_up: gets each model with a run or load that does not end (see `runaways`).
          isolation: the engine's processes; models are there if its settings say so. It is closed with the
              engine. None: there are none.
    """

    def __init__(
        self,
        settings: EngineSettings,
        loop: asyncio.AbstractEventLoop,
        find_backend: Callable[[str], Backend] = load_backend,
        notable: Callable[[Executed, BaseException | None], object] = lambda executed, error: None,
        evicted: Callable[[LoadedModel], object] = lambda loaded: None,
        ended_merging: Callable[[LoadedModel], object] = lambda loaded: None,
        given_up: Callable[[GivenUp], object] = lambda given_up: None,
        isolation: Isolation | None = None,
    ) -> None:
        self.settings = settings
        self._find_backend = find_backend
        self._processes = isolation
        self._isolation = isolation if isolation is not None and isolation.settings.runs_models else None
        self._loop = loop
        self._mailbox = Mailbox(loop)
        self._registry = Registry(settings.loaded_models_limit_bytes, evicted)
        self.loaded: Callable[[str], LoadedModel | None] = self._registry.get
        """The loaded model of an identity, None if it must be loaded."""
        self.make_room: Callable[[str | None], object] = self._registry.shrink
        """Unloads models until the others keep the limit; gets the identity of one to spare. Replace it if several
        front doors keep the limit together.
        """
        self.unload_unused = self._registry.drop_unused
        """Unloads models that others need the memory of, unless they were used since they were last looked at."""
        self._alive: weakref.WeakSet[QueuedModel] = weakref.WeakSet()
        self.stats = StatsTable(in_use=lambda: {loaded.id for loaded in self._alive})
        """The counters of models, by identity."""
        self._counters = Counters()
        self._runner = Runner(
            settings,
            loop,
            self._mailbox,
            self._counters,
            notable,
            ended_merging,
            given_up,
            self._model_idle,
            self._model_stuck,
            self._isolation is not None,
        )
        if self._isolation is not None:
            self._isolation.on_long_run = partial(self._mailbox.post, self._runner.lend)
            self._isolation.loop_thread = threading.get_ident()
        self._loads = Loads(self._mailbox, self._runner, self._build_session, self._enlist, self._loaded)
        # Expose the runner's method directly: a wrapper would cost one more call per run.
        self.run_model = self._runner.run_model
        self.queue = self._runner.queue
        self.run_inline = self._runner.run_inline
        self.call_afterwards = self._runner.call_afterwards
        self.count = self._runner.count
        self.discount = self._runner.discount
        self.threads_busy = self._runner.threads_busy
        self.set_execution_timeout = self._runner.watchdog.set_limit
        """Changes MODEL_EXECUTION_TIMEOUT (in ms, 0 is none), also for running executions."""
        self._runner.devices.get("CPU")  # INFO shows its workers from the start

    @property
    def shared_reads(self) -> SharedReads | None:
        """How front doors that share engine processes read a model once; None: this one shares none."""
        return None if self._isolation is None else self._isolation.shared_reads

    # -- models --------------------------------------------------------------------------------------------------------

    async def load(self, model: Model) -> LoadedModel:
        """Build a session from the model's bytes on a loader thread, and warm it up with one run if its shapes are
        known and it keeps no state.

        Concurrent calls for the same identity wait for the same session; a loaded one is returned immediately.
        Raises: BackendNotInstalled; BackendError with the framework's text; Overloaded while shutting down.
        """
        loaded = self._registry.get(model.identity)
        if loaded is not None:
            return loaded
        if self._runner.closing:
            raise Overloaded(SHUTTING_DOWN)
        return await self._loads.load(model)

    def _build_session(self, model: Model) -> Session:
        """The only place that creates a session. Thread: a loader's."""
        settings = self.settings
        options = LoadOptions(
            settings.intra_op_parallelism, settings.inter_op_parallelism, settings.backend_memory_limit_bytes
        )
        if self._isolation is not None:
            return self._isolation.load(model, options)
        return load_session(model, options, self._find_backend)

    def _enlist(self, model: Model, session: Session) -> QueuedModel:
        queue, inline, proof = policies(model, session, self.settings)
        stats = self.stats.of(model.identity)
        version = self.backend_versions().get(model.backend.upper(), "")
        device = self._runner.devices.get(model.device.queue)
        loaded = QueuedModel(model, session, device, queue, inline, proof, stats, self._runner.cancel_queued, version)
        self._alive.add(loaded)
        return loaded

    def _loaded(self, loaded: QueuedModel) -> None:
        first = not was_there(loaded.session)
        loaded.stats.loaded(first)
        if first:
            self._counters.loads[loaded.model.backend] += 1
        if not self._runner.closing:
            self._registry.add(loaded)
            self.make_room(loaded.id)

    def _model_idle(self) -> None:
        if self._registry.over_limit:
            self.make_room(None)
        self._mailbox.look()

    def _model_stuck(self, loaded: QueuedModel, at_load: bool) -> None:
        """A run of the model does not end: load it again when it is next needed."""
        if self._registry.get(loaded.id) is loaded:
            self._registry.remove(loaded.id)
        if at_load:
            self._loads.fail((loaded.id, BackendError(STUCK)))

    def unload(self, identity: str, keep_counters: bool = False) -> None:
        """Unload a model that was deleted or replaced; runs in progress finish with it."""
        self._registry.remove(identity)
        if not keep_counters:
            self.stats.forget(identity)
            if self._isolation is not None:
                self._isolation.forget(identity)

    async def rename(self, loaded: LoadedModel, identity: str) -> None:
        """Find a loaded model under another identity from now on: that of the hash under which it is about to be
        stored. Returns when other front doors that read the hash find the model.
        """
        queued: QueuedModel = loaded  # type: ignore[assignment]  # there is no other kind
        before = loaded.id
        queued.rename(identity)
        self._registry.rename(before, identity)
        self.stats.rename(before, identity)
        if self._isolation is not None:
            await self._isolation.rename(queued.session, identity)

    @property
    def crowded(self) -> bool:
        """Whether the models of all front doors exceed the limit, and are in use; see `make_room`."""
        return self._registry.crowded

    @crowded.setter
    def crowded(self, crowded: bool) -> None:
        self._registry.crowded = crowded

    # -- state ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> EngineSnapshot:
        """Current queues, models and threads, for INFO and the metrics."""
        counters = self._counters
        return EngineSnapshot(
            queue_snapshots(self._runner.devices.by_name, self._alive, self._runner.executing_ahead()),
            tuple(map(model_snapshot, self._registry.values())),
            self._registry.nbytes,
            len(self._loads),
            cpu_seconds(self._runner.devices.by_name),
            dict(counters.executions),
            dict(counters.loads),
            counters.refused,
            counters.timed_out,
            IsolationSnapshot() if self._processes is None else self._processes.snapshot(),
        )

    def quarantine(self, identity: str) -> str:
        """Why a model is in quarantine; empty if it is not."""
        return "" if self._isolation is None else self._isolation.quarantine.reason(identity)

    def backend_versions(self) -> dict[str, str]:
        """Versions of the backends imported so far, here or in engine processes, by wire name."""
        here = {name: backend.version for name, backend in loaded_backends().items()}
        return here if self._isolation is None else {**self._isolation.versions, **here}

    def import_backend(self, name: str) -> str:
        """Import a backend where models are loaded. Returns: its version. Thread: any but the event loop's.

        Raises: BackendNotInstalled, BackendError.
        """
        if self._isolation is None:
            return self._find_backend(name).version
        return self._isolation.import_backend(name)

    @property
    def runaways_going_on(self) -> int:
        """Number of abandoned runs and loads that still run."""
        return self._runner.runaways.going_on

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self, drain_timeout_s: float = 0.0, grace_s: float = 2.0) -> bool:
        """Accept nothing more, finish running and waiting runs, close every session and end every thread.

        Args:    drain_timeout_s: afterwards, waiting runs fail with Overloaded, and running ones are stopped if the
                 framework can.   grace_s: time for those, and then for the threads, to end.
        Returns: whether all threads have ended; a framework that neither ends nor stops keeps its (daemon) thread.
        """
        self._runner.refuse_runs()
        self._loads.refused = Overloaded(SHUTTING_DOWN)
        await self._mailbox.wait_until(self._is_idle, drain_timeout_s)
        self._runner.abandon()
        if self._processes is not None:
            await self._loop.run_in_executor(None, self._processes.close)
        await self._mailbox.wait_until(self._is_idle, grace_s)
        self._release_models()
        return await self._runner.end_threads(self._mailbox, grace_s)

    def _is_idle(self) -> bool:
        return not self._loads and not any(loaded.unfinished for loaded in self._alive)

    def _release_models(self) -> None:
        """Close every session that is not running, even if its model is still referenced."""
        for loaded in list(self._alive):
            self._registry.remove(loaded.id)
            if not loaded.unfinished and not loaded.stuck:
                loaded.release()
