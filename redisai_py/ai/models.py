"""AI.MODEL*: store, read, delete, list, run."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from redisai_py.blobs import FROM_FILE, Blob, Gathering
from redisai_py.commands import models
from redisai_py.commands.model_runs import CacheUse, ModelExecute
from redisai_py.commands.models import model_reply, scan_reply
from redisai_py.engine.registry import LoadedModel
from redisai_py.errors import INPUT_COUNT_NOT_POSITIVE, MODEL_KEY_EMPTY, CommandError, QueueTimeout
from redisai_py.frontdoor.driver import drive
from redisai_py.model import Kind, Model, named
from redisai_py.ops.keymap import Place
from redisai_py.pending import Pending
from redisai_py.predictions.rule import Rule
from redisai_py.resp.replies import OK, TIMEDOUT
from redisai_py.store.cache import NearCache
from redisai_py.store.store import Store
from redisai_py.tensor import Buffer, Tensor

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection
    from redisai_py.upstream.access import Access

__all__ = ["HANDLERS", "Patience", "check_counts", "keep_near", "load_model", "load_ruled"]


def check_counts(model: Model, inputs: int | None, outputs: int | None) -> None:
    """Raise CommandError unless the numbers of keys are the model's."""
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


async def model_store(request: models.ModelStore, connection: Connection) -> Any:
    """AI.MODELSTORE, AI.MODELSET: load aside first, then publish, so that a bad model never replaces a good one."""
    server = connection.server
    store = (await connection.session.authenticated()).store
    model = Model(
        id=uuid.uuid4().hex,
        backend=request.backend,
        device=request.device,
        tag=request.tag,
        batchsize=request.batchsize,
        minbatchsize=request.minbatchsize,
        minbatchtimeout_ms=request.minbatchtimeout_ms,
        inputs=request.inputs,
        outputs=request.outputs,
        signature=request.signature,
        blob=await _gathered(request.chunks),
    )
    await store.check_store(request.key, model.id)
    place = Place(Kind.MODEL, connection.session.identity.database, request.key)
    model = await server.loading.identified(model)
    loaded = await server.loading.load(place, model)
    model = named(model, loaded.inputs, loaded.outputs)  # as whoever reads it will find it
    server.engine.rename(loaded, model.identity)
    try:
        await store.put_model(request.key, model, server.model_chunk_size)
    except BaseException:
        server.engine.unload(model.identity)
        raise
    server.loading.holds(place, model)
    return OK


async def _gathered(chunks: Sequence[Buffer]) -> Blob:
    """A model's bytes, of which nothing else is left: large pieces are let go of at once, whoever refers to them."""
    gathering = Gathering()
    if sum(map(len, chunks)) < FROM_FILE:
        gathering.add(chunks)
    else:
        await asyncio.get_running_loop().run_in_executor(None, gathering.add, chunks)
    blob = gathering.blob()
    for chunk in chunks:
        if isinstance(chunk, memoryview):
            chunk.release()
    return blob


async def model_get(request: models.ModelGet, connection: Connection) -> Any:
    """AI.MODELGET."""
    store = (await connection.session.authenticated()).store
    whole = request.blob or not request.meta
    model = await (store.model_with_blob(request.key) if whole else store.model(request.key))
    return model_reply(request, model, connection.server.model_chunk_size)


async def model_del(request: models.ModelDel, connection: Connection) -> Any:
    """AI.MODELDEL."""
    store = (await connection.session.authenticated()).store
    await store.delete(request.key, Kind.MODEL, MODEL_KEY_EMPTY)
    connection.server.loading.gone(Place(Kind.MODEL, connection.session.identity.database, request.key))
    return OK


async def model_scan(request: models.ModelScan, connection: Connection) -> Any:
    """AI._MODELSCAN."""
    store = (await connection.session.authenticated()).store
    return scan_reply([entry async for entry in store.scan(Kind.MODEL)])


