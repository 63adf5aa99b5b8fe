"""The engine's facade on the event loop: load models, run them, count, stop.

DESIGN. All public methods belong to the event loop's thread and never block it. Worker threads, the loader's threads
and the watchdog report by appending to one deque; the loop is woken once for all that has gathered
(docs/adr/0008-threads-and-the-gil.md). Counters and results are touched on the loop's thread only, counters first. A
worker may become a process: what crosses the border is runs with their tensors one way and executions the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from redisai_py.backend import (
    Backend,
    DeviceArray,
    LoadOptions,
    Session,
    framework_error,
    load_backend,
    loaded_backends,
    may_loop,
)
from redisai_py.engine.dispatch import Dispatcher
from redisai_py.engine.execution import Execution, Slot
from redisai_py.engine.isolation.isolation import Isolation
from redisai_py.engine.isolation.settings import IsolationSnapshot
from redisai_py.engine.loader import Loader, load_session, zeros
from redisai_py.engine.merging import Value
from redisai_py.engine.policies import policies
from redisai_py.engine.registry import LoadedModel, Registry
from redisai_py.engine.run import Run
from redisai_py.engine.runaways import STUCK, GivenUp, Runaways
from redisai_py.engine.settings import EngineSettings, EngineSnapshot
from redisai_py.engine.settle import count_at_once, samples, settle, tell
from redisai_py.engine.snapshots import cpu_seconds, model_snapshot, queue_snapshots
from redisai_py.engine.stats import RunStats, StatsTable
from redisai_py.engine.watchdog import Watchdog
from redisai_py.engine.worker import DeviceQueue, close_session
from redisai_py.errors import BackendError, Overloaded, QueueTimeout, RedisAIError
from redisai_py.model import Model
from redisai_py.pending import Pending
from redisai_py.tensor import Tensor

__all__ = ["Engine", "EngineSettings", "EngineSnapshot", "LoadedModel", "Run", "RunStats"]

_SHUTTING_DOWN = "ERR the server is shutting down"
_MOST_DEVICES = 64
"""Each device string has threads of its own, and anybody may write `CPU:12345` into a model."""


class _Seldom:
    """Counts of what happens seldom. Apart, since CPython reads the attributes of an object with 30 or more slowly."""

    __slots__ = ("ended_threads", "refused", "timed_out")

    def __init__(self) -> None:
        self.ended_threads = self.refused = self.timed_out = 0


class Engine:
    """Runs models.

    Args: loop: the event loop on whose thread every method is called and every run is resolved.
          find_backend: the backend of a wire name; called on a loader thread.
          notable: gets every execution that failed, with its error, or took `settings.slow_run_s`, with None.
          evicted: gets each model that is let go because others need its memory.
          ended_merging: gets each model that is not merged any more; its `proof.reason` says why.
          given_up: gets each model of which a run or its load does not end (see `runaways`).
          isolation: where models are loaded and run; None: in this process.
    """

    def __init__(
        self,
        settings: EngineSettings,
        loop: asyncio.AbstractEventLoop,
        find_backend: Callable[[str], Backend] = load_backend,
        notable: Callable[[Execution, BaseException | None], object] = lambda execution, error: None,
        evicted: Callable[[LoadedModel], object] = lambda loaded: None,
        ended_merging: Callable[[LoadedModel], object] = lambda loaded: None,
        given_up: Callable[[GivenUp], object] = lambda given_up: None,
        isolation: Isolation | None = None,
    ) -> None:
        self.settings = settings
        self._notable = notable
        self._ended_merging = ended_merging
        self._find_backend = find_backend
        self._isolation = isolation
        if isolation is not None:
            isolation.on_long_run = partial(self._post, self._lend)
            isolation.loop_thread = threading.get_ident()
        self._loop = loop
        self._events: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._wake_up_sent = False
        self._registry = Registry(settings.loaded_models_limit_bytes, evicted)
        self.loaded = self._registry.get
        """The loaded model of an identity, now the most recently used; None if it must be loaded."""
        self._alive: weakref.WeakSet[LoadedModel] = weakref.WeakSet()
        self._loading: dict[str, list[Pending[LoadedModel]]] = {}
        self._stats = StatsTable(in_use=lambda: {loaded.id for loaded in self._alive})
        self._devices: dict[str, DeviceQueue] = {}
        self._watchdog = Watchdog(
            settings.model_execution_timeout_ms,
            self._slots,
            partial(self._post, self._overdue),
            partial(self._post, self._give_up),
        )
        self._own_slot = Slot(self._watchdog.touch)
        self._load_slots: list[Slot] = []
        self._loader = Loader(settings.load_threads, partial(self._post, self._thread_ended, None))
        self._dispatcher = Dispatcher(
            loop, settings.inline_budget_us / 1e6, self._own_slot, self._executed, self._expired_here
        )
        self.call_afterwards = self._dispatcher.call_afterwards
        self.runaways = Runaways(loop, self._loader, given_up)
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at = float("inf")
        self._closing = self._threads_end = False
        self._executions: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()
        self._seldom = _Seldom()
        self._awaited: tuple[Callable[[], bool], Pending[bool]] | None = None
        self._device("CPU")  # INFO shows its workers from the start

    # -- models --------------------------------------------------------------------------------------------------------

    async def load(self, model: Model) -> LoadedModel:
        """Build a session of the model's bytes on a loader thread, and warm it with one run where its shapes are known
        and it keeps no state.

        Calls for an identity that is being loaded wait for the same session; a loaded one is returned at once.
        Raises: BackendNotInstalled; BackendError with the framework's text; Overloaded while shutting down.
        """
        loaded = self._registry.get(model.identity)
        if loaded is not None:
            return loaded
        if self._closing:
            raise Overloaded(_SHUTTING_DOWN)
        waiter: Pending[LoadedModel] = Pending()
        waiters = self._loading.get(model.identity)
        if waiters is None:
            self._loader.submit(partial(self._load_on_thread, model))
            self._loading[model.identity] = [waiter]
        else:
            waiters.append(waiter)
        return await waiter

    def _load_on_thread(self, model: Model) -> None:
        self._post(self.runaways.load_began, (model, threading.current_thread()))
        settings = self.settings
        options = LoadOptions(
            settings.intra_op_parallelism, settings.inter_op_parallelism, settings.backend_memory_limit_bytes
        )
        try:
            if self._isolation is not None:
                session = self._isolation.load(model, options)
            else:
                session = load_session(model, options, self._find_backend)
        except RedisAIError as error:
            self._post(self._load_failed, (model.identity, error))
            return
        self._post(self._session_built, (model, session))

    def _load_failed(self, failure: tuple[str, RedisAIError]) -> None:
        identity, error = failure
        self.runaways.load_ended(identity)
        for waiter in self._loading.pop(identity, ()):
            waiter.fail(error)

    def _session_built(self, built: tuple[Model, Session]) -> None:
        """Warm the model up, on a loader thread again, under watch like any run."""
        model, session = built
        self.runaways.load_ended(model.identity)
        try:
            loaded = self._new_model(model, session)
            inputs = zeros(loaded.session.inputs)
        except RuntimeError:  # no thread could be started for a device that is new
            self._loader.submit(partial(close_session, session))
            self._load_failed((model.identity, BackendError("ERR Could not initialize queue on requested device")))
            return
        except Exception as error:  # a plugin that does not keep its contract
            self._load_failed((model.identity, framework_error(error, "ERR ")))
            return
        if inputs is None or loaded.stateful or may_loop(session) or self._closing:
            self._loaded(loaded)
        else:
            self._loader.submit(partial(self._warm_up, loaded, inputs))

    def _warm_up(self, loaded: LoadedModel, inputs: Sequence[Any]) -> None:
        slot = Slot(self._watchdog.touch)
        slot.thread = threading.current_thread()
        self._load_slots.append(slot)
        execution = Execution(loaded, [], 0)
        with suppress(BaseException):  # zeros may be no sensible input; what cannot run says so at its first run
            slot.run_session(execution, inputs, False)
        self._load_slots.remove(slot)
        self._post(self.runaways.ended if slot.retired else self._loaded, execution if slot.retired else loaded)

    def _new_model(self, model: Model, session: Session) -> LoadedModel:
        queue, inline, proof = policies(model, session, self.settings)
        device = self._device(model.device.queue)
        loaded = LoadedModel(self, model, session, device, queue, inline, proof, self._stats.of(model.identity))
        self._alive.add(loaded)
        return loaded

    def _loaded(self, loaded: LoadedModel) -> None:
        loaded.stats.loads += 1
        self._loads[loaded.model.backend] += 1
        if not self._closing:
            self._registry.add(loaded)
        for waiter in self._loading.pop(loaded.id, ()):
            if self._closing:
                waiter.fail(Overloaded(_SHUTTING_DOWN))
            else:
                waiter.resolve(loaded)

    def unload(self, identity: str, keep_counters: bool = False) -> None:
        """Forget a model that was deleted or replaced; runs begun with it end with it."""
        self._registry.remove(identity)
        if not keep_counters:
            self._stats.forget(identity)
            if self._isolation is not None:
                self._isolation.quarantine.forget(identity)

    def rename(self, loaded: LoadedModel, identity: str) -> None:
        """Find a loaded model by another identity from now on: that of the hash which it has been stored as."""
        before = loaded.id
        loaded.model = replace(loaded.model, identity=identity)
        self._registry.rename(before, identity)
        self._stats.rename(before, identity)
        if self._isolation is not None:
            self._isolation.rename(loaded.session, identity)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run_model(
        self,
        loaded: LoadedModel,
        inputs: Sequence[Tensor | DeviceArray],
        timeout_ms: int | None = None,
        *,
        keep_on_device: bool = False,
        counted: bool = True,
        alone: bool = False,
    ) -> Run:
        """Queue a run.

        Args:    inputs: one per input of the model, in order; how many is not checked here. Device arrays are outputs
                 of other runs; those on another device are copied to host memory.
                 timeout_ms: bound on the time in the queue.
                 keep_on_device: outputs of a GPU model may be device arrays; such a run is not merged.
                 counted: False leaves the counters to `count`, for operations of a DAG that may turn out as never run.
                 alone: it is neither merged nor held for a batch.
        Returns: the awaitable run. It has failed already, with Overloaded, if the queue is full or the engine closes.
        """
        run = Run(loaded, inputs)
        run.counted = counted
        run.keep_on_device = keep_on_device and loaded.model.device.kind == "GPU"
        if run.keep_on_device or alone:
            run.rows = 0
        self.queue(run, loaded, timeout_ms)
        return run

    def queue(self, run: Run, loaded: LoadedModel, timeout_ms: int | None = None) -> None:
        """Queue a run that was made elsewhere; see `run_model`."""
        if self._closing or loaded.stuck or loaded.unfinished >= self.settings.queue_limit:
            self._refuse(run, loaded)
            return
        if timeout_ms is not None:
            run.deadline = run.since + timeout_ms / 1000
            self._expire_by(run.deadline)
        loaded.unfinished += 1
        self._dispatcher.offer(run, loaded)

    def run_at_once(self, loaded: LoadedModel, inputs: Sequence[Tensor]) -> tuple[list[Value], float] | None:
        """Run this very moment, if the model's runs are short and nothing is in the way.

        Returns: the outputs and the seconds that the framework took; None if it must be queued instead, as also a run
                 that failed must, whose error is found there. Nothing was counted then.
        """
        execution = (
            None if self._closing or loaded.unfinished or loaded.stuck else self._dispatcher.run_at_once(loaded, inputs)
        )
        if execution is None or execution.values is None:
            return None
        self._executions[loaded.model.backend] += 1
        if execution.run_s >= self.settings.slow_run_s:
            self._notable(execution, None)
        count_at_once(execution, execution.values[0])
        return execution.values[0], execution.run_s

    def _refuse(self, run: Run, loaded: LoadedModel) -> None:
        full = f"ERR the model's run queue is full: {loaded.unfinished} runs are waiting or running"
        run.loaded = None
        self._seldom.refused += 1
        run.fail(Overloaded(_SHUTTING_DOWN if self._closing else STUCK if loaded.stuck else full))

    def cancel_queued(self, run: Run) -> bool:
        """See Run.cancel_queued."""
        loaded = run.loaded
        if loaded is None or run.started:
            return False
        if not self._dispatcher.drop(run, loaded):
            if not (loaded.on_threads and loaded.device.drop(run)):
                return False
            loaded.on_threads -= 1
        self._end([run], loaded, asyncio.CancelledError())
        return True

    def count(self, loaded: LoadedModel, run: Run) -> None:
        """Count a run that ended and was started with `counted=False`."""
        if run.ran_s is None or run.counted:
            return
        run.counted = True
        if run.error is None:
            loaded.stats.succeeded(1, run.ran_s, samples(run.result()))
        else:
            loaded.stats.failed(run.error)

    def discount(self, loaded: LoadedModel, ran_s: float, outputs: Sequence[Value] | None) -> None:
        """Count a run (outputs: None if it failed) no more: its input had changed, and its command runs again."""
        loaded.stats.discount(ran_s, samples(outputs or ()), failed=outputs is None)

    def set_execution_timeout(self, limit_ms: int) -> None:
        """Change MODEL_EXECUTION_TIMEOUT, also for runs in progress; 0 is none."""
        self._watchdog.set_limit(limit_ms)

    # -- results -------------------------------------------------------------------------------------------------------

    def _executed_on_thread(self, execution: Execution) -> None:
        if execution.stop is not None and execution.stop.given_up:
            self.runaways.ended(execution)
            return
        loaded = execution.loaded
        loaded.on_threads -= len(execution.runs)
        if execution.error is None:
            loaded.inline.measured(execution.runs[0].key, execution.rows, execution.run_s, execution.cpu_s)
        self._executed(execution)

    def _overdue(self, execution: Execution) -> None:
        """A run was told to stop: its clients are told now, whenever the framework obeys."""
        assert execution.stop is not None
        self._settle(execution, execution.stop.error)

    def _give_up(self, lost: tuple[Slot, Execution]) -> None:
        """A run goes on though it was told to stop: its thread is replaced, and its model is loaded anew when it is
        next wanted.
        """
        slot, execution = lost
        if self._threads_end or not slot.retire(execution):
            return
        loaded = execution.loaded
        assert execution.stop is not None
        loaded.stuck = execution.stop.given_up = True
        self._settle(execution, execution.stop.error)
        if self._registry.get(loaded.id) is loaded:
            self._registry.remove(loaded.id)
        loaded.on_threads -= len(execution.runs)
        loaded.unfinished -= len(execution.runs)
        waiting = [*slot.behind, *loaded.device.abandon_model(loaded)]
        loaded.on_threads -= len(waiting)
        offered, loaded.offered = loaded.offered, []
        self._end([*waiting, *offered], loaded, Overloaded(STUCK))
        with suppress(RuntimeError):  # no more threads: there are fewer then
            if slot.thread is not None:
                self._loader.replace(slot.thread)
                self._load_failed((loaded.id, BackendError(STUCK)))
            elif not slot.lent:
                loaded.device.replace(slot)
        self.runaways.add(execution)

    def _executed(self, execution: Execution) -> None:
        """An execution ended: every run gets its result, and lets go of the model."""
        loaded = execution.loaded
        loaded.unfinished -= len(execution.runs)
        self._executions[loaded.model.backend] += 1
        if execution.ended_merging:
            self._ended_merging(loaded)
        self._settle(execution, execution.error)
        self._after_runs(loaded)

    def _settle(self, execution: Execution, error: BaseException | None) -> None:
        if (error is not None or execution.run_s >= self.settings.slow_run_s) and not execution.settled:
            self._notable(execution, error)
        settle(execution, error, self._loop)

    def _after_runs(self, loaded: LoadedModel) -> None:
        if not loaded.unfinished:
            if self._registry.over_limit:
                self._registry.shrink()
            if self._awaited is not None:
                self._look_at_awaited()

    def _end(self, runs: Iterable[Run], loaded: LoadedModel, error: BaseException) -> None:
        """Fail runs that never started."""
        for run in runs:
            loaded.unfinished -= 1
            run.loaded = None
            run.inputs = ()
            tell(self._loop, run.fail, error)
        self._after_runs(loaded)

    # -- TIMEOUT -------------------------------------------------------------------------------------------------------

    def _expire_by(self, deadline: float) -> None:
        """Make sure that the runs of this deadline are looked after when it passes."""
        if deadline < self._expires_at:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expires_at = deadline
            self._expiry = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._expires_at = float("inf")
        now = time.monotonic()
        next_deadline = self._dispatcher.next_deadline()
        for device in self._devices.values():
            expired, of_device = device.expire(now)
            self._expired_on_threads(expired)
            next_deadline = min(next_deadline, of_device)
        if next_deadline != float("inf"):
            self._expire_by(next_deadline)

    def _expired_on_threads(self, runs: Sequence[Run]) -> None:
        for run in runs:
            loaded = run.loaded
            assert loaded is not None
            loaded.on_threads -= 1
            self._seldom.timed_out += 1
            self._end([run], loaded, QueueTimeout())

    def _expired_here(self, runs: Sequence[Run]) -> None:
        for run in runs:
            assert run.loaded is not None
            self._seldom.timed_out += 1
            self._end([run], run.loaded, QueueTimeout())

    # -- counters ------------------------------------------------------------------------------------------------------

    def stats(self, identity: str) -> RunStats:
        """The counters of a model, all 0 if this process never met it."""
        return self._stats.snapshot(identity)

    def reset_stats(self, identity: str) -> None:
        """AI.INFO RESETSTAT."""
        self._stats.reset(identity)

    def snapshot(self) -> EngineSnapshot:
        """Queues, models and threads at this moment, for INFO and the metrics."""
        return EngineSnapshot(
            queue_snapshots(self._devices, self._alive),
            tuple(map(model_snapshot, self._registry.values())),
            self._registry.nbytes,
            len(self._loading),
            cpu_seconds(self._devices),
            dict(self._executions),
            dict(self._loads),
            self._seldom.refused,
            self._seldom.timed_out,
            IsolationSnapshot() if self._isolation is None else self._isolation.snapshot(),
        )

    def quarantine(self, identity: str) -> str:
        """Why a model is in quarantine; empty if it is not."""
        return "" if self._isolation is None else self._isolation.quarantine.reason(identity)

    def backend_versions(self) -> dict[str, str]:
        """Of the backends imported so far, here or in engine processes, by wire name."""
        here = {name: backend.version for name, backend in loaded_backends().items()}
        return here if self._isolation is None else {**self._isolation.versions, **here}

    def import_backend(self, name: str) -> str:
        """Import a backend where models are loaded; its version. Thread: any but the event loop's.

        Raises: BackendNotInstalled, BackendError.
        """
        if self._isolation is None:
            return self._find_backend(name).version
        return self._isolation.import_backend(name)

    def look_at(self, model_id: str) -> LoadedModel | None:
        """The loaded model of an id, None if it is not loaded. Unlike `loaded`, this is no use of it."""
        return self._registry.peek(model_id)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _device(self, name: str) -> DeviceQueue:
        device = self._devices.get(name)
        if device is None:
            if len(self._devices) >= _MOST_DEVICES:
                raise RuntimeError(f"more than {_MOST_DEVICES} device strings are in use")
            threads, threads_per_model = self.settings.threads_of(name)
            device = self._devices[name] = DeviceQueue(
                name,
                threads,
                threads_per_model,
                partial(self._post, self._executed_on_thread),
                partial(self._post, self._expired_on_threads),
                self._watchdog.touch,
                partial(self._post, self._thread_ended, None),
            )
        return device

    @property
    def threads_busy(self) -> bool:
        """Whether a worker thread is running a model."""
        return any(slot.current is not None for device in self._devices.values() for slot in device.slots)

    def _lend(self, thread_id: int) -> None:
        """A run takes long in an engine process: its thread gets a successor."""
        if not self._closing:
            with suppress(RuntimeError):  # no more threads: others wait
                for device in self._devices.values():
                    device.lend(thread_id)

    def _slots(self) -> list[Slot]:
        device_slots = [slot for device in list(self._devices.values()) for slot in (*device.slots, *device.lent)]
        return [self._own_slot, *device_slots, *self._load_slots]

    def _post(self, handle: Callable[[Any], None], argument: Any) -> None:
        """Call `handle(argument)` on the event loop's thread. Thread: any."""
        self._events.append((handle, argument))
        if not self._wake_up_sent:
            self._wake_up_sent = True
            try:
                self._loop.call_soon_threadsafe(self._handle_events)
            except RuntimeError:  # the loop is closed: nobody is there to be told
                return

    def _handle_events(self) -> None:
        # First the flag, then the look: what is appended in between is seen here or sends a wake-up of its own.
        self._wake_up_sent = False
        events = self._events
        while events:
            handle, argument = events.popleft()
            tell(self._loop, handle, argument)
        self._look_at_awaited()

    def _look_at_awaited(self) -> None:
        if self._awaited is not None:
            condition, pending = self._awaited
            if condition():
                pending.resolve(True)

    def _thread_ended(self, _: None) -> None:
        self._seldom.ended_threads += 1

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self, drain_timeout_s: float = 0.0, grace_s: float = 2.0) -> bool:
        """Take nothing more, finish what runs and waits, close every session and end every thread.

        Args:    drain_timeout_s: after that, runs that wait fail with Overloaded and those in progress are stopped
                 where the framework can.   grace_s: time for those, and then for the threads, to end.
        Returns: whether all threads have ended; a framework that neither ends nor stops keeps its (daemon) thread.
        """
        self._closing = True
        await self._wait_until(self._is_idle, drain_timeout_s)
        if self._expiry is not None:
            self._expiry.cancel()
        self._abandon()
        if self._isolation is not None:
            await self._loop.run_in_executor(None, self._isolation.close)
        await self._wait_until(self._is_idle, grace_s)
        self._release_models()
        self._threads_end = True
        threads = [*self._loader.threads, *(thread for device in self._devices.values() for thread in device.threads)]
        self._loader.stop()
        for device in self._devices.values():
            device.stop()
        ended = await self._wait_until(lambda: self._seldom.ended_threads == len(threads), grace_s)
        self._watchdog.stop()
        if ended:
            for thread in threads:
                thread.join()
        return ended and not self.runaways.going_on

    def _is_idle(self) -> bool:
        return not self._loading and not any(loaded.unfinished for loaded in self._alive)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition`, looked at whenever threads have reported; False if the time passes first."""
        if condition():
            return True
        pending: Pending[bool] = Pending()
        self._awaited = (condition, pending)
        timer = self._loop.call_later(timeout_s, pending.resolve, False)
        try:
            return await pending
        finally:
            self._awaited = None
            timer.cancel()

    def _abandon(self) -> None:
        """Fail what waits and stop what runs."""
        waiting = self._dispatcher.abandon()
        for device in self._devices.values():
            handed_over = device.abandon()
            for run in handed_over:
                assert run.loaded is not None
                run.loaded.on_threads -= 1
            waiting += handed_over
        for run in waiting:
            assert run.loaded is not None
            self._end([run], run.loaded, Overloaded(_SHUTTING_DOWN))
        for slot in self._slots():
            stopped = slot.interrupt(time.monotonic(), 0.0, lambda _: Overloaded(_SHUTTING_DOWN))
            if stopped is not None:
                self._overdue(stopped)

    def _release_models(self) -> None:
        """Close every session that is not running, whoever still refers to its model."""
        for loaded in list(self._alive):
            self._registry.remove(loaded.id)
            if not loaded.unfinished and not loaded.stuck:
                loaded.release()
