"""The programs (models and scripts) of the keys that this server has seen: logs each load, and frees the old program of
a key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from redisai_py.engine.engine import Engine
from redisai_py.engine.run import LoadedModel
from redisai_py.engine.stats import StatsTable
from redisai_py.errors import BackendError, Overloaded, RedisAIError
from redisai_py.model import Kind, Model, Script, identified
from redisai_py.ops.keymap import Held, KeyMap, Place
from redisai_py.ops.siblings import ALONE, Siblings
from redisai_py.pending import Pending
from redisai_py.store.store import Store

if TYPE_CHECKING:
    from redisai_py.ops.event_log import EventLog

__all__ = ["Programs"]

_DIGESTED_HERE = 256 * 1024
"""Maximum bytes of a blob that the event loop hashes itself, in 0.2 ms."""


def _named(place: Place) -> dict[str, Any]:
    """For the other processes of this server."""
    return {"of": place.kind.name, "database": place.database, "key": place.key.hex()}


class Programs:
    """The engine's models and the counters of scripts, by key. Thread: the event loop's."""

    def __init__(
        self,
        engine: Engine,
        script_stats: StatsTable,
        keys: KeyMap,
        event_log: EventLog,
        siblings: Siblings = ALONE,
    ) -> None:
        self._engine = engine
        self._script_stats = script_stats
        self._keys = keys
        self._event_log = event_log
        self._siblings = siblings
        self._under_way: set[str] = set()
        self._reading: dict[tuple[Place, str], list[Pending[LoadedModel | None]]] = {}

    def loaded(self, place: Place, stored_id: str) -> LoadedModel | None:
        """The loaded model of a key that has this id now; None if it must be read and loaded."""
        identity = self._keys.identity(place, stored_id)
        return None if identity is None else self._engine.loaded(identity)

    async def stored(self, place: Place, stored_id: str, store: Store) -> LoadedModel:
        """The loaded model of a key that had this id a moment ago: reads and loads its current content.

        Concurrent callers wait for the same load. After a restart, for example, many clients request a popular model at
        once, and each copy of its blob would cost Redis's time and our memory.
        Raises: MissingKey, WrongType, BackendError, Overloaded, UpstreamError.
        """
        asked = (place, stored_id)
        while (waiters := self._reading.get(asked)) is not None:
            waiter: Pending[LoadedModel | None] = Pending()
            waiters.append(waiter)
            loaded = await waiter
            if loaded is not None:
                return loaded
        waiters = self._reading[asked] = []
        result: LoadedModel | RedisAIError | None = None  # None: only this client's problem, so the others try again
        try:
            known = self._keys.held(place)
            result = await self.load_read(place, await store.model_with_blob(place.key), known)
            return result
        except (BackendError, Overloaded) as error:
            result = error
            raise
        finally:
            del self._reading[asked]
            for waiter in waiters:
                if isinstance(result, RedisAIError):
                    waiter.fail(result)
                else:
                    waiter.resolve(result)

    @staticmethod
    async def identified(model: Model) -> Model:
        """The model with its identity; a large one is hashed off the event loop."""
        if len(model.blob) < _DIGESTED_HERE:
            return identified(model)
        return await asyncio.get_running_loop().run_in_executor(None, identified, model)

    async def identity(self, place: Place, stored_id: str, store: Store) -> str | None:
        """The identity of the key's content, for its counters; None if this server cannot have counted any.

        A key with an id that was seen elsewhere (renamed or copied) is read once, because the id alone proves nothing.
        """
        identity = self._keys.identity(place, stored_id)
        if identity is None and not self._siblings.alone:
            identity, met = await self._known_to_others(place, stored_id)
        else:
            met = False
        if identity is not None or not (met or self._keys.has_met(stored_id)):
            return identity
        known = self._keys.held(place)
        program: Model | Script
        if place.kind is Kind.SCRIPT:
            program = await store.script(place.key)
        else:
            program = await self.identified(await store.model_with_blob(place.key))
        self.met(place, program, known)
        return program.identity

    async def _known_to_others(self, place: Place, stored_id: str) -> tuple[str | None, bool]:
        """The identity, if another process has read this id under that key; whether one has read it anywhere."""
        what = {"kind": "identity", **_named(place), "id": stored_id}
        replies = [reply for reply in (await self._siblings.ask(what, {})).replies if reply is not None]
        return next((known for known, _ in replies if known), None), any(met for _, met in replies)

    async def load_read(self, place: Place, model: Model, known: Held | None) -> LoadedModel:
        """`load` a model that was just read (see `met`); unload it at once if the key has another one by then."""
        model = await self.identified(model)
        self.met(place, model, known)
        loaded = await self.load(place, model)
        held = self._keys.held(place)
        if held is None:
            self.holds(place, model)  # if the key was deleted meanwhile, the next sweep notices
        elif held.identity != model.identity and self._keys.place_of(model.identity) is None:
            self._unload(place, model.identity, "replaced")
        return loaded

    async def load(self, place: Place, model: Model) -> LoadedModel:
        """`Engine.load`, logged for the first caller. Raises the same errors."""
        loaded = self._engine.loaded(model.identity)
        if loaded is not None or model.identity in self._under_way:
            return loaded or await self._engine.load(model)
        self._under_way.add(model.identity)
        self._keys.announce(model.identity, place)  # lets a failed or slow warm-up be logged with the key
        since = time.monotonic()
        try:
            loaded = await self._engine.load(model)
        except RedisAIError as error:
            self._event_log.load_failed(place, model.backend, model.device.text, error)
            raise
        finally:
            self._under_way.discard(model.identity)
            self._keys.withdraw(model.identity)
        self._event_log.loaded(place, loaded, time.monotonic() - since)
        return loaded

    def holds(self, place: Place, program: Model | Script) -> None:
        """The key now holds this model or script; its old program is freed."""
        backend = program.backend if isinstance(program, Model) else "TORCH"
        before = self._keys.met(place, Held(program.id, program.identity, backend, program.device.text))
        if before is not None:
            self._unload(place, before, "replaced")

    def met(self, place: Place, program: Model | Script, known: Held | None) -> None:
        """This was read from the key. known: the known content of the key when it was requested.

        If another program was stored or read there since, this one may be older, and is ignored.
        """
        if self._keys.held(place) == known:
            self.holds(place, program)

    def gone(self, place: Place, by_sibling: bool = False) -> None:
        """The key was deleted. by_sibling: by another process of this server, so all know."""
        held = self._keys.held(place)
        before = self._keys.forget(place)
        if before is not None:
            self._unload(place, before, "deleted", by_sibling=by_sibling)
        elif held is None and not by_sibling and not self._siblings.alone:
            self._siblings.notify({"kind": "forget", **_named(place), "identity": None, "topic": ""})

    def missed(self, place: Place) -> None:
        """The key is gone or holds something else. It may have been renamed, so counters are kept."""
        before = self._keys.forget(place)
        if before is not None:
            self._unload(place, before, "its key is gone", keep_counters=True)

    def _unload(
        self, place: Place, identity: str, why: str, keep_counters: bool = False, by_sibling: bool = False
    ) -> None:
        if not keep_counters and not by_sibling:
            topic = f"{place.kind.name} {identity}"
            self._siblings.notify({"kind": "forget", **_named(place), "identity": identity, "topic": topic})
        if place.kind is Kind.SCRIPT:
            if not keep_counters:
                self._script_stats.forget(identity)
            return
        was_loaded = self._engine.loaded(identity) is not None
        self._engine.unload(identity, keep_counters)
        if was_loaded:
            self._event_log.unloaded(place, why)
