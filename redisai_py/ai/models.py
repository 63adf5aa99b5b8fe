"""AI.MODELSTORE, AI.MODELGET, AI.MODELDEL and AI._MODELSCAN, inside MULTI too."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from redisai_py.ai.multi import InMulti, checked, deletion
from redisai_py.ai.prediction_cache.warming import warm_new_version
from redisai_py.blobs import FROM_FILE, Blob, Gathering
from redisai_py.commands import models
from redisai_py.commands.models import model_reply, scan_reply
from redisai_py.errors import MODEL_KEY_EMPTY, MissingKey, WrongType
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind, Model, named
from redisai_py.ops.keymap import ProgramKey
from redisai_py.resp.replies import OK
from redisai_py.store import codec
from redisai_py.tensor import Buffer

__all__ = ["HANDLERS", "IN_MULTI"]


async def model_store(request: models.ModelStore, turn: Turn) -> Any:
    """AI.MODELSTORE, AI.MODELSET: load first, then publish, so that a bad model never replaces a good one."""
    services = turn.services
    access = await turn.session.authenticated()
    store = access.store
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
    program_key = ProgramKey(Kind.MODEL, turn.session.identity.database, request.key)
    model = await services.programs.identified(model)
    loaded = await services.programs.load(program_key, model)
    model = named(model, loaded.inputs, loaded.outputs)  # in the form in which readers will find it
    try:
        await services.engine.rename(loaded, model.identity)
        await warm_new_version(services.predictions, access, request.key, loaded)
        await store.put_model(request.key, model, services.settings.model_chunk_size)
    except BaseException:
        services.engine.unload(model.identity)
        raise
    services.programs.record(program_key, model)
    return OK


async def _gathered(chunks: Sequence[Buffer]) -> Blob:
    """Gather a model's bytes without a second copy: large pieces are freed immediately, whatever refers to them."""
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


async def model_get(request: models.ModelGet, turn: Turn) -> Any:
    """AI.MODELGET."""
    store = (await turn.session.authenticated()).store
    whole = request.blob or not request.meta
    model = await (store.model_with_blob(request.key) if whole else store.model(request.key))
    return model_reply(request, model, turn.services.settings.model_chunk_size)


async def model_del(request: models.ModelDel, turn: Turn) -> Any:
    """AI.MODELDEL."""
    store = (await turn.session.authenticated()).store
    await store.delete(request.key, Kind.MODEL, MODEL_KEY_EMPTY)
    turn.services.programs.record_deleted(ProgramKey(Kind.MODEL, turn.session.identity.database, request.key))
    return OK


async def model_scan(request: models.ModelScan, turn: Turn) -> Any:
    """AI._MODELSCAN."""
    store = (await turn.session.authenticated()).store
    return scan_reply([entry async for entry in store.scan(Kind.MODEL)])


def _model_get(request: models.ModelGet, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        kind, flat = replies[0], checked(replies[1])
        if kind == b"none":
            raise MissingKey(MODEL_KEY_EMPTY)
        fields = dict(flat) if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        model, chunks = codec.decode_model([fields.get(name) for name in codec.MODEL_META_FIELDS])
        try:
            blob = b"".join(fields[b"blob:%d" % i] for i in range(chunks))
        except KeyError:
            raise WrongType from None
        return model_reply(request, codec.with_blob(model, blob), turn.services.settings.model_chunk_size)

    return [[b"TYPE", request.key], [b"HGETALL", request.key]], finish


HANDLERS: dict[type, Any] = {
    models.ModelStore: model_store,
    models.ModelGet: model_get,
    models.ModelDel: model_del,
    models.ModelScan: model_scan,
}
"""Request -> its handler."""

IN_MULTI: dict[type, Any] = {
    models.ModelGet: _model_get,
    models.ModelDel: deletion(Kind.MODEL, MODEL_KEY_EMPTY),
}
"""Request -> the plain commands that stand for it in a transaction."""
