"""AI.INFO and AI.CONFIG."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from redisai_py.ai.multi import InMulti, checked
from redisai_py.backend import TensorSpec
from redisai_py.commands import admin
from redisai_py.commands._args import text_name
from redisai_py.commands.admin import RunInfo, info_reply
from redisai_py.engine.stats import RunStats
from redisai_py.errors import NO_RUN_INFO, BackendError, CommandError, MissingKey, NotPermitted, WrongType
from redisai_py.frontdoor.services import Services
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind
from redisai_py.ops.keymap import Place
from redisai_py.resp.redis_errors import redis_error
from redisai_py.resp.replies import OK
from redisai_py.store.codec import decode_id
from redisai_py.tensor import DType

__all__ = ["HANDLERS", "IN_MULTI"]

INFO_FIELDS = (b"kind", b"id", b"backend", b"device", b"tag")
_KINDS = frozenset(kind.value for kind in Kind)
"""The fields of a key's hash that AI.INFO reads."""
NEEDS_CONFIG = (b"CONFIG", b"SET", b"redisai-py-asks-for-the-right-only", b"")
"""The Redis command that a client must be allowed to run before it may change a setting here. Redis checks the right
first; then it does not know the setting, and changes nothing.
"""

logger = structlog.get_logger()


async def info(request: admin.Info, turn: Turn) -> Any:
    """AI.INFO: the counters of the current model or script; of this process only, as RedisAI's are of each node."""
    access = await turn.session.authenticated()
    (pending,) = access.pipeline([(b"HMGET", request.key, *INFO_FIELDS)])
    try:
        fields = await pending
    except WrongType as error:
        raise MissingKey(NO_RUN_INFO) from error
    place, stored_id = _counted(request, fields, turn)
    try:
        identity = await turn.services.programs.identity(place, stored_id, access.store)
    except (MissingKey, WrongType):  # replaced just now, or an incomplete model
        identity = None
    return _report(request, fields, place, identity, turn.services)


def info_report(request: admin.Info, fields: Sequence[bytes | None], turn: Turn) -> Any:
    """The reply, from the values of INFO_FIELDS alone. Raises MissingKey if they belong to no model or script."""
    place, stored_id = _counted(request, fields, turn)
    identity = turn.services.keys.identity(place, stored_id)
    return _report(request, fields, place, identity, turn.services)


def _counted(request: admin.Info, fields: Sequence[bytes | None], turn: Turn) -> tuple[Place, str]:
    """The model or script's database and key, and its id. Raises MissingKey: it is neither."""
    kind, stored_id = fields[:2]
    if kind not in _KINDS:
        raise MissingKey(NO_RUN_INFO)
    place = Place(Kind(kind), turn.session.identity.database, request.key)
    try:
        return place, decode_id(stored_id)
    except WrongType:
        raise MissingKey(NO_RUN_INFO) from None


def _report(
    request: admin.Info, fields: Sequence[bytes | None], place: Place, identity: str | None, services: Services
) -> Any:
    backend, device, tag = fields[2:]
    is_model = place.kind is Kind.MODEL
    run_id = identity or ""  # no counters exist for the empty id
    if request.reset:
        if is_model:
            services.engine.reset_stats(run_id)
        else:
            services.script_stats.reset(run_id)
        return OK
    stats = services.engine.stats(run_id) if is_model else services.script_stats.snapshot(run_id)
    report = RunInfo(
        key=request.key,
        kind=place.kind,
        backend=(backend or b"").decode("utf-8", "surrogateescape") if is_model else "TORCH",
        device=(device or b"").decode("utf-8", "surrogateescape"),
        tag=tag or b"",
        duration_us=stats.duration_us,
        samples=stats.samples if is_model else -1,
        calls=stats.calls,
        errors=stats.errors,
        more=_more(run_id, services, stats, is_model) if request.full else {},
    )
    return info_reply(report, request.full)


def _more(run_id: str, services: Services, stats: RunStats, is_model: bool) -> dict[bytes, Any]:
    return {**_memory(run_id, services), **_details(stats), **(_model(run_id, services) if is_model else {})}


def _memory(model_id: str, services: Services) -> dict[bytes, Any]:
    """Whether this process has loaded the model, its size, and its queued or running runs; zeros for a script."""
    loaded = services.engine.look_at(model_id)
    if loaded is None:
        return {b"loaded": 0, b"loaded_bytes": 0, b"unfinished": 0}
    return {b"loaded": 1, b"loaded_bytes": loaded.nbytes, b"unfinished": loaded.unfinished}


def _model(model_id: str, services: Services) -> dict[bytes, Any]:
    """A loaded model's tensors, how its runs are merged, and its engine process; empty if it is not loaded. Also why it
    is in quarantine.
    """
    model = services.engine.look_at(model_id)
    return {
        b"inputs": [] if model is None else [_tensor(spec) for spec in model.input_specs],
        b"outputs": [] if model is None else [_tensor(spec) for spec in model.output_specs],
        b"stateful": int(model is not None and model.stateful),
        b"merged_kinds": 0 if model is None else model.merged_kinds,
        b"not_merged": b"" if model is None else model.not_merged.encode(),
        b"process": 0 if model is None else model.process,
        b"quarantine": services.engine.quarantine(model_id).encode(),
    }