async def model_execute(request: ModelExecute, connection: Connection) -> Any:
    """AI.MODELEXECUTE, AI.MODELRUN: the model's id and the inputs in one round trip, the run, the outputs in
    another.
    """
    access = await connection.session.authenticated()
    store = access.store
    patience = Patience(request.timeout_ms)
    try:
        loaded, rule, inputs = await _read(request, connection, access, patience)
        if connection.gone:  # while the model was being loaded, say: nobody wants the result
            return OK
        server = connection.server
        if rule is None and request.cache is not CacheUse.ONLY:
            run = server.runs.start(loaded, inputs, patience.left_ms)
        else:
            ruled = server.runs.predictions.ruled(access, request.key, loaded, rule)
            run = server.runs.predictions.start(ruled, inputs, request.cache, patience.left_ms)
        connection.cancel_run = run.cancel_queued
        outputs = await run
    except QueueTimeout:
        return TIMEDOUT
    finally:
        connection.cancel_run = None
    if not connection.gone:
        await store.put_outputs(zip(request.outputs, outputs, strict=True))  # type: ignore[arg-type]  # none kept on a device
    return OK


async def _read(
    request: ModelExecute, connection: Connection, access: Access, patience: Patience
) -> tuple[LoadedModel, Rule | None, list[Tensor]]:
    """The model, its cache rule, and the inputs, in one round trip; kept near."""
    store, near = access.store, access.near
    ids, values_of_inputs = store.model_and_tensors(request.key, request.inputs)
    loaded, rule = await load_ruled(request.key, ids, store, connection, patience)
    check_counts(loaded.model, len(request.inputs), len(request.outputs))
    values = await values_of_inputs()
    inputs = await store.decode_all(request.inputs, values)
    if near is not None:
        near.put_model(request.key, loaded.model.id, loaded.id, rule)
        keep_near(near, request.inputs, values)
    return loaded, rule, inputs


def keep_near(near: NearCache, keys: Sequence[bytes], values: Sequence[Any]) -> None:
    """Keep tensors as they were read; a large one is a view, and would not be kept."""
    for key, value in zip(keys, values, strict=True):
        if type(value) is bytes:
            near.put_read(key, value)


class Patience:
    """TIMEOUT of a command: how long it may wait for its model to be loaded, and then in the queue.

    Time at Redis is not counted: it is not a queue of ours, and a reply that is there is better used.
    """

    __slots__ = ("_timeout_ms", "_waited_s")

    def __init__(self, timeout_ms: int | None) -> None:
        self._timeout_ms = timeout_ms
        self._waited_s = 0.0

    @property
    def left_ms(self) -> int | None:
        """What is left for the queue, None without limit."""
        if self._timeout_ms is None:
            return None
        return max(1, self._timeout_ms - int(self._waited_s * 1000))

    async def wait_for(self, loading: Coroutine[Any, Any, LoadedModel], loop: asyncio.AbstractEventLoop) -> LoadedModel:
        """What `loading` gives; it goes on for others when the time is over. Raises: QueueTimeout; its errors."""
        left_ms = self.left_ms
        if left_ms is None:
            return await loading
        outcome: Pending[LoadedModel] = Pending()
        since = time.monotonic()
        timer = loop.call_later(left_ms / 1000, outcome.fail, QueueTimeout())

        def done(loaded: LoadedModel, error: BaseException | None) -> None:
            if error is None:
                outcome.resolve(loaded)
            else:
                outcome.fail(error)

        drive(loading, done)
        try:
            return await outcome
        finally:
            timer.cancel()
            self._waited_s += time.monotonic() - since


async def load_model(
    key: bytes, ids: Awaitable[Any], store: Store, connection: Connection, patience: Patience | None = None
) -> LoadedModel:
    """`load_ruled` without the rule."""
    return (await load_ruled(key, ids, store, connection, patience))[0]


async def load_ruled(
    key: bytes, ids: Awaitable[Any], store: Store, connection: Connection, patience: Patience | None = None
) -> tuple[LoadedModel, Rule | None]:
    """The loaded model that the key holds now, and its cache rule; loads the model if this server has not read this id
    under this key yet.

    Args:   ids: the coming reply of an HMGET of MODEL_ID_FIELDS.
    Raises: MissingKey, WrongType, BackendError; QueueTimeout: `patience` was over first.
    """
    stored_id, rule = await store.model_id(key, ids)
    place = Place(Kind.MODEL, connection.session.identity.database, key)
    loaded = connection.server.loading.loaded(place, stored_id)
    if loaded is None:
        loading = connection.server.loading.stored(place, stored_id, store)
        loaded = await (patience.wait_for(loading, connection.server.loop) if patience is not None else loading)
    return loaded, rule


HANDLERS: dict[type, Any] = {
    models.ModelStore: model_store,
    models.ModelGet: model_get,
    models.ModelDel: model_del,
    models.ModelScan: model_scan,
    ModelExecute: model_execute,
}
"""Request -> what is done for it."""
