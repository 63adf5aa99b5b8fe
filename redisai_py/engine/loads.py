"""Loading a model: a loader thread builds its session and warms it up with one run, under the watchdog like any run.

Each step ends with a call on the event loop's thread, which starts the next. Clients that request a model while it is
being loaded wait for the same session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redisai_py.backend import Session, framework_error, may_loop
from redisai_py.engine.execution import Execution, Slot
from redisai_py.engine.loader import zeros
from redisai_py.engine.mailbox import Mailbox
from redisai_py.engine.queued import QueuedModel
from redisai_py.engine.runner import Runner
from redisai_py.engine.worker import close_session
from redisai_py.errors import BackendError, RedisAIError
from redisai_py.model import Model
from redisai_py.pending import Pending

__all__ = ["Loads"]


class Loads:
    """Args: build: creates a session of a model, on a loader thread; raises RedisAIError.
    enlist: makes the engine's object of both; raises RuntimeError if its device gets no threads.
    loaded: gets each model that is ready.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        runner: Runner,
        build: Callable[[Model], Session],
        enlist: Callable[[Model, Session], QueuedModel],
        loaded: Callable[[QueuedModel], object],
    ) -> None:
        self._mailbox = mailbox
        self._runner = runner
        self._loader = runner.loader
        self._runaways = runner.runaways
        self._build = build
        self._enlist = enlist
        self._ready = loaded
        self._waiting: dict[str, list[Pending[QueuedModel]]] = {}
        self.refused: RedisAIError | None = None
        """Why loaded models are no longer handed out, if so."""

    def __len__(self) -> int:
        return len(self._waiting)

    def load(self, model: Model) -> Pending[QueuedModel]:
        """Load a model, unless it is being loaded. Returns: the future loaded model."""
        waiter: Pending[QueuedModel] = Pending()
        waiters = self._waiting.get(model.identity)
        if waiters is None:
            self._loader.submit(partial(self._build_on_thread, model))
            self._waiting[model.identity] = [waiter]
        else:
            waiters.append(waiter)
        return waiter

    def fail(self, failure: tuple[str, RedisAIError]) -> None:
        """The model of that identity could not be loaded."""
        identity, error = failure
        self._runaways.load_ended(identity)
        for waiter in self._waiting.pop(identity, ()):
            waiter.fail(error)

    def _build_on_thread(self, model: Model) -> None:
        self._mailbox.post(self._runaways.load_began, (model, threading.current_thread()))
        try:
            session = self._build(model)
        except RedisAIError as error:
            self._mailbox.post(self.fail, (model.identity, error))
            return
        self._mailbox.post(self._built, (model, session))

    def _built(self, built: tuple[Model, Session]) -> None:
        model, session = built
        self._runaways.load_ended(model.identity)
        try:
            loaded = self._enlist(model, session)
            inputs = zeros(loaded.input_specs)
        except RuntimeError:  # no thread could be started for a device that is new
            self._loader.submit(partial(close_session, session))
            self.fail((model.identity, BackendError("ERR Could not initialize queue on requested device")))
            return
        except Exception as error:  # a plugin that violates its contract
            self.fail((model.identity, framework_error(error, "ERR ")))
            return
        if inputs is None or loaded.stateful or may_loop(session) or self.refused is not None:
            self._loaded(loaded)
        else:
            self._loader.submit(partial(self._warm_up, loaded, inputs))

    def _warm_up(self, loaded: QueuedModel, inputs: Sequence[Any]) -> None:
        slot = Slot(self._runner.watchdog)
        slot.thread = threading.current_thread()
        self._runner.load_slots.append(slot)
        execution = Execution(loaded, [], 0)
        with suppress(BaseException):  # zeros may be no valid input; a real failure shows at the first run
            slot.run_session(execution, inputs, False)
        self._runner.load_slots.remove(slot)
        if slot.retired is not None:
            self._mailbox.post(self._runaways.ended, execution)
        else:
            self._mailbox.post(self._loaded, loaded)

    def _loaded(self, loaded: QueuedModel) -> None:
        self._ready(loaded)
        for waiter in self._waiting.pop(loaded.id, ()):
            if self.refused is not None:
                waiter.fail(self.refused)
            else:
                waiter.resolve(loaded)
