"""The loaded model of a key, how long a command waits for it, and the cached values that a run needs.

`resolve` asks Redis and loads the model if necessary; `resolve_near` answers immediately from cached values, or not at
all. There is no third way from a key to a model, so versions, aliases and canaries belong here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.engine.run import LoadedModel
from redisai_py.errors import INPUT_COUNT_NOT_POSITIVE, CommandError, QueueTimeout
from redisai_py.frontdoor.eager_task import run_eagerly
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind, Model
from redisai_py.ops.keymap import ProgramKey
from redisai_py.pending import Pending
from redisai_py.predictions.rule import Rule
from redisai_py.store.cache import Entry, NearCache
from redisai_py.store.store import Store
from redisai_py.store.writer import Used
from redisai_py.tensor import Tensor

__all__ = [
    "Timeout",
    "bypasses_cache",
    "check_counts",
    "keep_near",
    "near_run",
    "near_tensors",
    "resolve",
    "resolve_near",
]

_ONLY = CacheUse.ONLY
_SHORT_S = 0.002
"""Models with longer runs read their inputs from Redis first."""


def check_counts(model: Model, inputs: int | None, outputs: int | None) -> None:
    """Raise CommandError unless the numbers of keys match the model."""
    for word, given, names in (("INPUTS", inputs, model.inputs), ("OUTPUTS", outputs, model.outputs)):
        if given is None or given == len(names):
            continue
        if not given and word == "INPUTS":
            raise CommandError(INPUT_COUNT_NOT_POSITIVE)
        known = f" ({', '.join(names)})" if any(names) else ""
        raise CommandError(
            f"Number of keys given as {word} here does not match model definition: "
            f"{given} given, {len(names)} expected{known}"
        )


def keep_near(near: NearCache, keys: Sequence[bytes], values: Sequence[Any]) -> None:
    """Cache tensors that were read; a large one is a view, and is not cached."""
    for key, value in zip(keys, values, strict=True):
        if type(value) is bytes:
            near.put_read(key, value)


class Timeout:
    """TIMEOUT of a command: limits its wait for the model to load, and then its time in the queue.

    Time at Redis does not count: it is not our queue, and a reply that has come is better used.
    """

    __slots__ = ("_timeout_ms", "_waited_s")

    def __init__(self, timeout_ms: int | None) -> None:
        self._timeout_ms = timeout_ms
        self._waited_s = 0.0

    @property
    def left_ms(self) -> int | None:
        """Remaining time for the queue in milliseconds, None without limit."""
        if self._timeout_ms is None:
            return None
        return max(1, self._timeout_ms - int(self._waited_s * 1000))

    async def wait_for(self, loading: Coroutine[Any, Any, LoadedModel], loop: asyncio.AbstractEventLoop) -> LoadedModel:
        """Wait for `loading`, which continues for others if the time is over. Raises: QueueTimeout; its errors."""
        left_ms = self.left_ms
        if left_ms is None:
            return await loading
        outcome: Pending[LoadedModel] = Pending()
        since = time.monotonic()
        timer = loop.call_later(left_ms / 1000, outcome.fail, QueueTimeout())
        run_eagerly(loading, outcome.settle)
        try:
            return await outcome
        finally:
            timer.cancel()
            self._waited_s += time.monotonic() - since


def resolve_near(turn: Turn, near: NearCache, request: ModelExecute, used: Used) -> LoadedModel | None:
    """The model, if its id is cached, it is loaded, fits the request, and runs quickly without waiting; adds it to
    `used`.
    """
    entry = near.entries.get(request.key)
    if entry is None or entry.identity is None:
        return None
    loaded = turn.services.engine.loaded(entry.identity)
    if loaded is None or not 0 < loaded.stats.short_run_s < _SHORT_S or loaded.model.minbatchsize > 1:
        return None
    if loaded.arity != (len(request.inputs), len(request.outputs)):
        return None
    used.append((request.key, entry))
    return loaded


def near_tensors(near: NearCache, keys: Sequence[bytes], used: Used) -> list[Tensor] | None:
    """The tensors, if all are cached; adds them to `used`."""
    entries = near.entries
    tensors: list[Tensor] = []
    for key in keys:
        entry = entries.get(key)
        if entry is None or (tensor := entry.kept or entry.tensor()) is None:
            return None
        used.append((key, entry))
        tensors.append(tensor)
    return tensors


def near_run(turn: Turn, near: NearCache, request: ModelExecute, used: Used) -> tuple[LoadedModel, list[Tensor]] | None:
    """The model and the inputs of a run, if all are cached; adds them to `used`."""
    loaded = resolve_near(turn, near, request, used)
    if loaded is None:
        return None
    inputs = near_tensors(near, request.inputs, used)
    return (loaded, inputs) if inputs is not None else None


async def resolve(
    key: bytes, ids: Awaitable[Any], store: Store, turn: Turn, timeout: Timeout | None = None
) -> tuple[LoadedModel, Rule | None]:
    """The key's current model, loaded, and its cache rule; loads it if this server has not read this id under this key.

    Args:   ids: the pending reply of an HMGET of MODEL_ID_FIELDS.
    Raises: MissingKey, WrongType, BackendError; QueueTimeout: `timeout` ended first.
    """
    stored_id, rule = await store.model_id(key, ids)
    services = turn.services
    program_key = ProgramKey(Kind.MODEL, turn.session.identity.database, key)
    loaded = services.programs.loaded(program_key, stored_id)
    if loaded is None:
        loading = services.programs.load_stored(program_key, stored_id, store)
        loaded = await (timeout.wait_for(loading, services.loop) if timeout is not None else loading)
    return loaded, rule


def bypasses_cache(turn: Turn, request: ModelExecute, model: Entry, loaded: LoadedModel) -> bool:
    """Whether a run does not involve the prediction cache.   model: its entry in the near cache."""
    if model.rule is None:
        return request.cache is not _ONLY
    if request.cache is not CacheUse.RULE:
        return request.cache is CacheUse.NO
    database = turn.session.identity.database
    return turn.services.predictions.bypasses(database, request.key, loaded, model.rule)