def _tensor(spec: TensorSpec) -> list[Any]:
    """Name, dtype and dimensions; -1 for a dynamic dimension, null for what the model does not declare."""
    dtype = None if spec.dtype is None else DType.from_numpy(spec.dtype)
    kind = dtype.wire_name if dtype is not None else spec.says.encode() or None
    shape = None if spec.shape is None else [-1 if dim is None else dim for dim in spec.shape]
    return [text_name(spec.name), kind, shape]


def _details(stats: RunStats) -> dict[bytes, Any]:
    """Times in microseconds, batch sizes in rows as pairs (rows, executions)."""
    fields: dict[bytes, Any] = {b"loads": stats.loads, b"batches": stats.batches}
    for name, distribution in ((b"queue_time", stats.queue_time), (b"run_time", stats.run_time)):
        for quantile in ("p50", "p95", "p99"):
            fields[b"%b_%b_us" % (name, quantile.encode())] = round(getattr(distribution, f"{quantile}_us"))
    fields[b"batch_rows"] = [item for pair in sorted(stats.batch_rows.items()) for item in pair]
    fields[b"last_error"] = stats.last_error.encode()
    return fields


async def config_get(request: admin.ConfigGet, turn: Turn) -> Any:
    """AI.CONFIG GET."""
    await turn.session.authenticated()
    return setting(request.name, turn.services)


def setting(name: str, services: Services) -> Any:
    """The two settings that RedisAI returns; null for any other."""
    if name == "MODEL_CHUNK_SIZE":
        return services.settings.model_chunk_size
    # A path's bytes need not be UTF-8; they are returned unchanged.
    return services.settings.backends_path.encode("utf-8", "surrogateescape") if name == "BACKENDSPATH" else None


async def config_set(request: admin.ConfigSet, turn: Turn) -> Any:
    """AI.CONFIG MODEL_CHUNK_SIZE, BACKENDSPATH: for this process, until it ends; requires the right to CONFIG SET."""
    await _need_config(turn)
    return change_setting(request, turn.services)


def change_setting(request: admin.ConfigSet, services: Services) -> Any:
    """Change a setting and log it."""
    if request.name == "MODEL_CHUNK_SIZE":
        services.settings.model_chunk_size = int(request.value)
    else:
        services.settings.backends_path = str(request.value)
    logger.info("setting changed", name=request.name, value=request.value)
    return OK


async def load_backend_command(request: admin.LoadBackend, turn: Turn) -> Any:
    """AI.CONFIG LOADBACKEND: import an installed plugin now, off the event loop; the path is ignored.

    The reply is RedisAI's short text; the log has the reason of a failure.
    """
    await _need_config(turn)
    failed = CommandError("ERR error loading backend")
    engine = turn.services.engine
    if request.backend in engine.backend_versions():
        raise failed
    try:
        version = await asyncio.get_running_loop().run_in_executor(None, engine.import_backend, request.backend)
    except BackendError as error:
        logger.warning("backend not loaded", backend=request.backend, error=str(error))
        raise failed from error
    logger.info("backend loaded", backend=request.backend, version=version)
    return OK


async def _need_config(turn: Turn) -> None:
    await turn.session.authenticated()
    (raw,) = await turn.session.capture([list(NEEDS_CONFIG)])
    check_config_right(raw[1:].decode("utf-8", "replace").strip())


def check_config_right(error: str) -> None:
    """Raise Redis's NOPERM unless the client may run CONFIG SET.

    Args: error: Redis's reply to NEEDS_CONFIG. A Redis without CONFIG is no reason to refuse.
    """
    refusal = redis_error(error)
    if isinstance(refusal, NotPermitted):
        raise refusal


def _info_in_multi(request: admin.Info, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        try:
            fields = checked(replies[0])
        except WrongType:
            raise MissingKey(NO_RUN_INFO) from None
        return info_report(request, fields, turn)

    return [[b"HMGET", request.key, *INFO_FIELDS]], finish


def _config_get_in_multi(request: admin.ConfigGet, turn: Turn) -> InMulti:
    return [], lambda replies: setting(request.name, turn.services)


def _config_set_in_multi(request: admin.ConfigSet, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        check_config_right(str(replies[0]))
        return change_setting(request, turn.services)

    return [list(NEEDS_CONFIG)], finish


HANDLERS: dict[type, Any] = {
    admin.Info: info,
    admin.ConfigGet: config_get,
    admin.ConfigSet: config_set,
    admin.LoadBackend: load_backend_command,
}
"""Request -> its handler."""

IN_MULTI: dict[type, Any] = {
    admin.Info: _info_in_multi,
    admin.ConfigGet: _config_get_in_multi,
    admin.ConfigSet: _config_set_in_multi,
}
"""Request -> the plain commands that stand for it in a transaction."""
