"""The programs (models and scripts) of the keys that this server has seen: logs each load, and frees the old program of
a key.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redisai_py.engine.engine import Engine
from redisai_py.engine.isolation.shared_reads import SharedReads
from redisai_py.engine.run import LoadedModel
from redisai_py.engine.stats import StatsTable
from redisai_py.errors import BackendError, Overloaded, RedisAIError
from redisai_py.model import Kind, Model, Script, described, identified
from redisai_py.ops.keymap import KeyMap, ProgramEntry, ProgramKey
from redisai_py.ops.siblings import ALONE, Siblings
from redisai_py.pending import Pending
from redisai_py.store.store import Store

if TYPE_CHECKING:
    from redisai_py.ops.event_log import EventLog

__all__ = ["Programs"]

_DIGESTED_HERE = 256 * 1024
"""Maximum bytes of a blob that the event loop hashes itself, in 0.2 ms."""


def _named(program_key: ProgramKey) -> dict[str, Any]:
    """For the other processes of this server."""
    return {"of": program_key.kind.name, "database": program_key.database, "key": program_key.key.hex()}


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
        self._reading: dict[tuple[ProgramKey, str], list[Pending[LoadedModel | None]]] = {}

    def loaded(self, program_key: ProgramKey, stored_id: str) -> LoadedModel | None:
        """The loaded model of a key that has this id now; None if it must be read and loaded."""
        identity = self._keys.identity(program_key, stored_id)
        return None if identity is None else self._engine.loaded(identity)

    async def load_stored(self, program_key: ProgramKey, stored_id: str, store: Store) -> LoadedModel:
        """The loaded model of a key that had this id a moment ago: reads and loads its current content.

        Concurrent callers wait for the same load. After a restart, for example, many clients request a popular model at
        once, and each copy of its blob would cost Redis's time and our memory.
        Raises: MissingKey, WrongType, BackendError, Overloaded, UpstreamError.
        """
        asked = (program_key, stored_id)
        while (waiters := self._reading.get(asked)) is not None:
            waiter: Pending[LoadedModel | None] = Pending()
            waiters.append(waiter)
            loaded = await waiter
            if loaded is not None:
                return loaded
        waiters = self._reading[asked] = []
        result: LoadedModel | RedisAIError | None = None  # None: only this client's problem, so the others try again
        try:
            result = await self._read_and_load(program_key, stored_id, store)
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

    async def _read_and_load(self, program_key: ProgramKey, stored_id: str, store: Store) -> LoadedModel:
        known = self._keys.get(program_key)
        reads = self._engine.shared_reads
        if reads is None:
            return await self.load_read(program_key, await store.model_with_blob(program_key.key), known)
        async with reads.claimed(json.dumps([_named(program_key), stored_id])):
            model = await self._read_by_another(program_key, stored_id, store, reads)
            if model is None:
                model = await store.model_with_blob(program_key.key)
            return await self.load_read(program_key, model, known)

    async def _read_by_another(
        self, program_key: ProgramKey, stored_id: str, store: Store, reads: SharedReads
    ) -> Model | None:
        """The key's model, if another front door has loaded it with this id: its description from Redis, its bytes from
        the file that the other one read.
        """
        try:
            identity, sha256, _ = await self._known_to_others(program_key, stored_id)
        except RedisAIError:
            return None
        if identity is None or not sha256:
            return None
        model = described(await store.model(program_key.key), sha256)
        if model.identity != identity:  # it has been replaced meanwhile
            return None
        file = await reads.file_of(identity)
        return None if file is None else replace(model, blob=file)

    @staticmethod
    async def identified(model: Model) -> Model:
        """The model with its identity; a large one is hashed off the event loop."""
        if model.sha256:  # it is known from another front door
            return model
        if len(model.blob) < _DIGESTED_HERE:
            return identified(model)
        return await asyncio.get_running_loop().run_in_executor(None, identified, model)

    async def identity(self, program_key: ProgramKey, stored_id: str, store: Store) -> str | None:
        """The identity of the key's content, for its counters; None if this server cannot have counted any.

        A key with an id that was seen elsewhere (renamed or copied) is read once, because the id alone proves nothing.
        """
        identity = self._keys.identity(program_key, stored_id)
        if identity is None and not self._siblings.alone:
            identity, _, seen = await self._known_to_others(program_key, stored_id)
        else:
            seen = False
        if identity is not None or not (seen or self._keys.has_seen(stored_id)):
            return identity
        known = self._keys.get(program_key)
        program: Model | Script
        if program_key.kind is Kind.SCRIPT:
            program = await store.script(program_key.key)
        else:
            program = await self.identified(await store.model_with_blob(program_key.key))
        self.record_read(program_key, program, known)
        return program.identity

    async def _known_to_others(self, program_key: ProgramKey, stored_id: str) -> tuple[str | None, str, bool]:
        """The identity, if another process has read this id under that key; the digest of the blob, if it is a model
        that is loaded there; whether a process has read this id anywhere.
        """
        what = {"kind": "identity", **_named(program_key), "id": stored_id}
        replies = [reply for reply in (await self._siblings.ask(what, {})).replies if reply is not None]
        identity = next((known for known, _, _ in replies if known), None)
        sha256 = next((digest for known, digest, _ in replies if known and digest), "")
        return identity, sha256, any(seen for _, _, seen in replies)

    async def load_read(self, program_key: ProgramKey, model: Model, known: ProgramEntry | None) -> LoadedModel:
        """`load` a model that was just read (see `record_read`); unload it if the key has another one by then."""
        model = await self.identified(model)
        self.record_read(program_key, model, known)
        loaded = await self.load(program_key, model)
        entry = self._keys.get(program_key)
        if entry is None:
            self.record(program_key, model)  # if the key was deleted meanwhile, the next sweep notices
        elif entry.identity != model.identity and self._keys.key_of(model.identity) is None:
            self._unload(program_key, model.identity, "replaced")
        return loaded

    async def load(self, program_key: ProgramKey, model: Model) -> LoadedModel:
        """`Engine.load`, logged for the first caller. Raises the same errors."""
        loaded = self._engine.loaded(model.identity)
        if loaded is not None or model.identity in self._under_way:
            return loaded or await self._engine.load(model)
        self._under_way.add(model.identity)
        self._keys.announce(model.identity, program_key)  # lets a failed or slow warm-up be logged with the key
        since = time.monotonic()
        try:
            loaded = await self._engine.load(model)
        except RedisAIError as error:
            self._event_log.load_failed(program_key, model.backend, model.device.text, error)
            raise
        finally:
            self._under_way.discard(model.identity)
            self._keys.withdraw(model.identity)
        self._event_log.loaded(program_key, loaded, time.monotonic() - since)
        return loaded

    def record(self, program_key: ProgramKey, program: Model | Script) -> None:
        """The key now holds this model or script; its old program is freed."""
        backend = program.backend if isinstance(program, Model) else "TORCH"
        before = self._keys.put(program_key, ProgramEntry(program.id, program.identity, backend, program.device.text))
        if before is not None:
            self._unload(program_key, before, "replaced")

    def record_read(self, program_key: ProgramKey, program: Model | Script, known: ProgramEntry | None) -> None:
        """This was read from the key. known: the known content of the key when it was requested.

        If another program was stored or read there since, this one may be older, and is ignored.
        """
        if self._keys.get(program_key) == known:
            self.record(program_key, program)

    def record_deleted(self, program_key: ProgramKey, by_sibling: bool = False) -> None:
        """The key was deleted. by_sibling: by another process of this server, so all know."""
        entry = self._keys.get(program_key)
        before = self._keys.forget(program_key)
        if before is not None:
            self._unload(program_key, before, "deleted", by_sibling=by_sibling)
        elif entry is None and not by_sibling and not self._siblings.alone:
            self._siblings.notify({"kind": "forget", **_named(program_key), "identity": None, "topic": ""})

    def record_missing(self, program_key: ProgramKey) -> None:
        """The key is gone or holds something else. It may have been renamed, so counters are kept."""
        before = self._keys.forget(program_key)
        if before is not None:
            self._unload(program_key, before, "its key is gone", keep_counters=True)

    def _unload(
        self, program_key: ProgramKey, identity: str, why: str, keep_counters: bool = False, by_sibling: bool = False
    ) -> None:
        if not keep_counters and not by_sibling:
            topic = f"{program_key.kind.name} {identity}"
            self._siblings.notify({"kind": "forget", **_named(program_key), "identity": identity, "topic": topic})
        if program_key.kind is Kind.SCRIPT:
            if not keep_counters:
                self._script_stats.forget(identity)
            return
        was_loaded = self._engine.loaded(identity) is not None
        self._engine.unload(identity, keep_counters)
        if was_loaded:
            self._event_log.unloaded(program_key, why)
